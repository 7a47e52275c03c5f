"""What the metadata of a text model have to say: rotary embedding, tokenizer, end of turn, and the type's name.

Source: llama.cpp src/models/qwen35.cpp (load_arch_hparams) and src/llama-vocab.cpp (which tokens end a text).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from gguf import GGMLQuantizationType, LlamaFileType

from qwen35_gguf.errors import ModelError, QuantizationError
from qwen35_gguf.quant import presets, tensor_types
from qwen35_gguf.release.lint.diagnostic import Finding, Subject
from qwen35_gguf.release.lint.tensors import architecture_of

PRE, MODEL = "tokenizer.ggml.pre", "tokenizer.ggml.model"
TOKENS, TYPES, MERGES = "tokenizer.ggml.tokens", "tokenizer.ggml.token_type", "tokenizer.ggml.merges"
EOS, EOT, ADD_BOS = "tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.add_bos_token"
FILE_TYPE = "general.file_type"
END_OF_TURN, END_OF_TEXT, START_OF_TURN = "<|im_end|>", "<|endoftext|>", "<|im_start|>"
CONTROL = 3  # of llama.cpp's token types
SET = "set it with `qwen35 metadata FILE set {} {}`"


def rope(subject: Subject) -> Iterator[Finding]:
    """Rotary positions: the sections are those of time, height and width, and cover half of the rotated dimensions."""
    arch = subject.arch
    key, base = f"{arch}.rope.dimension_sections", f"{arch}.rope.freq_base"
    sections, dimensions = subject.get(key), subject.number(f"{arch}.rope.dimension_count")
    if sections is None:
        advice = SET.format(key, "'[11, 11, 10, 0]' --type array[int32]")
        yield Finding("error", "rope", key, "is missing; llama.cpp refuses the file", advice)
    elif not isinstance(sections, list) or len(sections) != 4:
        yield Finding("error", "rope", key, f"is {sections}, not four numbers", SET.format(key, "'[11, 11, 10, 0]'"))
    elif dimensions and 2 * sum(sections) != dimensions:
        what = f"is {sections}, twice whose sum is not rope.dimension_count, {dimensions}"
        yield Finding("error", "rope", key, what, "take both from the checkpoint's config.json, or convert again")
    if not dimensions:
        where = f"{arch}.rope.dimension_count"
        what = "is missing: llama.cpp would rotate whole heads instead of a quarter, and answer nonsense"
        yield Finding("error", "rope", where, what, "set it to partial_rotary_factor x head_dim, or convert again")
    if subject.get(base) is None:
        what = "is missing: llama.cpp would take 10,000, and answer nonsense"
        yield Finding("error", "rope", base, what, SET.format(base, "10000000 (rope_theta of config.json)"))


def vocabulary(subject: Subject) -> Iterator[Finding]:
    """As many tokens as rows of the embedding, each with a type, and the merges that make them."""
    tokens = subject.entry(TOKENS)
    count = tokens.count if tokens else 0
    if not count:
        yield Finding(
            "error", "vocabulary", TOKENS, "is missing; there is no tokenizer", "convert the checkpoint again"
        )
        return
    for name in ("token_embd.weight", "output.weight"):
        shape = subject.shape(name)
        if len(shape) > 1 and shape[0] != count:
            what = f"has {shape[0]:,} rows, but there are {count:,} tokens"
            yield Finding("error", "vocabulary", name, what, "convert again with the tokenizer of this checkpoint")
    size = subject.number("{arch}.vocab_size", count)
    if size != count:
        key = f"{subject.arch}.vocab_size"
        yield Finding(
            "error", "vocabulary", key, f"is {size:,}, but there are {count:,} tokens", SET.format(key, count)
        )
    types = subject.entry(TYPES)
    if types is None or types.count != count:
        what = "is missing" if types is None else f"has {types.count:,} entries for {count:,} tokens"
        yield Finding("error", "vocabulary", TYPES, what, "convert the checkpoint again")
    merges = subject.entry(MERGES)
    if merges is None or not merges.count:
        what = "is missing; llama.cpp cannot split words into tokens"
        yield Finding("error", "vocabulary", MERGES, what, "convert the checkpoint again")


def pre_tokenizer(subject: Subject) -> Iterator[Finding]:
    """How text is cut before tokens are looked up; another rule gives other tokens than the model was trained on."""
    for key, wanted in ((MODEL, "gpt2"), (PRE, "qwen35")):
        value = subject.get(key)
        if value != wanted:
            what = f"is {value!r}, where Qwen3.5 needs {wanted!r}" if value else "is missing"
            yield Finding("error", "pre-tokenizer", key, f"{what}; text becomes other tokens", SET.format(key, wanted))


def end_tokens(subject: Subject) -> Iterator[Finding]:
    """Check that answers can end: the tokens at the end of a turn exist, are control tokens, and are named as such."""
    tokens, types = subject.get(TOKENS, []), subject.get(TYPES, [])
    place = {text: index for index, text in enumerate(tokens)}
    for name in (START_OF_TURN, END_OF_TURN, END_OF_TEXT):
        index = place.get(name)
        if index is None:
            advice = "convert the checkpoint again"
            yield Finding("error", "end tokens", TOKENS, f"has no {name}, which the chat template writes", advice)
        elif index < len(types) and types[index] != CONTROL:
            what = f"makes {name} (token {index}) ordinary text; it would be split, or shown to the user"
            yield Finding("error", "end tokens", TYPES, what, "convert again with the checkpoint's tokenizer files")
    yield from _end_token(subject, EOS, tokens, needed=True)
    yield from _end_token(subject, EOT, tokens, needed=False)
    if subject.get(ADD_BOS) is True:
        what = "is true: a token that the model was not trained on would stand before each prompt"
        yield Finding("error", "end tokens", ADD_BOS, what, SET.format(ADD_BOS, "false"))


def _end_token(subject: Subject, key: str, tokens: list[str], *, needed: bool) -> Iterator[Finding]:
    index, wanted = subject.get(key), tokens.index(END_OF_TURN) if END_OF_TURN in tokens else "ID"
    advice = SET.format(key, wanted)
    if index is None:
        if needed:
            yield Finding("error", "end tokens", key, "is missing; answers may not end", advice)
        return
    text = tokens[index] if isinstance(index, int) and 0 <= index < len(tokens) else None
    if text is None:
        yield Finding("error", "end tokens", key, f"is {index}, which is no token", advice)
    elif text not in (END_OF_TURN, END_OF_TEXT):
        yield Finding("error", "end tokens", key, f"is {index}, {text!r}; answers do not end at {END_OF_TURN}", advice)
    elif text == END_OF_TEXT and subject.get("tokenizer.chat_template"):
        what = f"is {END_OF_TEXT}; programs that look at nothing else do not stop at {END_OF_TURN}"
        yield Finding("warning", "end tokens", key, what, advice)


def file_type(subject: Subject) -> Iterator[Finding]:
    """`general.file_type` is what programs show as the quantization; most weights have to be of the type it means."""
    found = _most_common({name: stored.tensor.type for name, stored in subject.tensors.items()}, subject)
    if found is None:
        return
    value = subject.get(FILE_TYPE)
    if value is None:
        yield Finding("warning", "file type", FILE_TYPE, "is missing; programs show an unknown type", "convert again")
        return
    recipe = next((recipe for recipe in presets.PRESETS if recipe.file_type == value), None)
    if recipe is None or subject.get("quantize.recipe.name"):
        return  # of a type that is newer than this list; or of a recipe, that decides for each tensor
    try:
        expected = {_most_common(_predicted(subject, recipe, importance), subject) for importance in (False, True)}
    except ModelError:
        return  # `tensors.shapes` reports it
    if found not in expected:
        fitting = _fitting(subject, found)
        what = f"is {value} ({recipe.name}), but most weights are {found.name}"
        yield Finding("error", "file type", FILE_TYPE, what, SET.format(FILE_TYPE, fitting))
    named = _quant_in_name(subject.path.name)
    if named is not None and named is not recipe:
        what = f"is {recipe.name}, but the file is called {named.name}"
        yield Finding("warning", "file type", FILE_TYPE, what, "rename the file, or convert again")


def _fitting(subject: Subject, found: GGMLQuantizationType) -> str:
    names = [r for r in presets.PRESETS if _most_common(_predicted(subject, r, False), subject) is found]
    values = [f"{int(recipe.file_type)} ({recipe.name})" for recipe in names]
    return " or ".join(values) or str(int(LlamaFileType.GUESSED))


def _predicted(subject: Subject, recipe: presets.Preset, importance: bool) -> dict[str, GGMLQuantizationType]:
    """Tell which type the recipe gives each tensor."""
    architecture = architecture_of(subject)
    return {
        name: tensor_types.tensor_type(recipe, name, stored.tensor.shape, architecture, imatrix=importance)
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
