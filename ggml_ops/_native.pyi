from typing import Any

import numpy as np

_Array = np.ndarray[Any, Any]

def quantize(
    x: _Array,
    source: str,
    format: str,  # noqa: A002
    importance: _Array | None,
    packed: _Array,
    threads: int,
    target: str,
) -> tuple[int, int, bool]: ...
def find_non_finite(x: _Array, source: str) -> tuple[int, int]: ...
def targets() -> list[str]: ...
def quantize_formats() -> list[str]: ...
def gated_delta_rule(
    q: _Array,
    k: _Array,
    v: _Array,
    g: _Array,
    beta: _Array,
    state: _Array,
    out: _Array,
    states: _Array,
    threads: int,
    target: str,
) -> None: ...
def causal_conv1d_silu(
    x: _Array, weight: _Array, state: _Array, out: _Array, new_state: _Array, threads: int, target: str
) -> None: ...
def attention_targets() -> list[str]: ...
def attention(
    q: _Array,
    k: _Array,
    k_type: str,
    v: _Array,
    v_type: str,
    mask: _Array | None,
    slopes: _Array | None,
    sinks: _Array | None,
    scale: float,
    softcap: float,
    out: _Array,
    threads: int,
    target: str,
) -> None: ...
def mul_mat_targets() -> list[str]: ...
def mul_mat(
    weights: _Array,
    format: str,  # noqa: A002
    x: _Array,
    out: _Array,
    target: str,
) -> None: ...
def float_mul_mat_targets() -> list[str]: ...
def float_mul_mat(
    weights: _Array,
    format: str,  # noqa: A002
    x: _Array,
    out: _Array,
    target: str,
) -> None: ...
def finish_mul_mat(
    out: _Array,
    bias: _Array,
    summand: _Array,
    gelu: bool,
    target: str,
) -> None: ...
def pause_nanoseconds() -> float: ...
def round_rows(
    x: _Array,
    values: _Array,
    d: _Array,
    dmin: _Array | None,
    scales: _Array,
    mins: _Array | None,
    moments: _Array,
    factor: _Array | None,
    ranges: tuple[float, ...],
    levels: _Array | None,
    effort: tuple[int, ...],
    before: _Array,
    after: _Array,
    threads: int,
    target: str,
) -> None: ...
def factorize(h: _Array, floor: float, threads: int, target: str) -> None: ...
