"""Stop unless a tag names the version in pyproject.toml: `python patches/check_tag.py refs/tags/v0.2.0`."""

from __future__ import annotations

import re
import sys

from engine_source import ROOT, engine_version
from sdist import fail

PREFIX = "refs/tags/v"


def package_version() -> str:
    """Return the version of the package."""
    found = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        fail("pyproject.toml: has no version")
    return found[1]


def main(reference: str) -> None:
    """Print both versions; any other reference than a tag passes."""
    version = package_version()
    if reference.startswith(PREFIX) and reference.removeprefix(PREFIX) != version:
        fail(f"{reference}: pyproject.toml has version {version}; the tag must be v{version}", 1)
    print(f"qwen35-gguf {version}, qwen35-engine {engine_version()}")


if __name__ == "__main__":
    main(sys.argv[1])
