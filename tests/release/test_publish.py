"""Uploads by huggingface_hub to a stand-in for the Hub: what arrives, what resumes, and what is refused."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

import sdist
from oracles.hub.uploads import NAME, TOKEN, Hub, serve
from oracles.paths import TINY
from qwen35_gguf.cli import main
from qwen35_gguf.release import checksums

# huggingface_hub waits up to half a minute between its attempts, which is not what is tested here.
IMPATIENT = """
import sys, time
wait = time.sleep
time.sleep = lambda seconds: wait(min(seconds, 0.01))
from qwen35_gguf.cli import main
sys.argv[0] = "qwen35"
main()
"""

Publish = Callable[..., subprocess.CompletedProcess[str]]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release; treat it as read-only."""
    folder = tmp_path_factory.mktemp("publish") / "release"
    made = run("package", TINY, "-o", folder, "--quants", "Q4_K_M,Q8_0", "--no-measure", "--base-model", "a/b")
    assert made.exit_code == 0, made.output
    return folder


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serve() as server:
        yield server


@pytest.fixture(
    scope="module",
    params=[
        "the installed version",
        pytest.param("0.30.0", marks=pytest.mark.slow),
        pytest.param("1.0.0", marks=pytest.mark.slow),
    ],
)
def packages(request: pytest.FixtureRequest) -> str:
    """A folder with a version of huggingface_hub and what it depends on; earlier ones are fetched once."""
    if request.param == "the installed version":
        return ""
    folder = sdist.cache_folder() / f"huggingface_hub-{request.param}"
    if not folder.is_dir():
        part = folder.with_name(f"{folder.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        command = [sys.executable, "-m", "pip", "install", "-q", "--target", part, f"huggingface_hub=={request.param}"]
        subprocess.run(command, check=True, capture_output=True, timeout=300)
        part.rename(folder)
    return str(folder)


@pytest.fixture
def publish(release: Path, hub: Hub, packages: str, tmp_path: Path) -> Publish:
    """Run the command in a process of its own, since huggingface_hub reads its settings once."""

    def run(*options: str, folder: Path = release, token: str = TOKEN) -> subprocess.CompletedProcess[str]:
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
        environment |= {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "home"), "PYTHONPATH": packages}
        environment |= {"HF_HUB_DISABLE_XET": "1", **({"HF_TOKEN": token} if token else {})}
        command = [sys.executable, "-c", IMPATIENT, "publish", str(folder), "--repo", NAME, *options]
        return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=120)

    return run


def contents(release: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in release.iterdir() if not path.name.startswith(".")}


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """Check that it ended with one line of error, without the token and without a signed address."""
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    for word in words:
        assert word in done.stderr
    for secret in ("hf_", "Signature"):
        assert secret not in done.stderr.replace("hf_...", "")


def test_a_release_arrives_whole(release: Path, hub: Hub, publish: Publish) -> None:
    done = publish("--private")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{hub.address}/{NAME}\n"
    assert hub.created is not None
    assert hub.created.get("private") is True or hub.created.get("visibility") == "private"
    assert {name: raw for name, raw in hub.files.items() if name != ".gitattributes"} == contents(release)
    assert set(hub.sent.values()) == {1}
    assert yaml.safe_load(hub.files["README.md"].decode().split("---")[1])["base_model"] == ["a/b"]


def test_a_release_is_public_unless_it_is_to_be_private(hub: Hub, publish: Publish) -> None:
    assert publish().returncode == 0
    assert hub.created is not None
    assert hub.created.get("private") in (None, False)
    assert hub.created.get("visibility") in (None, "public")


@pytest.mark.parametrize("fault", ["500", "dead line"])
def test_an_interrupted_upload_resumes(release: Path, hub: Hub, publish: Publish, fault: str) -> None:
    hub.room, hub.fault = 1, fault
    refused(publish(), "upload failed", "run it again")
    (arrived,) = hub.sent
    assert hub.files == {}
    hub.room = None
    assert publish().returncode == 0
    assert hub.sent[arrived] == 1
    assert set(hub.sent.values()) == {1}
    assert hub.files == contents(release)


def test_after_a_failed_commit_no_large_file_is_sent_again(release: Path, hub: Hub, publish: Publish) -> None:
    hub.stuck = True
    refused(publish(), "upload failed", "503", "run it again")
    assert len(hub.sent) == 3
    hub.stuck = False
    assert publish().returncode == 0
    assert set(hub.sent.values()) == {1}
    assert hub.files == contents(release)


def test_the_same_release_goes_to_another_hub_as_well(release: Path, hub: Hub, publish: Publish) -> None:
    """Nothing in the folder may say that it has been published."""
    before = contents(release)
    assert publish().returncode == 0
    hub.objects.clear()
    hub.files.clear()
    assert publish().returncode == 0
    assert hub.files == before == contents(release)
    assert not (release / ".cache").exists()


def test_a_repository_that_is_there_is_written_to(release: Path, hub: Hub, publish: Publish) -> None:
    hub.exists = True
    assert publish().returncode == 0
    assert hub.created is None
    assert hub.files == contents(release)


def test_nothing_goes_into_a_public_repository_that_was_to_be_private(hub: Hub, publish: Publish) -> None:
    hub.exists = True
    refused(publish("--private"), "exists already and is public", "settings")
    assert (hub.sent, hub.files) == ({}, {})


@pytest.mark.parametrize("exists", [True, False])
def test_without_the_right_to_write_it_is_one_line(hub: Hub, publish: Publish, exists: bool) -> None:
    hub.writable, hub.exists = False, exists
    refused(publish(), "the Hub refuses (403", "rights" if exists else "namespace", "check the token's rights")


@pytest.mark.parametrize(("token", "message"), [("hf_wrong", "401"), ("", "not logged in")])
def test_a_wrong_token_and_none_are_one_line(hub: Hub, publish: Publish, token: str, message: str) -> None:
    refused(publish(token=token), message)
    assert hub.created is None


def test_a_missing_login_is_found_before_the_files_are_read(release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    monkeypatch.setattr(checksums, "digest", lambda *_: pytest.fail("files were read"))
    result = run("publish", release, "--repo", NAME)
    assert (result.exit_code, "not logged in" in result.stderr) == (2, True)


def test_a_hub_that_is_not_there_is_one_line(hub: Hub, publish: Publish) -> None:
    hub.shutdown()
    hub.server_close()
    refused(publish(), "upload failed", "run it again")


# ---- without the Hub ---------------------------------------------------------------------------------------------


def test_a_dry_run_prints_what_would_go(release: Path) -> None:
    result = run("publish", release, "--repo", "user/name", "--dry-run")
    assert result.exit_code == 0
    names = [line.split("  ")[0] for line in result.stdout.splitlines()[:-1]]
    assert sorted(names) == sorted(contents(release))
    assert result.stdout.endswith("to be uploaded to user/name; nothing was sent\n")


def test_what_is_no_release_is_refused(release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    shutil.copytree(release, tmp_path / "damaged")
    file = next((tmp_path / "damaged").glob("*Q8_0.gguf"))
    raw = bytearray(file.read_bytes())
    raw[-9] ^= 1
    file.write_bytes(raw)
    shutil.copytree(release, tmp_path / "more")
    (tmp_path / "more" / "letters.txt").write_text("Dear diary")
    (tmp_path / "none").mkdir()
    for folder, repo, message in (
        (release, "no name", "is not a name such as"),
        (tmp_path / "none", "a/b", checksums.LIST),
        (tmp_path / "damaged", "a/b", f"{file.name} differs"),
        (tmp_path / "more", "a/b", f"letters.txt: is not in {checksums.LIST}"),
    ):
        for options in (["--dry-run"], []):
            result = run("publish", folder, "--repo", repo, *options)
            assert (result.exit_code, message in result.stderr) == (2, True), result.stderr
            assert result.stderr.count("\n") == 1
