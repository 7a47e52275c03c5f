"""The index page is one that pip installs from, and a tag must be the version."""

from __future__ import annotations

import hashlib
import re
import zipfile
from pathlib import Path

import pytest

import check_tag
import index_page

pytestmark = pytest.mark.unit


def wheel(folder: Path, name: str, python: str = ">=3.10") -> Path:
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}-1.0.dist-info/METADATA", f"Name: {name}\nVersion: 1.0\nRequires-Python: {python}\n")
    return path


def test_pages_list_each_project_with_checksums_and_the_pythons_that_it_is_for(tmp_path: Path) -> None:
    dist, site = tmp_path / "dist", tmp_path / "site"
    dist.mkdir()
    file = wheel(dist, "qwen35_gguf")
    (dist / "qwen35_gguf-1.0.tar.gz").write_bytes(b"source")
    wheel(dist, "qwen35_engine")
    (dist / "SHA256SUMS").write_text("")
    assert index_page.write_index(dist, site) == ["qwen35-engine", "qwen35-gguf"]
    assert re.findall(r'href="([^"]+)"', (site / "simple/index.html").read_text()) == ["qwen35-engine/", "qwen35-gguf/"]
    page = (site / "simple" / "qwen35-gguf" / "index.html").read_text()
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert f'<a href="{file.name}#sha256={digest}" data-requires-python="&gt;=3.10">{file.name}</a>' in page
    assert len(re.findall("<a ", page)) == 2
    assert (site / "simple" / "qwen35-gguf" / file.name).read_bytes() == file.read_bytes()


def test_an_empty_folder_is_no_index(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        index_page.write_index(tmp_path, tmp_path / "site")
    assert "has no wheels; run make wheels" in capsys.readouterr().err


def test_a_tag_is_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    version = check_tag.package_version()
    check_tag.main(f"refs/tags/v{version}")
    check_tag.main("refs/heads/main")
    assert f"qwen35-gguf {version}, qwen35-engine 0." in capsys.readouterr().out
    with pytest.raises(SystemExit):
        check_tag.main("refs/tags/v0.0.1")
    assert f"the tag must be v{version}" in capsys.readouterr().err
