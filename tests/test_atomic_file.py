"""Files that appear whole or not at all, whatever stops the process that writes them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from qwen35_gguf import atomic_file
from qwen35_gguf.errors import OutputError

pytestmark = pytest.mark.unit

WRITER = """
import signal, sys, time
from pathlib import Path
from qwen35_gguf.atomic_file import atomic_file
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background of a shell
with atomic_file(Path(sys.argv[1])) as file:
    file.write(b"half")
    file.flush()
    print("begun", flush=True)
    time.sleep(60)
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.json"
    with atomic_file.atomic_file(path) as file:
        file.write(b"one")
        assert names(path.parent) == ["a.json.part"]
    assert path.read_bytes() == b"one"
    atomic_file.write_text(path, "zwei ä")
    assert path.read_text(encoding="utf-8") == "zwei ä"
    assert names(path.parent) == ["a.json"]


def test_an_existing_file_is_refused_or_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("old")
    with pytest.raises(OutputError, match="a: exists already; use --force"), atomic_file.pending_file(path):
        pass
    with pytest.raises(OutputError, match="exists already"):
        atomic_file.write_text(path, "new", force=False)
    assert path.read_text() == "old"
    atomic_file.write_text(path, "new")
    assert path.read_text() == "new"
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_nothing_is_left_after_an_error(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a"
    path.write_text("old")

    def write() -> None:
        with atomic_file.atomic_file(path) as file:
            file.write(b"new")
            raise error

    with pytest.raises(error):
        write()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a"]


def test_several_files_appear_together(tmp_path: Path) -> None:
    def write(*, fail: bool) -> None:
        with atomic_file.pending_file(tmp_path / "a") as one, atomic_file.pending_file(tmp_path / "b") as two:
            one.file.write(b"a")
            one.finish()
            if fail:
                raise RuntimeError
            two.finish()
            one.publish()
            two.publish()

    with pytest.raises(RuntimeError):
        write(fail=True)
    assert names(tmp_path) == []
    write(fail=False)
    assert names(tmp_path) == ["a", "b"]


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_process_leaves_no_final_file(tmp_path: Path, stop: signal.Signals) -> None:
    path = tmp_path / "a"
    command = [sys.executable, "-c", WRITER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        with pytest.raises(OutputError, match=r"a\.part: another process is writing it"):
            atomic_file.write_text(path, "mine")
        process.send_signal(stop)
    assert names(tmp_path) == (["a.part"] if stop == signal.SIGKILL else [])
    atomic_file.write_text(path, "mine")
    assert path.read_text() == "mine"
    assert names(tmp_path) == ["a"]


def test_processes_that_wait_write_one_after_the_other(tmp_path: Path) -> None:
    """The last one wins; no file is ever a mixture, empty, or refused."""
    path = tmp_path / "a"
    problems = []

    def write(letter: str) -> None:
        try:
            for _ in range(50):
                with atomic_file.atomic_file(path, wait=True) as file:
                    file.write(letter.encode() * 10_000)
                found = path.read_bytes()
                if len(found) != 10_000 or len(set(found)) != 1:
                    problems.append(found[:10])
        except OutputError as error:
            problems.append(error)

    threads = [threading.Thread(target=write, args=(letter,)) for letter in "xyz"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert names(tmp_path) == ["a"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows takes no locks")
@pytest.mark.parametrize("number", atomic_file.WITHOUT_LOCKS)
def test_a_file_system_without_locks_is_written(tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Lustre without `-o flock`, and NFS whose server of locks does not run."""

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", refuse)
    for text in ("one", "two"):
        atomic_file.write_text(tmp_path / "a", text)
        with atomic_file.reserved(tmp_path / "b"):
            assert (tmp_path / "a").read_text() == text
    assert names(tmp_path) == ["a"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("size", [10, 1 << 20])
def test_a_full_disk_is_one_line(tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    full = os.fdopen(os.open("/dev/full", os.O_RDWR), "r+b", buffering=0)
    monkeypatch.setattr(atomic_file, "_open_locked", lambda *_, **__: full)
    with (
        pytest.raises(OutputError, match="a: disk full; make room"),
        atomic_file.atomic_file(tmp_path / "a") as file,
    ):
        file.write(b"x" * size)
    assert names(tmp_path) == []


@pytest.mark.skipif(os.name != "posix", reason="needs links")
@pytest.mark.parametrize("target", ["outside", "nowhere", "a.part", "/dev/null"])
def test_a_link_in_place_of_the_temporary_file_is_not_followed(tmp_path: Path, target: str) -> None:
    """In a folder that others may write to, it would let them choose what is emptied."""
    (tmp_path / "outside").write_text("mine")
    (tmp_path / "a.part").symlink_to(target)
    with pytest.raises(OutputError, match=r"a\.part: is a link, where a temporary file is written; remove it"):
        atomic_file.write_text(tmp_path / "a", "x")
    assert (tmp_path / "outside").read_text() == "mine"
    assert names(tmp_path) == ["a.part", "outside"]


def test_what_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written") as caught:
        atomic_file.write_text(tmp_path / "file" / "a", "x")
    assert "\n" not in str(caught.value)
    with pytest.raises(OutputError, match=r"GB are free; make room"):
        atomic_file.check_space(tmp_path, 1 << 60)


@pytest.mark.skipif(os.name != "posix", reason="needs permissions")
def test_permissions_and_devices(tmp_path: Path) -> None:
    with atomic_file.atomic_file(tmp_path / "a", mode=0o600) as file:
        file.write(b"secret")
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600
    atomic_file.write_text(Path("/dev/null"), "x")
    assert not Path("/dev/null.part").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pipes in folders")
@pytest.mark.parametrize("way", ["atomic", "pending", "move"])
def test_a_pipe_gets_the_bytes_and_stays(tmp_path: Path, way: str) -> None:
    pipe, link, got = tmp_path / "pipe", tmp_path / "link", []
    os.mkfifo(pipe)
    link.symlink_to(pipe)  # as /dev/stdout is one
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    if way == "atomic":
        with atomic_file.atomic_file(link) as file:
            file.write(b"abc")
    elif way == "move":
        (tmp_path / "part").write_bytes(b"abc")
        atomic_file.move(tmp_path / "part", link)
    else:
        with atomic_file.pending_file(link) as pending:
            pending.file.write(b"xbc")
            pending.file.seek(0)
            pending.file.write(b"a")
            pending.finish()
            pending.publish()
    reader.join()
    assert got == [b"abc"]
    assert pipe.is_fifo()
    assert link.is_symlink()
    assert names(tmp_path) == ["link", "pipe"]


def test_a_name_that_is_too_long_is_an_output_error(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 300)
    for begin in (atomic_file.atomic_file, atomic_file.pending_file):
        with pytest.raises(OutputError, match="cannot be written"), begin(path):
            pytest.fail("began")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no sockets in folders")
def test_a_socket_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # addresses have up to 108 bytes
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("socket")
        with pytest.raises(OutputError, match="is a disk or a socket"):
            atomic_file.write_text(tmp_path / "socket", "x")
    assert (tmp_path / "socket").is_socket()
