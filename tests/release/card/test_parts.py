"""A card is made again around what its publisher wrote, whatever that is."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen35_gguf.release.card import parts

pytestmark = pytest.mark.unit

BEFORE = f"---\nlicense: mit\ntags:\n- a\n- b\n---\n\n# Title\n\n{parts.part('files', 'old')}\n\nText.\n"
NEW = f"---\nlicense: mit\ntags:\n- a\n- c\nlanguage: en\n---\n\n# New\n\n{parts.part('files', 'new')}\n\nOther.\n"
LINES = st.text(st.characters(codec="utf-8", exclude_characters="\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"), max_size=40)


@pytest.mark.parametrize(
    ("edit", "merged"),
    [
        ((), NEW),
        (("# Title", "# Mine"), NEW.replace("# New", "# Mine").replace("Other.", "Text.")),
        (("license: mit", "license: x"), NEW.replace("mit", "x").replace("# New", "# Title").replace("Other", "Text")),
        (("- b\n", "- b\n- mine\n"), None),
        (("license: mit\n", ""), None),
    ],
)  # fmt: skip
def test_merge(edit: tuple[str, str], merged: str | None) -> None:
    current = BEFORE.replace(*edit) if edit else BEFORE
    found = parts.merge(current, NEW, BEFORE)
    if merged is not None:
        assert found == merged
    assert "new" in found
    assert "language: en" in found
    assert ("- mine" in found) == ("- mine" in current)
    assert ("license:" in found) == ("license:" in current)
    assert parts.edited_parts(current, BEFORE) == []


def test_an_edit_between_the_marks_is_found_if_it_is_known_what_was_there() -> None:
    edited = BEFORE.replace("old", "older")
    assert parts.edited_parts(edited, BEFORE) == ["files"]
    assert parts.edited_parts(edited, "") == []


@given(LINES, LINES, LINES)
def test_text_outside_of_the_marks_is_kept(above: str, below: str, key: str) -> None:
    front = f"---\nlicense: mit\n# {key}\nmine: 1\n---\n"
    current = f"{front}{above}\n{parts.part('files', 'old')}\n{below}"
    found = parts.merge(current, NEW, BEFORE)
    rest = re.sub(r"<!-- begin files .*?<!-- end files -->", "", found, flags=re.DOTALL)
    assert rest.endswith(f"---\n{above}\n\n{below}") or "<!-- begin" in above + below
    assert f"# {key}\nmine: 1\n" in found
    assert "new" in found


@given(st.text(max_size=200))
def test_any_card_is_merged(current: str) -> None:
    found = parts.merge(current, NEW, BEFORE)
    assert parts.has_parts(found) == parts.has_parts(current)
