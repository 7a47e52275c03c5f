"""Tokenizer files -> the ``tokenizer.*`` keys of a GGUF file.

Read with plain JSON: neither transformers nor tokenizers is needed. Two sources are known:

* ``tokenizer.json`` (byte-level BPE, what Qwen3.5 publishes), written as the model "gpt2";
* ``tokenizer.model`` (SentencePiece), written as "llama", when there is no ``tokenizer.json``.

The keys and their types are those of ``gguf.SpecialVocab`` and of llama.cpp's converter. Left out, because no Qwen3.5
tokenizer has them: other BPE flavours (``byte_fallback``), lower-casing normalizers, and WordPiece.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gguf import GGUFValueType, Keys, TokenType

from qwen35_gguf.convert.chat_template import chat_templates
from qwen35_gguf.convert.json_file import read_json
from qwen35_gguf.errors import CheckpointError, MissingDependencyError
from qwen35_gguf.gguf_file.keyvalue import KeyValue

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_TAIL = r"[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"

# The regex in tokenizer.json's Split -> the name under which llama.cpp implements it. They differ in combining
# marks (\p{M}): the older one breaks words of Devanagari, Thai and others at every vowel sign.
PRE_TOKENIZERS: dict[str, str] = {
    _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+" + _TAIL: "qwen35",
    _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+" + _TAIL: "qwen2",
}

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

# Added tokens that publishers forget to mark as special, besides <|...|>.
_SPECIAL_TEXTS = frozenset({"<pad>", "<mask>", "<2mass>", "[@BOS@]"})
_SPECIAL_BRACKETS = (("<|", "|>"), ("<｜", "｜>"), ("<unused", ">"))  # noqa: RUF001 - DeepSeek's full-width bars

# SentencePiece scores for ids without a piece and for added tokens: far below any trained log-probability.
_UNUSED_SCORE = -10000.0
_ADDED_SCORE = -1000.0


def vocabulary(directory: Path, vocab_size: int) -> list[KeyValue]:
    """Return the ``tokenizer.*`` entries of the checkpoint in ``directory``.

    Args:
        directory: The folder with ``tokenizer.json`` or ``tokenizer.model`` and their companions.
        vocab_size: Rows of the embedding; ids without a token are filled with ``[PAD{id}]``, marked unused.

    Raises:
        CheckpointError: No tokenizer, an unreadable file, an id that is used twice or is outside of the vocabulary, or
            a pre-tokenizer that llama.cpp would not reproduce.
        MissingDependencyError: A SentencePiece model without the package that reads it.

    """
    tokenizer_file = directory / "tokenizer.json"
    sentencepiece_file = directory / "tokenizer.model"
    settings = read_json(directory / "tokenizer_config.json", optional=True)
    if tokenizer_file.is_file():
        tokenizer = read_json(tokenizer_file)
        entries = _bpe(tokenizer_file, tokenizer, settings, vocab_size)
    elif sentencepiece_file.is_file():
        tokenizer = {}
        entries = _sentencepiece(sentencepiece_file, settings, vocab_size)
    else:
        raise CheckpointError(
            f"{directory}: no tokenizer found; copy tokenizer.json (or tokenizer.model) of the original model into it"
        )
    entries += _special_ids(directory, tokenizer, settings, vocab_size)
    entries += _add_token_flags(tokenizer, settings)
    entries += chat_templates(directory, settings)
    return entries


# --- byte-level BPE -----------------------------------------------------------------------------------------------


def _bpe(path: Path, tokenizer: Mapping[str, Any], settings: Mapping[str, Any], vocab_size: int) -> list[KeyValue]:
    model = tokenizer.get("model")
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE" or not isinstance(model.get("vocab"), dict):
        raise CheckpointError(f"{path}: model.type is not BPE with a vocabulary; only Qwen's byte-level BPE is known")
    pre = _pre_tokenizer(path, tokenizer)

    texts: dict[int, str] = {}
    for text, token_id in model["vocab"].items():
        _assign_id(path, texts, token_id, text, vocab_size)
    types = dict.fromkeys(texts, TokenType.NORMAL)

    named_special = _named_special_tokens(settings)
    for token in _added_tokens(path, tokenizer, settings):
        token_id, text = token["id"], token["content"]
        _assign_id(path, texts, token_id, text, vocab_size)
        if token.get("special") or text in named_special or _looks_special(text):
            types[token_id] = TokenType.CONTROL
        else:
            types[token_id] = TokenType.USER_DEFINED
            # llama.cpp matches these against raw text, where SentencePiece's space mark never occurs.
            texts[token_id] = text.replace("▁", " ")

    tokens = [texts.get(i, f"[PAD{i}]") for i in range(vocab_size)]
    entries = [
        KeyValue.of(Keys.Tokenizer.MODEL, "gpt2", GGUFValueType.STRING),
        KeyValue.of(Keys.Tokenizer.PRE, pre, GGUFValueType.STRING),
        _array(Keys.Tokenizer.LIST, tokens, GGUFValueType.STRING),
        _array(
            Keys.Tokenizer.TOKEN_TYPE,
            [int(types.get(i, TokenType.UNUSED)) for i in range(vocab_size)],
            GGUFValueType.INT32,
        ),
    ]
    merges = _merges(path, model)
    if merges:
        entries.append(_array(Keys.Tokenizer.MERGES, merges, GGUFValueType.STRING))
    return entries


def _pre_tokenizer(path: Path, tokenizer: Mapping[str, Any]) -> str:
    """Return llama.cpp's name for the regex by which the tokenizer splits text into words."""
    found = list(_split_patterns(tokenizer.get("pre_tokenizer")))
    names = [PRE_TOKENIZERS.get(pattern) for pattern in found]
    if len(names) == 1 and names[0] is not None:
        return names[0]
    quoted = " and ".join(repr(pattern) for pattern in found) or "no Split regex at all"
    known = ", ".join(f"{name} ({pattern!r})" for pattern, name in PRE_TOKENIZERS.items())
    raise CheckpointError(
        f"{path}: the pre-tokenizer has {quoted}, which llama.cpp would not reproduce; known are {known}. "
        "Use the tokenizer.json of the original model"
    )


def _split_patterns(node: object) -> Iterator[str]:
    if not isinstance(node, dict):
        return
    if node.get("type") == "Sequence":
        for child in node.get("pretokenizers", []):
            yield from _split_patterns(child)
    elif node.get("type") == "Split":
        pattern = node.get("pattern")
        yield str(pattern.get("Regex", pattern) if isinstance(pattern, dict) else pattern)


def _assign_id(path: Path, texts: dict[int, str], token_id: object, text: str, vocab_size: int) -> None:
    """Give an id a text. The vocabulary and the added tokens of a tokenizer.json may both have the same one."""
    if not isinstance(token_id, int) or isinstance(token_id, bool) or not 0 <= token_id < vocab_size:
        raise CheckpointError(
            f"{path}: token {text!r} has the id {token_id!r}, outside the vocabulary of {vocab_size} that config.json "
            "declares; the tokenizer belongs to another model"
        )
    if texts.setdefault(token_id, text) != text:
        raise CheckpointError(f"{path}: the tokens {texts[token_id]!r} and {text!r} share the id {token_id}")


def _added_tokens(path: Path, tokenizer: Mapping[str, Any], settings: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    """Return the added tokens by id: tokenizer.json's, and those that only tokenizer_config.json knows."""
    added: dict[object, Mapping[str, Any]] = {}
    for token in tokenizer.get("added_tokens") or []:
        if not isinstance(token, dict) or "id" not in token or not isinstance(token.get("content"), str):
            raise CheckpointError(f"{path}: added_tokens has an entry without an id or content: {token!r}")
        if token["id"] in added and added[token["id"]]["content"] != token["content"]:
            raise CheckpointError(
                f"{path}: the tokens {added[token['id']]['content']!r} and {token['content']!r} "
                f"share the id {token['id']}"
            )
        added[token["id"]] = token
    for token_id, token in _declared_tokens(path.with_name("tokenizer_config.json"), settings):
        known = added.get(token_id)
        if known is None:
            added[token_id] = {**token, "id": token_id}
        elif known["content"] != token["content"]:
            raise CheckpointError(
                f"{path}: id {token_id} is {known['content']!r} here and {token['content']!r} in tokenizer_config.json"
            )
    return added.values()


def _declared_tokens(path: Path, settings: Mapping[str, Any]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield ``added_tokens_decoder`` of tokenizer_config.json with the ids as numbers."""
    for key, token in (settings.get("added_tokens_decoder") or {}).items():
        if not str(key).isdecimal() or not isinstance(token, dict) or not isinstance(token.get("content"), str):
            raise CheckpointError(f"{path}: added_tokens_decoder has a malformed entry {key!r}: {token!r}")
        yield int(key), token


def _named_special_tokens(settings: Mapping[str, Any]) -> set[str]:
    """Return the texts that tokenizer_config.json names for a purpose: those are special whatever their flag says."""
    named = [settings.get(f"{kind}_token") for kind in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")]
    for key in ("additional_special_tokens", "extra_special_tokens"):
        more = settings.get(key) or []
        named += list(more.values() if isinstance(more, dict) else more)
    return {text for text in map(_content, named) if text is not None}


def _content(token: object) -> str | None:
    """Return the text of a token that is written either as a string or as an object with ``content``."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None


def _looks_special(text: str) -> bool:
    return text in _SPECIAL_TEXTS or any(text.startswith(a) and text.endswith(b) for a, b in _SPECIAL_BRACKETS)


def _merges(path: Path, model: Mapping[str, Any]) -> list[str]:
    """Return the merges as "left right". A space inside a part becomes "Ġ", the byte-level alphabet's space."""
    merges = []
    for merge in model.get("merges") or []:
        if isinstance(merge, str):
            merges.append(merge)
        elif isinstance(merge, list) and len(merge) == 2 and all(isinstance(part, str) for part in merge):
            merges.append(" ".join(part.replace(" ", chr(ord(" ") + 256)) for part in merge))
        else:
            raise CheckpointError(f"{path}: {merge!r} is not a merge; expected 'left right' or ['left', 'right']")
    return merges


# --- SentencePiece ------------------------------------------------------------------------------------------------


def _sentencepiece(path: Path, settings: Mapping[str, Any], vocab_size: int) -> list[KeyValue]:
    try:
        from sentencepiece import SentencePieceProcessor
    except ImportError:
        raise MissingDependencyError(
            f"{path} is a SentencePiece model; install its reader: pip install 'qwen35-gguf[sentencepiece]'"
        ) from None
    pieces = SentencePieceProcessor()
    try:
        pieces.LoadFromFile(str(path))
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"{path}: not a SentencePiece model ({error}); download it again") from error

    texts: dict[int, str] = {}
    types: dict[int, TokenType] = {}
    scores: dict[int, float] = {}
    kinds = (
        (pieces.IsUnknown, TokenType.UNKNOWN),
        (pieces.IsControl, TokenType.CONTROL),
        (pieces.IsUnused, TokenType.UNUSED),
        (pieces.IsByte, TokenType.BYTE),
    )
    for token_id in range(pieces.vocab_size()):
        _assign_id(path, texts, token_id, pieces.IdToPiece(token_id), vocab_size)
        scores[token_id] = pieces.GetScore(token_id)
        types[token_id] = next((kind for test, kind in kinds if test(token_id)), TokenType.NORMAL)

    # Added tokens replace pieces: fine-tunes rename the reserved ones. tokenizer_config.json overrides both.
    renamed = [
        (token_id, text, False)
        for text, token_id in read_json(path.with_name("added_tokens.json"), optional=True).items()
    ]
    renamed_types = dict.fromkeys((token_id for token_id, *_ in renamed), TokenType.USER_DEFINED)
    for token_id, token in _declared_tokens(path.with_name("tokenizer_config.json"), settings):
        text = token["content"]
        special = bool(token.get("special")) or _looks_special(text)
        renamed.append((token_id, text if special else text.replace("▁", " "), special))
        renamed_types[token_id] = TokenType.CONTROL if special else TokenType.USER_DEFINED
    for token_id, text, _ in renamed:
        _assign_id(path, {}, token_id, text, vocab_size)
        texts[token_id] = text
        scores[token_id] = _ADDED_SCORE
        types[token_id] = renamed_types[token_id]

    ids = range(vocab_size)
    return [
        KeyValue.of(Keys.Tokenizer.MODEL, "llama", GGUFValueType.STRING),
        KeyValue.of(Keys.Tokenizer.PRE, "default", GGUFValueType.STRING),
        _array(Keys.Tokenizer.LIST, [texts.get(i, f"[PAD{i}]") for i in ids], GGUFValueType.STRING),
        _array(Keys.Tokenizer.SCORES, [scores.get(i, _UNUSED_SCORE) for i in ids], GGUFValueType.FLOAT32),
        _array(Keys.Tokenizer.TOKEN_TYPE, [int(types.get(i, TokenType.UNUSED)) for i in ids], GGUFValueType.INT32),
    ]


# --- what both kinds share ----------------------------------------------------------------------------------------


def _special_ids(
    directory: Path, tokenizer: Mapping[str, Any], settings: Mapping[str, Any], vocab_size: int
) -> Iterator[KeyValue]:
    """Yield the ids of the special tokens: by text from tokenizer_config.json, else by number from config.json."""
    config = read_json(directory / "config.json", optional=True)
    nested = config.get("text_config") or {}
    # Only tokenizer.json's list counts here, as for the reference; a SentencePiece model takes config.json's ids.
    ids = {token["content"]: token["id"] for token in reversed(tokenizer.get("added_tokens") or [])}
    # cls and sep stand in for bos and eos where only the former are named.
    named = {kind: settings.get(f"{kind}_token") for kind in SPECIAL_IDS}
    named["bos"] = named["bos"] or settings.get("cls_token")
    named["eos"] = named["eos"] or named["sep"]

    for kind, key in SPECIAL_IDS.items():
        token_id = ids.get(_content(named[kind]) or "")
        if token_id is None:
            token_id = config.get(f"{kind}_token_id")
        if token_id is None:
            token_id = nested.get(f"{kind}_token_id")
        # A list (several end tokens) belongs to generation_config.json, not to the vocabulary.
        if not isinstance(token_id, int) or isinstance(token_id, bool):
            continue
        if not 0 <= token_id < vocab_size:
            raise CheckpointError(
                f"{directory / 'config.json'}: {kind}_token_id is {token_id}, outside the vocabulary of {vocab_size}"
            )
        yield KeyValue.of(key, token_id, GGUFValueType.UINT32)


def _add_token_flags(tokenizer: Mapping[str, Any], settings: Mapping[str, Any]) -> Iterator[KeyValue]:
    """Yield whether bos, eos and sep are added: what the post-processor does beats what the settings claim."""
    flags: dict[str, bool] = {}
    post = tokenizer.get("post_processor") or {}
    for processor in post.get("processors") or [post]:
        if processor.get("type") == "ByteLevel":
            flags.setdefault("bos", False)
            flags.setdefault("eos", False)
        elif processor.get("type") == "TemplateProcessing":
            single = processor.get("single") or []
            ends = (("bos", single[0]), ("eos", single[-1])) if len(single) > 1 else ()
            for kind, item in ends:
                if text := item.get("SpecialToken", {}).get("id"):
                    flags[kind] = text == _content(settings.get(f"{kind}_token"))
    for kind, key in ADD_TOKEN.items():
        claimed = settings.get(f"add_{kind}_token")
        value = flags.get(kind, claimed)
        if isinstance(value, bool):
            yield KeyValue.of(key, value, GGUFValueType.BOOL)


def _array(key: str, values: Sequence[str] | Sequence[int] | Sequence[float], element: GGUFValueType) -> KeyValue:
    return KeyValue.of(key, values, GGUFValueType.ARRAY, element)
