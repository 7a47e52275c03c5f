"""The metadata that a text model needs: rotary embedding, tokenizer, end of turn, and the type's name.

Source: llama.cpp src/models/qwen35.cpp (load_arch_hparams) and src/llama-vocab.cpp (which tokens end a text).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from gguf import GGMLQuantizationType, LlamaFileType

from qwen35_gguf.architecture.tags import TAGS
from qwen35_gguf.errors import ModelError, QuantizationError
from qwen35_gguf.quant import presets, tensor_types
from qwen35_gguf.release.lint.diagnostic import Diagnostic, Subject
from qwen35_gguf.release.lint.tensors import architecture_of

PRE, MODEL = "tokenizer.ggml.pre", "tokenizer.ggml.model"
TOKENS, TYPES, MERGES = "tokenizer.ggml.tokens", "tokenizer.ggml.token_type", "tokenizer.ggml.merges"
EOS, ADD_BOS = "tokenizer.ggml.eos_token_id", "tokenizer.ggml.add_bos_token"
EOT, EOM = "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"
FILE_TYPE = "general.file_type"
END_OF_TURN, END_OF_TEXT, START_OF_TURN = "<|im_end|>", "<|endoftext|>", "<|im_start|>"
NORMAL, CONTROL, UNUSED = 1, 3, 5  # of llama.cpp's token types
SET = "set it with `qwen35 metadata FILE set {} {}`"


def rope(subject: Subject) -> Iterator[Diagnostic]:
    """Check rotary positions: sections for time, height and width, which cover half of the rotated dimensions."""
    arch = subject.arch
    key, base = f"{arch}.rope.dimension_sections", f"{arch}.rope.freq_base"
    sections, dimensions = subject.get(key), subject.number(f"{arch}.rope.dimension_count")
    if sections is None:
        advice = SET.format(key, "'[11, 11, 10, 0]' --type array[int32]")
        yield Diagnostic("error", "rope", key, "is missing; llama.cpp refuses the file", advice)
    elif not isinstance(sections, list) or len(sections) != 4:
        yield Diagnostic("error", "rope", key, f"is {sections}, not four numbers", SET.format(key, "'[11, 11, 10, 0]'"))
    elif dimensions and 2 * sum(sections) != dimensions:
        what = f"is {sections}, twice whose sum is not rope.dimension_count, {dimensions}"
        yield Diagnostic("error", "rope", key, what, "take both from the checkpoint's config.json, or convert again")
    if not dimensions:
        where = f"{arch}.rope.dimension_count"
        what = "is missing: llama.cpp would rotate whole heads instead of a quarter; answers are nonsense"
        yield Diagnostic("error", "rope", where, what, "set it to partial_rotary_factor x head_dim, or convert again")
    if subject.get(base) is None:
        what = "is missing: llama.cpp would use 10,000; answers are nonsense"
        yield Diagnostic("error", "rope", base, what, SET.format(base, "10000000 (rope_theta of config.json)"))


def vocabulary(subject: Subject) -> Iterator[Diagnostic]:
    """Check that there are as many tokens as rows of the embedding, each with a type, and the merges."""
    tokens = subject.entry(TOKENS)
    count = tokens.count if tokens else 0
    if not count:
        yield Diagnostic(
            "error", "vocabulary", TOKENS, "is missing; there is no tokenizer", "convert the checkpoint again"
        )
        return
    for name in ("token_embd.weight", "output.weight"):
        shape = subject.shape(name)
        if len(shape) > 1 and shape[0] != count:
            what = f"has {shape[0]:,} rows, but there are {count:,} tokens"
            yield Diagnostic("error", "vocabulary", name, what, "convert again with the tokenizer of this checkpoint")
    size = subject.number("{arch}.vocab_size", count)
    if size != count:
        key = f"{subject.arch}.vocab_size"
        yield Diagnostic(
            "error", "vocabulary", key, f"is {size:,}, but there are {count:,} tokens", SET.format(key, count)
        )
    types = subject.entry(TYPES)
    if types is None or types.count != count:
        what = "is missing" if types is None else f"has {types.count:,} entries for {count:,} tokens"
        yield Diagnostic("error", "vocabulary", TYPES, what, "convert the checkpoint again")
    merges = subject.entry(MERGES)
    if merges is None or not merges.count:
        what = "is missing; llama.cpp cannot split words into tokens"
        yield Diagnostic("error", "vocabulary", MERGES, what, "convert the checkpoint again")


def pre_tokenizer(subject: Subject) -> Iterator[Diagnostic]:
    """Check how text is split before tokens are looked up; another rule gives tokens that are unknown to the model."""
    for key, wanted in ((MODEL, "gpt2"), (PRE, "qwen35")):
        value = subject.get(key)
        if value != wanted:
            what = f"is {value!r}, where Qwen3.5 needs {wanted!r}" if value else "is missing"
            yield Diagnostic("error", "pre-tokenizer", key, f"{what}; tokens will be wrong", SET.format(key, wanted))


def end_tokens(subject: Subject) -> Iterator[Diagnostic]:
    """Check that answers can end: the tokens at the end of a turn exist, are control tokens, and are named as such."""
    tokens, types = subject.get(TOKENS, []), subject.get(TYPES, [])
    place = {text: index for index, text in enumerate(tokens)}
    for name in (START_OF_TURN, END_OF_TURN, END_OF_TEXT):
        index = place.get(name)
        if index is None:
            advice = "convert the checkpoint again"
            yield Diagnostic("error", "end tokens", TOKENS, f"has no {name}, which the chat template writes", advice)
        elif index < len(types) and types[index] != CONTROL:
            what = f"makes {name} (token {index}) ordinary text; it would be split, or shown to users"
            yield Diagnostic("error", "end tokens", TYPES, what, "convert again with the checkpoint's tokenizer files")
    yield from _end_token(subject, EOS, tokens)
    for key in (EOT, EOM, "tokenizer.ggml.bos_token_id", "tokenizer.ggml.padding_token_id"):
        index = subject.get(key)
        if index is not None and not (isinstance(index, int) and 0 <= index < len(tokens)):
            advice = f"remove it with `qwen35 metadata FILE unset {key}`"
            yield Diagnostic("error", "end tokens", key, f"is {index}, which is not a token", advice)
    if subject.get(ADD_BOS) is True:
        what = "is true: each prompt would begin with a token that the model was not trained on"
        yield Diagnostic("error", "end tokens", ADD_BOS, what, SET.format(ADD_BOS, "false"))


def tags(subject: Subject) -> Iterator[Diagnostic]:
    """Check that the tags of thinking and tool calls are tokens, and text: control tokens are not shown to programs."""
    tokens, types = subject.get(TOKENS, []), subject.get(TYPES, [])
    place = {text: index for index, text in enumerate(tokens) if text in TAGS}
    advice = "convert the checkpoint again with `qwen35 convert`, which writes them as user-defined"
    hidden = [tag for tag, index in place.items() if index < len(types) and types[index] == CONTROL]
    if hidden:
        what = f"makes {', '.join(hidden)} control tokens, which programs do not see: answers are empty"
        yield Diagnostic("error", "tags", TYPES, what, advice)
    ordinary = [tag for tag, index in place.items() if index < len(types) and types[index] in (NORMAL, UNUSED)]
    missing = [tag for tag in TAGS if tag not in place]
    if ordinary or missing:
        what = f"has no token for {', '.join([*missing, *ordinary])}; programs must find these tags by their text"
        yield Diagnostic("warning", "tags", TOKENS, what, advice)


def _end_token(subject: Subject, key: str, tokens: list[str]) -> Iterator[Diagnostic]:
    index, wanted = subject.get(key), tokens.index(END_OF_TURN) if END_OF_TURN in tokens else "ID"
    advice = SET.format(key, wanted)
    if index is None:
        yield Diagnostic("error", "end tokens", key, "is missing; answers may not end", advice)
        return
    text = tokens[index] if isinstance(index, int) and 0 <= index < len(tokens) else None
    if text is None:
        yield Diagnostic("error", "end tokens", key, f"is {index}, which is not a token", advice)
    elif text not in (END_OF_TURN, END_OF_TEXT) and text not in str(subject.get("tokenizer.chat_template", "")):
        yield Diagnostic("error", "end tokens", key, f"is {index}, {text!r}; answers will not end", advice)
    elif text == END_OF_TEXT and subject.get("tokenizer.chat_template"):
        what = f"is {END_OF_TEXT}; programs that use only this key do not stop at {END_OF_TURN}"
        yield Diagnostic("warning", "end tokens", key, what, advice)


def file_type(subject: Subject) -> Iterator[Diagnostic]:
    """Check `general.file_type`, which programs show as the quantization: most weights must be of its type."""
    found = _most_common({name: stored.tensor.type for name, stored in subject.tensors.items()}, subject)
    if found is None:
        return
    value = subject.get(FILE_TYPE)
    if value is None:
        yield Diagnostic("warning", "file type", FILE_TYPE, "is missing; programs show no type", "convert again")
        return
    preset = next((one for one in presets.PRESETS if one.file_type == value), None)
    if preset is None or subject.get("quantize.recipe.name"):
        return  # a type that is newer than this list; or a recipe, which decides for each tensor
    try:
        expected = {_most_common(_predicted(subject, preset, imatrix=given), subject) for given in (False, True)}
    except ModelError:
        return  # `tensors.shapes` reports it
    if found not in expected:
        fitting = _fitting(subject, found)
        what = f"is {value} ({preset.name}), but most weights are {found.name}"
        yield Diagnostic("error", "file type", FILE_TYPE, what, SET.format(FILE_TYPE, fitting))
    named = _quant_in_name(subject.path.name)
    if named is not None and named is not preset:
        what = f"is {preset.name}, but the file is called {named.name}"
        yield Diagnostic("warning", "file type", FILE_TYPE, what, "rename the file, or convert again")


def _fitting(subject: Subject, found: GGMLQuantizationType) -> str:
    fitting = [p for p in presets.PRESETS if _most_common(_predicted(subject, p, imatrix=False), subject) is found]
    values = [f"{int(preset.file_type)} ({preset.name})" for preset in fitting]
    return " or ".join(values) or str(int(LlamaFileType.GUESSED))


def _predicted(subject: Subject, preset: presets.Preset, *, imatrix: bool) -> dict[str, GGMLQuantizationType]:
    """Return the type that the preset gives each tensor."""
    architecture = architecture_of(subject)
    return {
        name: tensor_types.tensor_type(preset, name, stored.tensor.shape, architecture, imatrix=imatrix)
        for name, stored in subject.tensors.items()
    }


def _most_common(types: dict[str, GGMLQuantizationType], subject: Subject) -> Any:
    """Return the type of most weights in the blocks' matrices, None if there are none."""
    counts: Counter[GGMLQuantizationType] = Counter()
    for name, type_ in types.items():
        shape = subject.shape(name)
        if len(shape) > 1 and name.startswith("blk.") and not tensor_types.KEPT_F32.search(name):
            elements = 1
            for n in shape:
                elements *= n
            counts[type_] += elements
    return max(counts, key=lambda type_: counts[type_]) if counts else None


def _quant_in_name(name: str) -> presets.Preset | None:
    found = re.search(r"[-.]([A-Za-z0-9_]+?)(-\d{5}-of-\d{5})?\.gguf$", name)
    try:
        return presets.find_preset(found[1]) if found else None
    except QuantizationError:
        return None
