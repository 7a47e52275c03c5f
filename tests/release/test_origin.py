"""What the card reports of a checkpoint's own README.md."""

from __future__ import annotations

from pathlib import Path

import pytest

from oracles.paths import TINY
from qwen35_gguf.release.plan import FromCheckpoint, plan_release

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("head", "license_", "languages"),
    [
        ("license: mit\nlanguage: de\n", "mit", ("de",)),
        ("language: [en, no]\n", "", ("en", "no")),  # Norwegian, which YAML reads as false
        ("language: no\nlicense: [mit, apache-2.0]\n", "mit, apache-2.0", ("no",)),
        (None, "", ()),
    ],
)
def test_license_and_languages(head: str | None, license_: str, languages: tuple[str, ...], tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for file in TINY.iterdir():
        if file.name != "README.md":
            (source / file.name).symlink_to(file)
    if head is not None:
        (source / "README.md").write_text(f"---\n{head}---\n\n# Title\n")
    origin = plan_release(FromCheckpoint(str(source), ("Q8_0",)), tmp_path / "out").origin
    assert (origin.license, origin.languages) == (license_, languages)
