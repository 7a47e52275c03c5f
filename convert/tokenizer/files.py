"""The files of a checkpoint that describe its tokenizer, and the special tokens that they name.

Source: transformers tokenization_utils_base.py (`_from_pretrained`): special_tokens_map.json and added_tokens.json
count only without `added_tokens_decoder` in tokenizer_config.json.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from qwen35_gguf.json_file import ANY, OBJECT, JsonObject, read_json

DECODER = "added_tokens_decoder"
KINDS = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
# What the tokenizer's class takes for these without an entry. Source: transformers tokenization_qwen3_5.py.
DEFAULTS = {"eos": "<|endoftext|>", "pad": "<|endoftext|>"}


@dataclass(frozen=True)
class TokenizerFiles:
    """What the files hold; those that are absent are empty.

    Attributes:
        directory: of the checkpoint.
        tokenizer: tokenizer.json.
        settings: tokenizer_config.json.
        special_map: special_tokens_map.json.
        added: added_tokens.json.
        config: config.json.
        generation: generation_config.json.

    """

    directory: Path
    tokenizer: JsonObject
    settings: JsonObject
    special_map: JsonObject
    added: JsonObject
    config: JsonObject
    generation: JsonObject

    @cached_property
    def has_decoder(self) -> bool:
        """Whether tokenizer_config.json lists the added tokens, so that no other file counts for them."""
        return self.settings.get(DECODER, OBJECT) is not None

    @cached_property
    def named(self) -> dict[str, str | None]:
        """The texts of `eos`, `pad` and so on; None for what is null, or named nowhere and without a default."""
        return {kind: self._named(kind) for kind in KINDS}

    def _named(self, kind: str) -> str | None:
        key = f"{kind}_token"
        for file in self._special_files:
            if key in file.values:
                return _text(file, key)
        return DEFAULTS.get(kind)

    @cached_property
    def special(self) -> list[str]:
        """All texts that the files name for a purpose: those are special, whatever their flag is."""
        named = [_text(file, key) for file in self._special_files for key in file.values if key.endswith("_token")]
        return list(dict.fromkeys([*filter(None, named), *self._extra]))

    @property
    def _special_files(self) -> list[JsonObject]:
        return [self.settings] if self.has_decoder else [self.special_map, self.settings]

    @property
    def _extra(self) -> Iterator[str]:
        """Yield `extra_special_tokens`, and `additional_special_tokens`, its older name."""
        for file in self._special_files:
            for key in ("extra_special_tokens", "additional_special_tokens"):
                more = file.get(key, ANY)
                listed = list(more.values()) if isinstance(more, dict) else more
                if listed is not None and not isinstance(listed, list):
                    raise file.mistake(key, "a list or an object of tokens")
                for token in listed or []:
                    text = token.get("content") if isinstance(token, dict) else token
                    if not isinstance(text, str):
                        raise file.mistake(key, "a list or an object of tokens, each a text or an object with content")
                    yield text


def read_files(directory: Path) -> TokenizerFiles:
    """Read the files. Raises CheckpointError for one that cannot be read."""

    def read(name: str) -> JsonObject:
        return read_json(directory / name, optional=True)

    return TokenizerFiles(
        directory,
        read("tokenizer.json"),
        read("tokenizer_config.json"),
        read("special_tokens_map.json"),
        read("added_tokens.json"),
        read("config.json"),
        read("generation_config.json"),
    )


def _text(file: JsonObject, key: str) -> str | None:
    """Return a token that is written as a text or as an object with `content`; None for null or another thing."""
    value: Any = file.values.get(key)
    if isinstance(value, dict):
        value = value.get("content")
    if value is not None and not isinstance(value, str) and key.removesuffix("_token") in KINDS:
        raise file.mistake(key, "a token: a text, or an object with content")
    return value if isinstance(value, str) else None
