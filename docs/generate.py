"""Write the generated parts of docs/: the command line, the tensor map from the table of rules, the plots of speeds.

.venv/bin/python docs/generate.py [--check]

A generated part stands between `<!-- begin NAME -->` and `<!-- end NAME -->`; the prose around it is written by hand.
With --check nothing is written; the exit code is 1 if a page is stale.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import click
import speed_plot

from qwen35_gguf.cli import main as qwen35
from qwen35_gguf.commands import discover
from qwen35_gguf.convert import tensor_map as rules

DOCS = Path(__file__).resolve().parent
PART = re.compile(r"(<!-- begin ([a-z-]+) -->\n).*?(<!-- end \2 -->)", re.DOTALL)
WIDTH = 100  # columns of a help page

TABLES = {
    "Embedding and output": (rules.MODEL, rules.OUTPUT),
    "Norms of every layer": (rules.NORMS,),
    "Full attention": (rules.ATTENTION,),
    "Gated delta net": (rules.DELTA_NET,),
    "Feed-forward network, dense": (rules.DENSE,),
    "Feed-forward network, mixture of experts": (rules.EXPERTS,),
    "MTP head": (rules.MTP,),
    "Vision encoder": (rules.VISION, rules.VISION_BLOCK),
}


def main() -> None:
    """Write the pages, or compare them with what would be written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a page is stale")
    options = parser.parse_args()
    stale = False
    for page, new in generated():
        if page.is_file() and page.read_text(encoding="utf-8") == new:
            continue
        stale = True
        name = page.relative_to(DOCS.parent)
        if options.check:
            print(f"{name}: is stale; run `make docs` and commit the result", file=sys.stderr)
        else:
            page.write_text(new, encoding="utf-8")
            print(name)
    if options.check and stale:
        raise SystemExit(1)


def generated() -> Iterator[tuple[Path, str]]:
    """Yield every file with generated parts, and what it should hold."""
    for page in sorted(DOCS.glob("*.md")):
        yield page, filled(page.read_text(encoding="utf-8"))
    page = (DOCS / "performance.md").read_text(encoding="utf-8")
    yield DOCS / "speed.svg", speed_plot.svg(page, *speed_plot.SPEED)
    yield DOCS / "depth.svg", speed_plot.svg(page, *speed_plot.DEPTH)


def filled(text: str) -> str:
    """Return a page with its generated parts made anew."""
    return PART.sub(lambda found: found[1] + "\n".join(PARTS[found[2]]()) + "\n" + found[3], text)


def command_line() -> Iterator[str]:
    """Yield the help of every command, by group."""
    groups = discover.groups()
    for group in groups:
        verbs = ", ".join(f"[{item.verb}](#qwen35-{item.verb})" for item in group.subcommands)
        yield f"- {group.title}: {verbs}"
    for group in groups:
        yield from ("", f"## {group.title}")
        for item in group.subcommands:
            command = discover.load(item.verb)
            assert command is not None
            yield from ("", f"### qwen35 {item.verb}", "", item.help)
            yield from ("", "```text", *help_of(command, f"qwen35 {item.verb}"), "```")
            for name, inner in sorted(command.commands.items()) if isinstance(command, click.Group) else ():
                arguments = [(one.name or "").upper() for one in command.params if isinstance(one, click.Argument)]
                typed = " ".join(("qwen35", item.verb, *arguments, name))
                yield from ("", "```text", *help_of(inner, typed), "```")


def help_of(command: click.Command, name: str) -> list[str]:
    """Return the lines of a command's `--help`."""
    settings = qwen35.context_settings | {"max_content_width": WIDTH, "terminal_width": WIDTH}
    context = click.Context(command, info_name=name, **settings)
    return [line.rstrip() for line in command.get_help(context).splitlines()]


def tensor_map() -> Iterator[str]:
    """Yield a table for each group of rules, a row for each rule."""
    for title, groups in TABLES.items():
        yield from (
            f"### {title}",
            "",
            "| GGUF | Checkpoint | Source shape | Operations | Type |",
            "|---|---|---|---|---|",
        )
        yield from rows(rule for group in groups for rule in group)
        yield ""


def rows(group: Iterable[rules.Rule]) -> Iterator[str]:
    """Yield the rows of a table."""
    for rule in group:
        source = f"`{rule.source}`"
        if rule.part:
            source += f", half {rule.part.index + 1} of axis {rule.part.axis}"
        if rule.per_expert:
            source += f", or stacked from `{rule.per_expert[0]}`"
        operations = ", ".join(f"`{name}`" for name in rule.operations) or "none"
        kind = rule.fixed.name if rule.fixed is not None else "by the preset"
        yield f"| `{rule.gguf}` | {source} | {' x '.join(rule.shape)} | {operations} | {kind} |"


PARTS: dict[str, Callable[[], Iterator[str]]] = {"command-line": command_line, "tensor-map": tensor_map}

if __name__ == "__main__":
    main()
