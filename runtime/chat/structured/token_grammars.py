"""Compile grammars for the tokens of a vocabulary, with llguidance."""

from __future__ import annotations

import json
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

from qwen35_gguf.errors import GrammarError, MissingDependencyError
from qwen35_gguf.runtime.chat.structured.by_digest import ByDigest
from qwen35_gguf.runtime.chat.structured.schema_walk import CheckedSchema, Schema, shown
from qwen35_gguf.runtime.llama.vocabulary import Vocabulary

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

# One line, as `json.dumps` writes it: white space without an end is impossible.
JSON_OPTIONS = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
SHORT_ESCAPES = 'nrbtf\\"'  # an escape by number could spell the name of a property in a second way
SPECIAL = b"\xff"  # begins the bytes of tokens that are no text
MAX_REASON = 200


@cache
def _llguidance() -> Any:
    try:
        import llguidance
    except ImportError:
        message = "llguidance is needed for grammars; install it with pip install llguidance"
        raise MissingDependencyError(message) from None
    return llguidance


class _Bytes:
    """A vocabulary of all bytes, to check grammars without a model."""

    eos_token_id = 256
    bos_token_id = None
    tokens = (*(bytes([byte]) for byte in range(256)), SPECIAL + b"end")
    special_token_ids = (256,)

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


@cache
def byte_tokenizer() -> LLTokenizer:
    """Return a vocabulary whose tokens are the 256 bytes, and 256 for the end."""
    library = _llguidance()
    return library.LLTokenizer(library.TokenizerWrapper(_Bytes()), n_vocab=257, eos_token=256, slices=[])  # type: ignore[no-any-return]


class _Tokens:
    """What llguidance reads of a vocabulary: the bytes of the tokens, and how text is split."""

    bos_token_id = None

    def __init__(self, vocabulary: Vocabulary, endings: list[int]) -> None:
        self._vocabulary = vocabulary
        self.tokens = vocabulary.pieces()
        self.special_token_ids = sorted({*vocabulary.tags, *endings})
        for token in self.special_token_ids:
            self.tokens[token] = SPECIAL + vocabulary.text_of(token).encode()
        self.eos_token_id = endings[0]

    def __call__(self, text: bytes) -> list[int]:
        return self._vocabulary.tokenize_plain(text.decode("utf-8", errors="replace"))


class TokenGrammars:
    """Compiles grammars for one vocabulary; what all grammars share is made when the first is compiled.

    Attributes:
        vocabulary: of the model.

    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Take the vocabulary, which must stay loaded."""
        self.vocabulary = vocabulary

    @cached_property
    def endings(self) -> list[int]:
        """The tokens that end a generation."""
        return [token for token in range(self.vocabulary.size) if self.vocabulary.ends(token)]

    @cached_property
    def _tokenizer(self) -> LLTokenizer:
        library = _llguidance()
        tokens = library.TokenizerWrapper(_Tokens(self.vocabulary, self.endings))
        return library.LLTokenizer(  # type: ignore[no-any-return]
            tokens, n_vocab=self.vocabulary.size, eos_token=self.endings, slices=library.LLTokenizer.json_slices()
        )

    def prepare(self) -> None:
        """Make what all grammars share now: it takes a second, which the first grammar would take longer otherwise.

        Raises:
            MissingDependencyError: llguidance is not installed.

        """
        self._tokenizer  # noqa: B018 (makes it)

    def matcher(self, grammar: str, where: str = "grammar") -> LLMatcher:
        """Compile a grammar.

        Args:
            grammar: as `json_grammar`, `regex_grammar` and `lark_grammar` return it.
            where: begins the message.

        Raises:
            GrammarError: it cannot be compiled; the reason is given.
            MissingDependencyError: llguidance is not installed.

        """
        return _matcher(self._tokenizer, grammar, where)


def _matcher(tokenizer: LLTokenizer, grammar: str, where: str) -> LLMatcher:
    library = _llguidance()
    limits = library.LLParserLimits(verbose_errors=False)
    matcher: LLMatcher = library.LLMatcher(tokenizer, grammar, log_level=0, limits=limits)
    if matcher.is_error():
        raise GrammarError(f"{where}: cannot be used ({short(matcher.get_error())}); correct it")
    return matcher


def byte_matcher(grammar: str, where: str = "grammar") -> LLMatcher:
    """Compile a grammar for the vocabulary of bytes; errors as of `TokenGrammars.matcher`."""
    return _matcher(byte_tokenizer(), grammar, where)


def short(message: str) -> str:
    """Return what a message of llguidance says, in one line: its first line, and the reason where that is below."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    reasons = [line for line in lines[1:] if line.startswith("error: ")]
    text = " ".join([lines[0].rstrip(":"), *reasons[:1]]) if lines else "no reason given"
    return text if len(text) <= MAX_REASON else text[: MAX_REASON - 3] + "..."


# ---- grammars as llguidance takes them -----------------------------------------------------------------------------


def json_options(checked: CheckedSchema) -> dict[str, Any]:
    """Return how JSON is written."""
    return JSON_OPTIONS if checked.has_control_characters else {**JSON_OPTIONS, "json_allowed_escapes": SHORT_ESCAPES}


def json_document(checked: CheckedSchema, schema: Schema) -> dict[str, Any]:
    """Return a schema with the definitions of a checked one, as llguidance's grammars take it after `%json`."""
    return {"x-guidance": json_options(checked), **checked.document(schema)}


def json_grammar(checked: CheckedSchema, where: str = "JSON schema") -> str:
    """Return the grammar of a checked schema.

    Raises:
        GrammarError: nothing is valid by it, or it is beyond the engine; the message names the place.

    """
    grammar = _json(checked, checked.schema)
    try:
        byte_matcher(grammar)
    except GrammarError as error:
        raise _placed(checked, where) or error from None
    return grammar


def is_possible(checked: CheckedSchema, schema: Schema) -> bool:
    """Report whether anything is valid by a schema with the definitions of a checked one."""
    matcher = _llguidance().LLMatcher(byte_tokenizer(), _json(checked, schema), log_level=0)
    return not matcher.is_error()


@ByDigest
def is_empty(terminal: str) -> bool:
    """Report whether no text matches a terminal of Lark."""
    grammar = lark_grammar(f"start: TEXT\nTEXT: {terminal}\n")
    matcher = _llguidance().LLMatcher(byte_tokenizer(), grammar, log_level=0)
    matcher.compute_bitmask()
    return bool(matcher.is_error())


def _json(checked: CheckedSchema, schema: Schema) -> str:
    return str(_llguidance().LLMatcher.grammar_from_json_schema(json.dumps(json_document(checked, schema))))


def _placed(checked: CheckedSchema, where: str) -> GrammarError | None:
    """Find the innermost schema that cannot be compiled."""
    for path, schema in checked.places:
        matcher = _llguidance().LLMatcher(byte_tokenizer(), _json(checked, schema), log_level=0)
        if matcher.is_error():
            reason = short(matcher.get_error())
            if "oneOf" in reason:
                reason = "the schemas of oneOf are not certainly disjoint; anyOf allows that"
            return GrammarError(f"{where}: {shown(path)} cannot be enforced ({reason}); change it")
    return None


def regex_grammar(pattern: str) -> str:
    """Return the grammar of a regular expression that the whole answer matches."""
    return str(_llguidance().LLMatcher.grammar_from_regex(pattern))


def lark_grammar(text: str) -> str:
    """Return the grammar of Lark rules, in the dialect of llguidance."""
    return str(_llguidance().LLMatcher.grammar_from_lark(text))
