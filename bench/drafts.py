"""What a draft costs and when it pays: steps of the MTP head with all rows of the output matrix and with fewer.

.venv/bin/python bench/drafts.py [--size 0.8b] [--quant Q4_K_M] [--model FILE] [--threads 2] [--rows 8192,32768]

Runs in this environment (fewer rows need a patched build). The steps are interleaved and medians are printed. A step
verifies one drafted token and the token before it. The speed-up is that of draft depth 1 at an acceptance of 80 %,
minus what the missing rows lose: first for the text that loses most, then for the one that loses least. "Lost" is the
share of tokens outside the first rows in texts that this machine has: Python's sources, the descriptions of the
installed packages, and message catalogs in other languages.
"""

from __future__ import annotations

import argparse
import ctypes
import gettext
import statistics
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
from llama_cpp import llama_cpp_ext as ext

from runtime import context, convert, decode

ACCEPTANCE = 0.8
TEXT_BYTES = 4_000_000
CATALOGS = (sysconfig.get_path("purelib"), "/usr/share/locale", "/usr/share/vim")
Array = np.ndarray[Any, Any]


def main() -> None:
    """Print a row for each number of rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="0.8b")
    parser.add_argument("--quant", default="Q4_K_M")
    parser.add_argument("--model", type=Path, help="measure with this file instead of making one")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--rows", default="8192,16384,32768,65536", help="numbers, separated by commas")
    options = parser.parse_args()
    llama_cpp.llama_log_set(silent, None)
    with tempfile.TemporaryDirectory() as scratch:
        file = options.model or convert(Path(scratch), options.size, options.quant)
        rows = [0, *map(int, options.rows.split(","))]
        models = {number: load(file, number) for number in rows}
        main = context(llama_cpp, models[0], options.threads, rollback=1)
        ext.llama_set_embeddings_nextn(main, True, False)
        drafters = {number: drafter(models[number], main, options.threads) for number in rows}
        decode(llama_cpp, main, 64, 0)
        steps: dict[str, list[float]] = {"one": [], "two": []} | {f"draft {number}": [] for number in rows}
        hidden = np.ones(llama_cpp.llama_model_n_embd(models[0]), np.float32)
        position = 64
        for turn in range(options.rounds):
            steps["one"].append(seconds(main, lambda p=position: decode(llama_cpp, main, 1, p, every=True)))
            steps["two"].append(seconds(main, lambda p=position: decode(llama_cpp, main, 2, p + 1, every=True)))
            position += 3
            for number, ctx in drafters.items():
                steps[f"draft {number}"].append(seconds(ctx, lambda c=ctx, p=turn: draft(c, hidden, p + 1)))
        ms = {name: 1e3 * statistics.median(times[2:]) for name, times in steps.items()}
        print(f"{file.name}, {options.threads} threads: one token {ms['one']:.1f} ms, two {ms['two']:.1f} ms")
        texts = {name: np.array(tokens) for name, tokens in tokenized(models[0])}
        print(f"{'rows':>8}{'draft, ms':>11}{'speed-up':>10}" + "".join(f"{'lost: ' + name:>18}" for name in texts))
        for number in rows:
            lost = {name: float((tokens >= number).mean()) if number else 0.0 for name, tokens in texts.items()}
            cost = ms["two"] + ms[f"draft {number}"]
            most = max(lost.values(), default=0.0)
            gains = [(1 + ACCEPTANCE * (1 - share)) * ms["one"] / cost for share in (most, min(lost.values()))]
            shares = "".join(f"{share:>18.1%}" for share in lost.values())
            print(f"{number or 'all':>8}{ms[f'draft {number}']:>11.2f}{gains[0]:>5.2f}-{gains[1]:.2f}{shares}")


@llama_cpp.llama_log_callback
def silent(level: int, text: bytes, user: ctypes.c_void_p) -> None:
    """Drop llama.cpp's log."""
    del level, text, user


def load(file: Path, rows: int) -> Any:
    """Load a model whose MTP head predicts the first `rows` rows, 0 for all."""
    params = llama_cpp.llama_model_default_params()
    params.load_mtp = True
    overrides = (llama_cpp.llama_model_kv_override * 2)()
    overrides[0].key = b"qwen35.nextn_vocab_size"
    overrides[0].tag = llama_cpp.LLAMA_KV_OVERRIDE_TYPE_INT
    overrides[0].value.val_i64 = rows
    params.kv_overrides = overrides
    model = llama_cpp.llama_model_load_from_file(str(file).encode(), params)
    if not model:
        sys.exit(f"{file}: cannot be loaded")
    return model


def drafter(model: Any, main: Any, threads: int) -> Any:
    """Make an MTP context."""
    options = llama_cpp.llama_context_default_params()
    options.n_ctx, options.n_batch, options.n_ubatch = 4096, 512, 512
    options.n_threads = options.n_threads_batch = threads
    options.ctx_type, options.ctx_other = llama_cpp.LLAMA_CONTEXT_TYPE_MTP, main
    return llama_cpp.llama_init_from_model(model, options)


def draft(ctx: Any, hidden: Array, position: int) -> None:
    """Take one step of the MTP head."""
    batch = llama_cpp.llama_batch_init(1, 0, 1)
    batch.n_tokens = 1
    batch.token[0], batch.pos[0], batch.n_seq_id[0], batch.seq_id[0][0], batch.logits[0] = 100, position, 1, 0, 1
    batch.embd = hidden.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    if llama_cpp.llama_decode(ctx, batch):
        sys.exit("llama_decode failed")
    batch.embd = None  # NumPy owns this memory; llama.cpp must not free it
    llama_cpp.llama_batch_free(batch)


def seconds(ctx: Any, work: Any) -> float:
    """Time a call, including the work that llama.cpp still has to finish."""
    start = time.perf_counter()
    work()
    llama_cpp.llama_synchronize(ctx)
    return time.perf_counter() - start


def tokenized(model: Any) -> Iterator[tuple[str, list[int]]]:
    """Yield the tokens of each text."""
    vocab = llama_cpp.llama_model_get_vocab(model)
    for name, text in texts():
        raw = text.encode()[:TEXT_BYTES]
        buffer = (llama_cpp.llama_token * (len(raw) + 8))()
        count = llama_cpp.llama_tokenize(vocab, raw, len(raw), buffer, len(buffer), False, False)
        if count > 0:
            yield name, list(buffer[:count])


def texts() -> Iterator[tuple[str, str]]:
    """Yield names and texts found on this machine."""
    sources = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    yield "code", "".join(file.read_text(errors="ignore") for file in sources)
    yield "English", "".join(item.metadata.get_payload() or "" for item in metadata.distributions())
    catalogs = sorted(file for root in CATALOGS for file in Path(root).glob("**/*.mo"))
    translated = []
    for file in catalogs:
        with file.open("rb") as stream:
            try:
                catalog = gettext.GNUTranslations(stream)._catalog  # type: ignore[attr-defined]
            except (OSError, ValueError, IndexError):
                continue
        translated += [text for text in catalog.values() if isinstance(text, str)]
    if translated:
        yield "translations", "\n".join(translated)


if __name__ == "__main__":
    main()
