"""Write the pages of a package index (PEP 503) for a folder of wheels: python patches/index_page.py DIST SITE.

SITE/simple/PROJECT/index.html lists the files of a project with their checksums, which pip compares:
`pip install --index-url https://.../simple 'qwen35-gguf[server]' --extra-index-url ...`.
"""

from __future__ import annotations

import hashlib
import html
import re
import shutil
import sys
import zipfile
from pathlib import Path
from urllib.parse import quote

from sdist import fail

PAGE = '<!DOCTYPE html>\n<html><head><meta name="pypi:repository-version" content="1.0"><title>{title}</title></head>\n'


def write_index(dist: Path, site: Path) -> list[str]:
    """Write the pages and copy the files; return the names of the projects."""
    files = sorted(file for file in dist.iterdir() if file.name.endswith((".whl", ".tar.gz")))
    if not files:
        fail(f"{dist}: has no wheels; run make wheels")
    projects: dict[str, list[Path]] = {}
    for file in files:
        projects.setdefault(normal_name(file.name.split("-")[0]), []).append(file)
    for name, members in projects.items():
        folder = site / "simple" / name
        folder.mkdir(parents=True, exist_ok=True)
        links = []
        for file in members:
            shutil.copy(file, folder)
            links.append(link(file))
        _write(folder / "index.html", f"Links for {name}", links)
    _write(site / "simple" / "index.html", "Projects", [f'<a href="{name}/">{name}</a>' for name in projects])
    return list(projects)


def link(file: Path) -> str:
    """Return the link to a file, with its checksum and the Pythons that it is for."""
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    python = requires_python(file)
    needs = f' data-requires-python="{html.escape(python)}"' if python else ""
    return f'<a href="{quote(file.name)}#sha256={digest}"{needs}>{html.escape(file.name)}</a>'


def requires_python(file: Path) -> str:
    """Return what a wheel's metadata says; nothing for a source."""
    if file.suffix != ".whl":
        return ""
    with zipfile.ZipFile(file) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        found = re.search(r"^Requires-Python: (.+)$", archive.read(name).decode(), re.MULTILINE)
    return found[1].strip() if found else ""


def normal_name(name: str) -> str:
    """Return the name as PEP 503 writes it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _write(page: Path, title: str, links: list[str]) -> None:
    body = "".join(f"{text}<br>\n" for text in links)
    page.write_text(f"{PAGE.format(title=title)}<body>\n{body}</body></html>\n", encoding="utf-8")


if __name__ == "__main__":
    print(*write_index(Path(sys.argv[1]), Path(sys.argv[2])), sep="\n")
