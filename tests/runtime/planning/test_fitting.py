"""What is named as fitting fits, and nothing that fits is refused."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qwen35_gguf.convert import hf_to_gguf
from qwen35_gguf.errors import MemoryLimitError
from qwen35_gguf.gguf_file.header import GgufHeader
from qwen35_gguf.gguf_file.reader import read_header
from qwen35_gguf.runtime.context_spec import ContextSpec, MemoryRequest
from qwen35_gguf.runtime.planning import fitting
from qwen35_gguf.runtime.planning.fitting import (
    SMALLER_QUANTS,
    check_fits,
    largest_context,
    measured,
    most_steps,
    requantized,
    with_n_ctx,
)
from qwen35_gguf.runtime.planning.memory import LONGEST_CONTEXT, estimate


def asked(n_ctx: int = 512, kv_type: str = "f16") -> MemoryRequest:
    return MemoryRequest(ContextSpec(n_ctx, kv_type=kv_type))


def test_largest_context_is_the_largest(real: Callable[[str], Path]) -> None:
    header = read_header(real("9b"))
    for budget, request in (
        (7 << 30, asked()),
        (12 << 30, MemoryRequest(ContextSpec(512, n_rs_seq=2), mtp=True)),
        (9 << 30, asked(kv_type="q8_0")),
    ):
        found = largest_context(header, request, budget)
        assert found % 256 == 0
        assert estimate(header, with_n_ctx(request, found)).total <= budget
        assert estimate(header, with_n_ctx(request, found + 256)).total > budget
    for most in range(6):
        assert most_steps(lambda steps, most=most: steps <= most, 4) == min(most, 4)
    assert largest_context(header, asked(), 1 << 30) == 0
    assert largest_context(header, asked(), -5) == 0
    assert largest_context(header, asked(), 1 << 50) == LONGEST_CONTEXT


def refusal(header: GgufHeader, budget: int, **options: Any) -> str:
    with pytest.raises(MemoryLimitError) as caught:
        check_fits(header, asked(**options), budget)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_refusal_names_what_fits(real: Callable[[str], Path]) -> None:
    header = read_header(real("9b"))
    message = refusal(header, 8_000_000_000, n_ctx=262144)
    assert f"needs {estimate(header, asked(262144)).total / 1e9:.1f} GB" in message
    assert "8.0 GB" in message
    shorter, quantized = (
        int(found.replace(",", "")) for found in re.findall(r"n_ctx ([\d,]+)(?: fits| with)", message)
    )
    assert check_fits(header, asked(shorter), 8_000_000_000).total <= 8_000_000_000
    check_fits(header, asked(quantized, kv_type="q8_0"), 8_000_000_000)
    assert quantized > shorter > 0
    refusal(header, 8_000_000_000, n_ctx=shorter + 256)

    message = refusal(header, 5_000_000_000, n_ctx=8192)
    name, cells = re.search(r"smaller quant fits: (\w+) .* with n_ctx ([\d,]+)", message).groups()
    check_fits(requantized(header, name), asked(int(cells.replace(",", ""))), 5_000_000_000)
    larger = list(itertools.takewhile(lambda quant: quant != name, SMALLER_QUANTS))
    for quant in larger:  # the best that fits was named
        assert largest_context(requantized(header, quant), asked(), 5_000_000_000) < 4096
    assert "smaller model" in refusal(header, 1_000_000_000, n_ctx=8192)
    assert "smaller model" in refusal(header, 0, n_ctx=8192)


def test_what_fits_is_left_alone(real: Callable[[str], Path]) -> None:
    header = read_header(real("0.8b"))
    assert check_fits(header, asked()) == estimate(header, asked())


@pytest.mark.unit
def test_requantized_headers_are_what_conversion_makes(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    for options in ({"tied": False, "seed": 3}, {"moe": True, "seed": 6}):
        source = checkpoint(**options)
        made = {
            quant: read_header(hf_to_gguf.convert(source, quant, tmp_path / quant, vision=False, force=True)[0])
            for quant in ("Q8_0", "Q4_K_M", "Q2_K")
        }
        for first, second in itertools.permutations(made, 2):
            ours = {tensor.name: tensor.type for tensor in requantized(made[first], second).tensors}
            assert ours == {tensor.name: tensor.type for tensor in made[second].tensors}


def test_close_to_the_limit_llama_cpp_decides(real: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    header = read_header(real("0.8b"))
    request = MemoryRequest(ContextSpec(4096, n_rs_seq=4, n_outputs=5), mtp=True)
    formula, exact = estimate(header, request), measured(header, request)
    assert exact.total < formula.total  # so that one of them fits where the other does not
    between = (formula.total + exact.total) // 2
    monkeypatch.setattr(fitting, "available_bytes", lambda: between)
    assert check_fits(header, request) == exact
    with pytest.raises(MemoryLimitError):
        check_fits(header, request, between)  # memory that is not here: the formula decides
    monkeypatch.setattr(fitting, "available_bytes", lambda: 2 * formula.total)
    assert check_fits(header, request) == formula
