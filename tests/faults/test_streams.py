"""stdin, stdout and stderr that are closed or take nothing: an exit code, no traceback, and whole files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from oracles.paths import TINY
from qwen35_gguf.convert import hf_to_gguf

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="closes streams by a POSIX shell")
FULL = pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hf_to_gguf.convert(TINY, "Q8_0", tmp_path_factory.mktemp("model"), vision=False)[0]


def called(redirected: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Call the command line with streams that a shell redirects."""
    command = [sys.executable, "-m", "qwen35_gguf", *map(str, arguments)]
    return subprocess.run(
        ["sh", "-c", f'exec "$@" {redirected}', "sh", *command],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("redirected", [">&-", "2>&-", "<&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_as_good_as_the_null_device(model: Path, redirected: str) -> None:
    done = called(redirected, "inspect", model)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("redirected", [">&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_nothing_is_printed_into_the_files_that_are_opened_instead(
    model: Path, tmp_path: Path, redirected: str
) -> None:
    done = called(redirected, "convert", TINY, "-q", "Q8_0", "-o", tmp_path, "--no-vision")
    assert done.returncode == 0
    (made,) = tmp_path.glob("*.gguf")
    assert made.read_bytes() == model.read_bytes()


@pytest.mark.parametrize("redirected", ["<&-", ">&-", "<&- >&-", "<&- 2>&-"])
def test_a_chat_without_somebody_who_writes_ends(model: Path, redirected: str) -> None:
    done = called(redirected, "chat", model, "--ctx", "256")
    assert done.returncode == 0
    assert "Traceback" not in done.stderr


@FULL
@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["inspect"], ["plan"], ["run", "--tokens", "4"]])
def test_a_result_that_cannot_be_written_is_one_line(model: Path, arguments: list[str]) -> None:
    verb, *more = arguments
    given = [] if verb.startswith("-") else [model, *(["hello"] if verb == "run" else [])]
    done = called(">/dev/full", verb, *given, *more)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("Error: No space left on device; check where the output goes")


@FULL
@pytest.mark.parametrize("arguments", [["inspect", "nowhere.gguf"], ["inspect", "--unknown"], ["unknown"]])
def test_an_error_that_cannot_be_written_leaves_its_exit_code(arguments: list[str]) -> None:
    assert called("2>/dev/full", *arguments).returncode == 2
