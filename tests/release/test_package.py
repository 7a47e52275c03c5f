"""A release: one pass gives what single conversions give, it can go on, be made again, and be published."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import pytest
import yaml
from click.testing import CliRunner, Result

from qwen35_gguf.cli import main
from qwen35_gguf.convert import hf_to_gguf
from qwen35_gguf.errors import OutputError, PackageError
from qwen35_gguf.release import package
from qwen35_gguf.release.package import Options

TINY = Path(__file__).parents[2] / "examples" / "tiny-qwen3.5"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("package") / "release"
    text = TINY / "evaluation.txt"
    options = ["--quants", "Q4_K_M,Q8_0", "--license", "apache-2.0", "--base-model", "a/b", "-f", text]
    result = run("package", TINY, "-o", folder, *options)
    assert result.exit_code == 0, result.output
    return folder


def test_one_pass_gives_what_single_conversions_give(release: Path, tmp_path: Path) -> None:
    for quant in ("Q4_K_M", "Q8_0"):
        for single in hf_to_gguf.convert(TINY, quant, tmp_path, force=True):
            expected, found = gguf.GGUFReader(single), gguf.GGUFReader(release / single.name)
            assert [t.name for t in found.tensors] == [t.name for t in expected.tensors]
            for a, b in zip(expected.tensors, found.tensors, strict=True):
                np.testing.assert_array_equal(a.data, b.data, err_msg=a.name)
            new = set(found.fields) - set(expected.fields)
            assert new == {"quantize.tool", "quantize.checkpoint.sha256"}


def test_the_folder_has_everything(release: Path) -> None:
    names = {path.name for path in release.iterdir() if not path.name.startswith(".")}
    stem = "Tiny-Qwen3.5-6.4M"
    assert names == {
        f"{stem}-Q4_K_M.gguf", f"{stem}-Q8_0.gguf", f"mmproj-{stem}-BF16.gguf", "README.md", "Modelfile",
        "recipe.json", "SHA256SUMS", "size-quality.png", "size-quality.svg",
    }  # fmt: skip
    assert run("checksum", release).exit_code == 0
    for file in release.glob("*.gguf"):
        assert run("lint", file).exit_code == 0
    from huggingface_hub import ModelCard

    card = ModelCard.load(release / "README.md")
    assert card.data.license == "apache-2.0"
    assert card.data.base_model_relation == "quantized"
    assert card.data.pipeline_tag == "image-text-to-text"
    row = next(line for line in card.content.splitlines() if line.startswith(f"| {stem}-Q4_K_M"))
    assert 0.0005 < float(row.split("|")[5].split()[0]) < 0.01
    modelfile = (release / "Modelfile").read_text()
    assert f"FROM ./{stem}-Q4_K_M.gguf" in modelfile
    assert 'PARAMETER stop "<|im_end|>"' in modelfile
    assert str(TINY) not in (release / "recipe.json").read_text()


def test_a_release_is_made_again_and_compared(release: Path) -> None:
    result = run("verify-release", release, "--against", TINY)
    assert (result.exit_code, "PASS" in result.output) == (0, True), result.output


def test_a_change_is_found(release: Path, tmp_path: Path) -> None:
    for path in release.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    file = next(tmp_path.glob("*Q8_0.gguf"))
    raw = bytearray(file.read_bytes())
    raw[-9] ^= 1
    file.write_bytes(raw)
    result = run("verify-release", tmp_path, "--against", TINY, "--jobs", 1)
    assert (result.exit_code, f"{file.name}: is not what this checkpoint gives" in result.output) == (1, True)
    assert run("publish", tmp_path, "--repo", "a/b", "--dry-run").exit_code == 2


def test_an_interrupted_release_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "release"
    options = Options(str(TINY), ("Q4_K_M", "Q4_0"), plain=True)
    passes: list[int] = []
    real = hf_to_gguf.write_files

    def counting(checkpoint: object, files: list[object], **arguments: object) -> None:
        passes.append(len(files))
        if len(passes) == 2:
            raise KeyboardInterrupt
        real(checkpoint, files, **arguments)

    monkeypatch.setattr(hf_to_gguf, "write_files", counting)
    with pytest.raises(KeyboardInterrupt):
        package.package(options, folder, measure=False)
    done = {path: path.stat().st_mtime_ns for path in folder.glob("*.gguf")}
    assert len(done) == passes[0] == 2
    passes[:] = [0, 0, 0]
    files = package.package(options, folder, measure=False)
    assert passes[3:] == [2, 1]  # without the MTP head, and the tower
    assert all(path.stat().st_mtime_ns == when for path, when in done.items())
    assert len([path for path in files if path.suffix == ".gguf"]) == 5
    names = {t.name for t in gguf.GGUFReader(next(folder.glob("*nomtp-Q4_0.gguf"))).tensors}
    assert not any("nextn" in name for name in names)
    with pytest.raises(PackageError, match="begun with other options"):
        package.package(Options(str(TINY), ("Q6_K",)), folder, measure=False)


def test_large_files_are_split(tmp_path: Path) -> None:
    folder = tmp_path / "release"
    package.package(Options(str(TINY), ("Q4_0",), max_shard_size=2_000_000), folder, measure=False)
    parts = sorted(folder.glob("Tiny*.gguf"))
    assert len(parts) > 1
    assert all("-of-" in path.name for path in parts)
    assert "and" in next(line for line in (folder / "README.md").read_text().splitlines() if "-00001-of" in line)
    assert package.verify(folder, str(TINY)) == []


def test_heads_are_draft_models_of_their_own(tmp_path: Path) -> None:
    from qwen35_gguf.runtime.llama import Model

    folder = tmp_path / "release"
    package.package(Options(str(TINY), ("Q4_0",), heads=True), folder, measure=False)
    head, whole = next(folder.glob("mtp-*.gguf")), next(folder.glob("Tiny*.gguf"))
    expected = {t.name: t for t in gguf.GGUFReader(whole).tensors}
    names = []
    for tensor in gguf.GGUFReader(head).tensors:
        np.testing.assert_array_equal(tensor.data, expected[tensor.name].data)
        names.append(tensor.name)
    assert {name.split(".")[1] for name in names if name.startswith("blk.")} == {"8"}
    assert {"token_embd.weight", "output_norm.weight"} <= set(names)
    assert run("lint", head).exit_code == 0
    with Model(head, load_mtp=True) as loaded:
        assert loaded.n_vocab == 8192
    assert "| MTP head |" in (folder / "README.md").read_text()


def test_bad_input_is_refused(release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"x")
    for arguments, message in (
        (("package", TINY, "-o", tmp_path), "has holiday.jpg, which does not belong there"),
        (("package", TINY, "-o", tmp_path / "a", "--quants", "Q4_K_M,q4_k_m"), "Q4_K_M is named twice"),
        (("package", TINY, "-o", tmp_path / "a", "--quants", ","), "is empty"),
        (("package", TINY, "-o", tmp_path / "a", "--quants", "Q9"), "Q9"),
        (("package", TINY, "-o", tmp_path / "a", "--recipe", "x.yaml"), "a release takes one of deltanet"),
        (("verify-release", tmp_path, "--against", TINY), "has no recipe.json"),
        (("publish", release, "--repo", "no name", "--dry-run"), "is no name such as"),
        (("publish", tmp_path, "--repo", "a/b", "--dry-run"), "SHA256SUMS"),
    ):
        result = run(*arguments)
        assert (result.exit_code, message in result.stderr) == (2, True), result.stderr
    from qwen35_gguf.convert import writer

    usage = type("Usage", (), {"free": 1000, "total": 1000, "used": 0})
    monkeypatch.setattr(writer.shutil, "disk_usage", lambda _path: usage)
    with pytest.raises(OutputError):
        package.package(Options(str(TINY), ("Q4_0",)), tmp_path / "full", measure=False)
    assert not list((tmp_path / "full").glob("*.gguf"))


def test_a_dry_run_prints_what_would_go(release: Path) -> None:
    result = run("publish", release, "--repo", "user/name", "--dry-run")
    assert result.exit_code == 0
    assert "SHA256SUMS" in result.stdout
    assert ".qwen35-package.json" not in result.stdout
    assert result.stdout.endswith("would go to user/name; nothing was sent\n")


class Hub(http.server.BaseHTTPRequestHandler):
    """What of the Hub's HTTP API an upload needs, in memory."""

    def do_POST(self) -> None:
        hub, path = self.server, self.path.split("?")[0]
        raw = self._body()
        if self.headers.get("Authorization") != "Bearer hf_secret":
            self._answer({"error": "Invalid credentials"}, 401)
        elif path == "/api/repos/create":
            hub.created = json.loads(raw)
            self._answer({"url": f"{hub.address}/user/name", "name": "user/name"})
        elif path == "/api/validate-yaml":
            self._answer({"errors": [], "warnings": []})
        elif path.endswith("/preupload/main"):
            files = json.loads(raw)["files"]
            modes = [
                {
                    "path": f["path"],
                    "uploadMode": "lfs" if f["path"].endswith("gguf") else "regular",
                    "shouldIgnore": False,
                }
                for f in files
            ]
            self._answer({"files": modes})
        elif path.endswith("/info/lfs/objects/batch"):
            objects = [
                {"oid": o["oid"], "size": o["size"], "actions": {"upload": {"href": f"{hub.address}/lfs/{o['oid']}"}}}
                for o in json.loads(raw)["objects"]
            ]
            self._answer({"transfer": "basic", "objects": objects})
        elif path.endswith("/commit/main"):
            for line in raw.decode().splitlines():
                item = json.loads(line)
                value = item["value"]
                if item["key"] == "file":
                    hub.files[value["path"]] = base64.b64decode(value["content"])
                elif item["key"] == "lfsFile":
                    hub.files[value["path"]] = hub.objects[value["oid"]]
            self._answer({"commitUrl": f"{hub.address}/user/name/commit/1", "commitOid": "1" * 40, "success": True})
        else:
            self._answer({"error": f"unknown {path}"}, 404)

    def do_PUT(self) -> None:
        raw = self._body()
        self.server.objects[hashlib.sha256(raw).hexdigest()] = raw
        self._answer({})

    def do_GET(self) -> None:
        self._answer({"id": "user/name", "sha": "0" * 40, "siblings": [], "type": "user", "name": "user"})

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _answer(self, content: object, status: int = 200) -> None:
        raw = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[http.server.ThreadingHTTPServer]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.files, server.objects, server.created = {}, {}, None
    server.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def publish(release: Path, address: str, token: str, home: Path) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    environment |= {"HF_ENDPOINT": address, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    environment |= {"HF_TOKEN": token} if token else {}
    command = [sys.executable, "-m", "qwen35_gguf.cli", "publish", str(release), "--repo", "user/name", "--private"]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=120)


def test_a_release_arrives_whole(release: Path, hub: http.server.ThreadingHTTPServer, tmp_path: Path) -> None:
    done = publish(release, hub.address, "hf_secret", tmp_path)
    assert done.returncode == 0, done.stderr
    assert hub.created.get("private") is True or hub.created.get("visibility") == "private"
    expected = {p.name: p.read_bytes() for p in release.iterdir() if not p.name.startswith(".")}
    assert {name: raw for name, raw in hub.files.items() if name != ".gitattributes"} == expected
    assert "hf_secret" not in done.stdout + done.stderr
    assert yaml.safe_load(hub.files["README.md"].decode().split("---")[1])["base_model"] == ["a/b"]


def test_refusals_are_one_line_without_the_token(
    release: Path, hub: http.server.ThreadingHTTPServer, tmp_path: Path
) -> None:
    for token, message in (("hf_wrong", "the Hub refuses"), ("", "nobody is logged in")):
        done = publish(release, hub.address, token, tmp_path)
        assert (done.returncode, message in done.stderr) == (2, True), done.stderr
        assert "Traceback" not in done.stderr
        assert "hf_wrong" not in done.stderr
