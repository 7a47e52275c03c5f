"""What is asked and answered in replays: an edit of a file of code, JSON from records, and a chat in prose.

All of it is made from files that every machine with this project has.
"""

from __future__ import annotations

import importlib.util
import json
import re
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[2]
LINES = 300  # of the file that is edited
RECORDS = 30
EDITS = (  # of Python's shlex.py: names, an argument, a message, a rule, and layout
    (r"\binstream\b", "source"),
    (r"\bpushback\b", "pending"),
    (r"\bself\.debug >= (\d)", r"self.verbosity >= \1"),
    (r"self\.debug = 0", "self.verbosity = 0"),
    (r"def push_token\(self, tok\):", "def push_token(self, tok: str) -> None:"),
    (r"def read_token\(self\):", "def read_token(self) -> str:"),
    (r'raise ValueError\("No closing quotation"\)', 'raise UnclosedQuotationError(self.lineno)'),
    (r"        quoted = False\n", "        quoted = False\n        started = self.lineno\n"),
    (r"^import sys\n", "", ),
    (r"print\(\"shlex: pushing token \" \+ repr\(tok\)\)", 'self.log("pushing token %r", tok)'),
)  # fmt: skip


@dataclass(frozen=True)
class Text:
    """A prompt and its answer.

    Attributes:
        name: of the kind.
        prompt: messages of the user, as one text.
        answer: what is replayed.

    """

    name: str
    prompt: str
    answer: str


def texts() -> list[Text]:
    """Return the three kinds."""
    return [code_edit(), records(), prose()]


def code_edit() -> Text:
    """Return an edit of 300 lines of code, all of which are given out again."""
    spec = importlib.util.find_spec("shlex")
    assert spec is not None
    assert spec.origin is not None
    before = "\n".join(Path(spec.origin).read_text(encoding="utf-8").splitlines()[:LINES]) + "\n"
    after = before
    for pattern, replacement in EDITS:
        after = re.sub(pattern, replacement, after, flags=re.MULTILINE)
    ask = "Rename instream to source, pushback to pending and debug to verbosity, add types to the public methods, "
    ask += "raise an error of its own for quotations without an end, and give me the whole file."
    return Text("code edit", f"{ask}\n\n```python\n{before}```\n", f"```python\n{after}```\n")


def records() -> Text:
    """Return JSON that is extracted from lines about installed packages."""
    found = sorted({(item.name, item.version): item for item in metadata.distributions()}.items())[:RECORDS]
    lines, objects = [], []
    for (name, version), item in found:
        summary = item.metadata.get("Summary") or "no summary"
        lines.append(f"{name} {version} ({item.metadata.get('License-Expression') or 'license unknown'}): {summary}")
        objects.append({
            "name": name,
            "version": version,
            "license": item.metadata.get("License-Expression"),
            "description": summary,
        })  # fmt: skip
    ask = "Give these packages as a JSON array of objects with name, version, license (or null) and description."
    return Text("JSON", f"{ask}\n\n" + "\n".join(lines) + "\n", json.dumps(objects, indent=2) + "\n")


def prose() -> Text:
    """Return a chat: questions and answers about this project, of which the second half is the answer."""
    lines = (ROOT / "docs" / "faq.md").read_text(encoding="utf-8").splitlines()
    half = next(i for i in range(len(lines) // 2, len(lines)) if not lines[i])
    return Text("prose chat", "\n".join(lines[:half]) + "\n", "\n".join(lines[half:]) + "\n")
