"""Find words that the glossary replaces, in the prose, the names and the file names of the project.

    python tests/lint/words.py [--count] [FILES]

Without files, all that git tracks. Prints `FILE:LINE: "WORD": write "WORD OF THE FIELD"` and exits with 1 if it finds
any; `--count` prints the number in each folder instead. The words are in words.yaml.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

import yaml

from prose import identifiers, segments

ROOT = Path(__file__).parents[2]
WORDS = Path(__file__).with_name("words.yaml")
DATA = ("qwen35_gguf/evaluation/texts/*", "examples/tiny_model/corpus*.py")  # corpora; their words are not ours

_SPACE = re.compile(r"\s+")
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


class Finding(NamedTuple):
    """A word that is not to be used."""

    file: str
    line: int
    word: str
    write: str

    def __str__(self) -> str:
        return f'{self.file}:{self.line}: "{self.word}": write "{self.write}"'


@dataclass(frozen=True)
class Phrase:
    """An entry of `prose` in words.yaml."""

    pattern: re.Pattern[str]
    write: str
    catches: tuple[str, ...]
    passes: tuple[str, ...]


@dataclass(frozen=True)
class Words:
    """The content of words.yaml."""

    phrases: tuple[Phrase, ...]
    names: dict[str, str]
    allowed: tuple[tuple[str, str, str], ...]  # pattern of files, word or "*", reason

    def allows(self, file: str, word: str) -> bool:
        """Tell whether a file may use a word."""
        return any(fnmatch(file, files) and allowed in ("*", word.lower()) for files, allowed, _ in self.allowed)


def load(path: Path = WORDS) -> Words:
    """Read words.yaml."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    phrases = tuple(
        Phrase(
            re.compile(entry["pattern"], re.IGNORECASE),
            entry["write"],
            tuple(entry["catches"]),
            tuple(entry.get("passes", ())),
        )
        for entry in content["prose"]
    )
    allowed = tuple(
        (entry["files"], word.lower(), entry["reason"])
        for entry in content["allow"]
        for word in ([entry["words"]] if isinstance(entry["words"], str) else entry["words"])
    )
    return Words(phrases, content["names"], allowed)


def check(file: str, words: Words, root: Path = ROOT) -> Iterator[Finding]:
    """Find the words of one file, given relative to `root`."""
    path = root / file
    if path.is_symlink() or not path.is_file() or any(fnmatch(file, data) for data in DATA):
        return
    for part in _parts(file.replace("/", "_").replace(".", "_").replace("-", "_")):
        if part in words.names and not words.allows(file, part):
            yield Finding(file, 1, part, f"{words.names[part]} in the file's name")
    for line, text in segments(path):
        yield from _in_prose(file, line, text, words)
    yield from _in_names(file, path, words)


def _in_prose(file: str, line: int, text: str, words: Words) -> Iterator[Finding]:
    # Runs of white space become one space; `origin` maps what is left to offsets in the text.
    pieces, origin, at = [], [], 0
    for match in _SPACE.finditer(text):
        pieces += [text[at : match.start()], " "]
        origin += [*range(at, match.start()), match.start()]
        at = match.end()
    pieces.append(text[at:])
    origin += range(at, len(text))
    joined = "".join(pieces)
    for phrase in words.phrases:
        for match in phrase.pattern.finditer(joined):
            if not words.allows(file, match.group()):
                number = line + text.count("\n", 0, origin[match.start()])
                yield Finding(file, number, match.group(), phrase.write)


def _in_names(file: str, path: Path, words: Words) -> Iterator[Finding]:
    """Give the first use of each name in a file."""
    seen = set()
    for line, name in identifiers(path):
        if name in seen:
            continue
        seen.add(name)
        for part in _parts(name):
            if part in words.names and not words.allows(file, name):
                yield Finding(file, line, name, words.names[part])


def _parts(name: str) -> list[str]:
    return [part for part in _HUMP.sub("_", name).lower().split("_") if part]


def tracked() -> list[str]:
    """List the files that git tracks."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [file for file in done.stdout.split("\0") if file]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what is found; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("files", nargs="*", help="relative to the root; without any, all files that git tracks")
    parser.add_argument("--count", action="store_true", help="print the number in each folder only")
    options = parser.parse_args(arguments)
    words = load()
    found = [finding for file in options.files or tracked() for finding in check(file, words)]
    if options.count:
        counts = Counter("/".join(finding.file.split("/")[:-1][:3]) or "." for finding in found)
        for folder, number in sorted(counts.items()):
            print(f"{number:5} {folder}")
        print(f"{len(found):5} in total")
        return 0
    print(*sorted(found), sep="\n", end="\n" if found else "")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
