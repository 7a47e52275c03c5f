"""Texts: recipes, checksums, corpora, cards, names on the Hub, addresses, sizes, Markdown."""

from __future__ import annotations

import contextlib
import os
import re
import shutil

from fuzz.target import Target, as_file, as_text, scratch
from qwen35_gguf import units
from qwen35_gguf.convert import front_matter
from qwen35_gguf.errors import UnitError
from qwen35_gguf.evaluation.texts import files
from qwen35_gguf.hub import model_files, names
from qwen35_gguf.quant import recipe_file
from qwen35_gguf.release import checksums
from qwen35_gguf.release.card import parts
from qwen35_gguf.runtime.llama import rpc

RECIPE = b"recipe: 1\nname: x\nbase: Q4_K_M\nrules:\n- {tensors: ssm_out, layers: 0-3 7 mtp, type: Q6_K}\n"


def read_recipe(data: bytes) -> None:
    """Read a recipe, and find the types of two tensors."""
    found = recipe_file.find(str(as_file("x.yaml", data)), "Q4_K_M")
    for tensor in ("blk.3.ssm_out.weight", "token_embd.weight"):
        found.type_of(tensor, (256, 256), 8, tied=True)


def recipe_seeds() -> list[bytes]:
    """Rules of both forms, and what YAML can refer to."""
    bomb = b"a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n"
    text = recipe_file.to_text("n", "Q4_K_M", {"blk.0.ffn_up.weight": recipe_file.Type.Q4_K}, 2, ["a"])
    return [
        RECIPE,
        b"recipe: 1\nname: y\nbase: Q8_0\nrules:\n- tensors: ['ffn_*', output]\n  type: q4_k\n",
        bomb,
        text.encode(),
    ]


def read_checksums(data: bytes) -> None:
    """Verify a folder by its list, with a file that has the first name; then list it anew, and verify that."""
    folder = scratch() / "sums"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "a").write_bytes(b"")
    name = data.partition(b"\n")[0][66:]
    with contextlib.suppress(OSError, ValueError):
        (folder / os.fsdecode(name.replace(b"/", b"_"))).touch()
    (folder / checksums.LIST).write_bytes(data)
    try:
        for verdict in checksums.verify(folder, jobs=1):
            assert verdict.name
    finally:
        checksums.write(folder, force=True, jobs=1)
        assert not any(verdict.problem for verdict in checksums.verify(folder, jobs=1))


def checksum_seeds() -> list[bytes]:
    """Both separators, and a file outside."""
    digest = b"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    odd = [digest + b"  " + name + b"\n" for name in (b"../a", b"/etc/passwd", b"\xff", b"b\\c", b"b\rc", b".b", b"")]
    twice = digest + b"  a\n" + b"0" * 64 + b"  a\n"
    return [digest + b"  a\n" + digest + b" *b/c\r\n", *odd, twice, b"0" * 64 + b"  a\n", b"a\n", b"\n", b""]


def read_corpus(data: bytes) -> None:
    """Read a text; the first byte chooses the kind of file."""
    kinds = ("x.txt", "x.jsonl", "x.jsonl.gz", "x.txt.gz")
    path = as_file(kinds[data[0] % len(kinds)] if data else "x", data[1:])
    files.read_passages(path)
    files.read_text(path)


def corpus_seeds() -> list[bytes]:
    """Plain text, texts and messages in lines, compressed text."""
    import gzip

    lines = b'{"text": "a"}\n{"messages": [{"role": "user", "content": "x"}], "tools": []}\n'
    return [b"\0Hello\r\nthere", b"\1" + lines, b"\2" + gzip.compress(lines), b"\3" + gzip.compress(b"Hi")]


CARD = """---
license: apache-2.0
language: [en, no]
base_model:
- Qwen/Qwen3.5-4B
---
# A model

<!-- begin files (made by `qwen35 package`; edit outside of these marks) -->

a table

<!-- end files -->
"""


def read_card(data: bytes) -> None:
    """Read the front matter of a card, and make the card again around it."""
    folder = scratch() / "card"
    folder.mkdir(exist_ok=True)
    (folder / "README.md").write_bytes(data)
    text = as_text(data)
    parts.has_parts(text)
    parts.edited_parts(text, CARD)
    parts.merge(text, CARD.replace("table", "list"), CARD)
    front_matter.read_front_matter(folder)


def read_names(data: bytes) -> None:
    """Read what users type: names on the Hub, names of files there, addresses, sizes, durations, lengths."""
    text = as_text(data)
    found = names.parse_name(text.partition("\n")[0])
    listed = model_files.model_files({line: len(line) for line in text.split("\n")})
    for one in model_files.candidates(listed.quants):
        str(one)
    if found is not None:
        model_files.find_quant(found, listed.quants)
    for read in (rpc.parse_endpoint, units.parse_size, units.parse_duration, units.parse_length):
        try:
            read(text)
        except (UnitError, rpc.RpcServerError):
            continue


def name_seeds() -> list[bytes]:
    """One of each."""
    files_there = "a-Q4_K_M.gguf\na-Q8_0-00001-of-00002.gguf\na-Q8_0-00002-of-00002.gguf\nmmproj-a-BF16.gguf"
    asked = [f"a/b@v1:{quant}\n{files_there}\nb-Q8_0.gguf\nc-nomtp-BF16.gguf" for quant in ("q8_0", "Q4_K_M", "a", "x")]
    missing = "a/b:Q8_0\na-Q8_0-00001-of-00002.gguf\nmtp-a-F16.gguf\nimatrix.gguf\nx/a-Q4_0.gguf\ny/a-Q4_0.gguf"
    typed = ("Qwen/Qwen3.5-4B:Q4_K_M", files_there, "host-1.x:50052", "1.5GiB", "5min", "32k", "1M", "2 kB", "1 h")
    return [text.encode() for text in (*typed, *asked, missing, "a/b:Q4_0", "a/b:Q4_0\nx/a-Q4_0.gguf\ny/a-Q4_0.gguf")]


# A link without an address, `[x]()`, leads to the page itself.
UNSAFE = re.compile(r"<script|<iframe|<img|\son\w+=\"|(?:href|src)=\"(?!https?:|mailto:|\")", re.IGNORECASE)


def render(data: bytes) -> None:
    """Render an answer as HTML."""
    from qwen35_gguf.server.page import markdown

    for block in markdown.render(as_text(data)):
        assert not UNSAFE.search(block.html), block.html


def render_seeds() -> list[bytes]:
    """All kinds of blocks."""
    text = (
        "# A\n\n1. x\n   * y\n\n> q\n\n```python\nx = 1\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n$x^2$ [l](http://x)"
    )
    return [text.encode(), b"<script>alert(1)</script> [x](javascript:alert(1)) ![i](http://x/y.png)"]


TARGETS = (
    Target(
        "recipe",
        read_recipe,
        recipe_seeds,
        ("qwen35_gguf.quant.recipe_file",),
        ("recipe: 1", "tensors", "layers", "rules:", "!!python/object", "&a", "*a", "<<: ", "0x1", "1:30"),
    ),
    Target("checksums", read_checksums, checksum_seeds, ("qwen35_gguf.release.checksums",), ("../", "  ", " *")),
    Target("corpus", read_corpus, corpus_seeds, ("qwen35_gguf.evaluation.texts.files",), ('"text"', '"messages"')),
    Target("card", read_card, lambda: [CARD.encode()], ("qwen35_gguf.release.card.parts",), ("---\n", "<!-- begin ")),
    Target(
        "names",
        read_names,
        name_seeds,
        ("qwen35_gguf.hub.names", "qwen35_gguf.hub.model_files", "qwen35_gguf.units"),
        (".gguf", "-of-", "mmproj-", "GiB", "://", ":"),
    ),
    Target(
        "markdown",
        render,
        render_seeds,
        ("qwen35_gguf.server.page.markdown", "qwen35_gguf.server.page.math_rules"),
        ("```", "$$", "\\(", "[x](", "](javascript:", "<script>", "|---|"),
        needs=("markdown_it", "pygments"),
    ),
)
