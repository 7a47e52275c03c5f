"""What tokenizer.json does to text before tokens are looked up, compared with what the family does.

Source: transformers tokenization_qwen3_5.py. AutoTokenizer builds the normalizer and the pre-tokenizer of the family,
whatever tokenizer.json holds, and so do llama.cpp's "qwen35" and this project's runtime (NFC).
"""

from __future__ import annotations

from collections.abc import Iterator

from qwen35_gguf.json_file import FLAG, OBJECT, TEXT, JsonObject

NAME = "qwen35"  # llama.cpp's name of the family's pre-tokenizer
# They differ in combining marks (\p{M}): the older regex breaks words of Devanagari, Thai and others at vowel signs.
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_TAIL = r"[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
FAMILY = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+" + _TAIL
OLDER = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+" + _TAIL
_TAKEN = "the family's is written, as transformers' AutoTokenizer takes it"


def notes_of(tokenizer: JsonObject) -> Iterator[str]:
    """Yield a note for each step of tokenizer.json that is not the family's.

    Raises:
        CheckpointError: an entry is of the wrong type.

    """
    kinds = list(_kinds(tokenizer.section("normalizer")))
    if kinds != ["NFC"]:
        what = f"normalizes with {', '.join(kinds)}" if kinds else "has no normalizer"
        yield f"tokenizer.json {what}, not NFC: {_TAKEN}"
    patterns = list(_split_patterns(tokenizer.section("pre_tokenizer")))
    if patterns == [OLDER]:
        yield f"tokenizer.json splits words by Qwen2's older regex: {_TAKEN}"
    elif patterns != [FAMILY]:
        what = " and ".join(map(repr, patterns)) or "no regex"
        yield f"tokenizer.json splits words by {what}, which is not the family's regex: {_TAKEN}"


def _kinds(step: JsonObject) -> Iterator[str]:
    """Yield the type of a normalizer, those of a sequence one by one."""
    if step.get("type", TEXT) == "Sequence":
        for part in step.sections("normalizers"):
            yield from _kinds(part)
    elif step.values:
        yield step.need("type", TEXT)


def _split_patterns(step: JsonObject) -> Iterator[str]:
    """Yield the patterns by which a pre-tokenizer splits words."""
    kind = step.get("type", TEXT)
    if kind == "Sequence":
        for part in step.sections("pretokenizers"):
            yield from _split_patterns(part)
    elif kind == "Split":
        pattern = step.need("pattern", OBJECT)
        yield str(pattern.get("Regex", pattern.get("String", pattern)))
    elif kind == "ByteLevel" and step.get("use_regex", FLAG, True):
        yield "the regex of GPT-2"
