"""The ids of the special tokens, and whether they are added to a text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from gguf import GGUFValueType, Keys

from qwen35_gguf.convert.tokenizer.files import TokenizerFiles
from qwen35_gguf.errors import CheckpointError
from qwen35_gguf.gguf_file.keyvalue import KeyValue
from qwen35_gguf.json_file import ANY, FLAG, LIST, OBJECT, TEXT, JsonObject

# Kind of special token in tokenizer_config.json and config.json -> the key of its id.
SPECIAL_IDS: dict[str, str] = {
    "bos": Keys.Tokenizer.BOS_ID,
    "eos": Keys.Tokenizer.EOS_ID,
    "unk": Keys.Tokenizer.UNK_ID,
    "sep": Keys.Tokenizer.SEP_ID,
    "pad": Keys.Tokenizer.PAD_ID,
    "mask": Keys.Tokenizer.MASK_ID,
}
ADD_TOKEN: dict[str, str] = {
    "bos": Keys.Tokenizer.ADD_BOS,
    "eos": Keys.Tokenizer.ADD_EOS,
    "sep": "tokenizer.ggml.add_sep_token",
}
# Tokens that end a generation in llama.cpp by their text. Source: src/llama-vocab.cpp (special_eog_ids).
_KNOWN_ENDS = ("<|im_end|>", "<|endoftext|>")
# Keys of further tokens that end a generation.
_MORE_ENDS = (Keys.Tokenizer.EOT_ID, Keys.Tokenizer.EOM_ID)


def special_ids(files: TokenizerFiles, ids: Mapping[str, int], size: int, notes: list[str]) -> Iterator[KeyValue]:
    """Yield the ids: by the text that the tokenizer's files name, else by number from config.json.

    Args:
        files: of the checkpoint.
        ids: of all tokens by text.
        size: rows of the embedding.
        notes: gets what the user should know, one line each.

    Raises:
        CheckpointError: a number is outside of the vocabulary.

    """
    named = dict(files.named)
    # cls and sep stand in for bos and eos where only the former are named.
    named["bos"], named["eos"] = named["bos"] or named["cls"], named["eos"] or named["sep"]
    found: dict[str, int] = {}
    for kind in SPECIAL_IDS:
        id_ = ids.get(named[kind] or "")
        if id_ is None:
            numbers = (
                _number(part, f"{kind}_token_id") for part in (files.config, files.config.section("text_config"))
            )
            id_ = next((number for number in numbers if number is not None), None)
        if id_ is None:
            continue
        if not 0 <= id_ < size:
            raise CheckpointError(
                f"{files.config.where}: {kind}_token_id is {id_}, outside the vocabulary of {size}; "
                "take config.json and the tokenizer of one model"
            )
        found[kind] = id_
    yield from (KeyValue.of(SPECIAL_IDS[kind], id_, GGUFValueType.UINT32) for kind, id_ in found.items())
    yield from _more_ends(files, {found.get("eos"), *(ids.get(text) for text in _KNOWN_ENDS)}, size, notes)


def _number(config: JsonObject, key: str) -> int | None:
    """Return an id; None for a list (several end tokens), which belongs to generation_config.json."""
    value = config.get(key, ANY)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _more_ends(files: TokenizerFiles, known: set[int | None], size: int, notes: list[str]) -> Iterator[KeyValue]:
    """Yield the tokens that end an answer, besides those that llama.cpp knows.

    They are those of generation_config.json; without that file those of config.json, its top level before text_config.
    """
    places = [files.generation] if files.generation.values else [files.config, files.config.section("text_config")]
    value = next((place.get("eos_token_id", ANY) for place in places if "eos_token_id" in place), None)
    listed = value if isinstance(value, list) else [value]
    wanted = [id_ for id_ in listed if isinstance(id_, int) and not isinstance(id_, bool) and 0 <= id_ < size]
    more = [id_ for id_ in dict.fromkeys(wanted) if id_ not in known]
    yield from (KeyValue.of(key, id_, GGUFValueType.UINT32) for key, id_ in zip(_MORE_ENDS, more, strict=False))
    if len(more) > len(_MORE_ENDS):
        left_out = ", ".join(map(str, more[len(_MORE_ENDS) :]))
        notes.append(
            f"{files.generation.where}: eos_token_id has more tokens than a GGUF file holds; without {left_out}"
        )


def add_token_flags(files: TokenizerFiles) -> Iterator[KeyValue]:
    """Yield whether bos, eos and sep are added; with a tokenizer.json its post-processor decides on the first two."""
    flags = {"bos": False, "eos": False} if files.tokenizer.values else {}
    post = files.tokenizer.section("post_processor")
    for processor in [post, *post.sections("processors")]:
        if processor.get("type", TEXT) == "TemplateProcessing":
            single = processor.get("single", LIST, [])
            ends = (("bos", single[0]), ("eos", single[-1])) if len(single) > 1 else ()
            for kind, item in ends:
                part = processor.inner({"item": item}, processor.path).get("item", OBJECT, {})
                token = processor.inner(part, processor.path).section("SpecialToken").get("id", TEXT)
                if token is not None:
                    flags[kind] = token == files.named[kind]
    for kind, key in ADD_TOKEN.items():
        value = flags[kind] if kind in flags else files.settings.get(f"add_{kind}_token", FLAG)
        if value is not None:
            yield KeyValue.of(key, value, GGUFValueType.BOOL)
