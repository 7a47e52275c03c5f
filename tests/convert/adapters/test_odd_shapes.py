"""Factors of odd shapes, types, ranks and alphas: merged and as GGUF LoRA they are refused in one line, or exact.

What is refused by name (half a pair, ranks of the configuration, NaN) is in `test_fit.py`; keys of the configuration in
`test_adapter_folder.py`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inputs.adapters import low_rank, write_adapter
from qwen35_gguf.convert.adapters.adapter_folder import open_adapter, open_adapters
from qwen35_gguf.convert.adapters.adapter_gguf import convert_adapter
from qwen35_gguf.convert.adapters.merging import merge_adapters
from qwen35_gguf.convert.checkpoint import open_checkpoint
from qwen35_gguf.errors import AdapterError
from qwen35_gguf.gguf_file.reader import map_data, read_header, tensor_data

pytestmark = pytest.mark.unit
Make = Callable[..., Path]

MODULE, ROWS, COLUMNS = "layers.3.self_attn.o_proj", 256, 256
TARGET, GGUF = f"{MODULE}.weight", "blk.3.attn_output.weight"
PAIR = low_rank(MODULE, ROWS, COLUMNS)
A_KEY, B_KEY = PAIR
A, B = PAIR.values()


@pytest.fixture(autouse=True)
def _no_warnings() -> Iterator[None]:
    """A warning of numpy would be a second line."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def merged(base: Path, adapter: Path, scale: float = 1.0) -> Any:
    return merge_adapters(open_checkpoint(base), open_adapters([adapter], [scale])).read(TARGET)


def update_of_gguf(path: Path) -> Any:
    """Compute what llama.cpp adds, in float64: `alpha / rank * b @ a`, and without alpha `b @ a`."""
    header = read_header(path)
    mapped = map_data(header)
    a, b = (
        tensor_data(header, tensor, mapped).view(np.float32).reshape(tensor.shape).astype(np.float64)
        for tensor in header.tensors
    )
    alpha = float(header.metadata["adapter.lora.alpha"])
    return (alpha / len(a) if alpha else 1.0) * b @ a


# Name: A and B; each is refused whatever the configuration says.
SHAPES: dict[str, tuple[Any, Any]] = {
    "transposed": (A.T, B.T),
    "exchanged": (B, A),
    "A in a row": (A.reshape(-1), B),
    "both in a row": (A.reshape(-1), B.reshape(-1)),
    "a number": (np.float32(1), B),
    "A in three": (A[None], B),
    "A as a convolution": (A[:, :, None, None], B[:, :, None, None]),
    "B in three": (A, np.stack([B, B], axis=2)),
    "A of another rank": (np.concatenate([A, A]), B),
    "B of another rank": (A, np.concatenate([B, B], axis=1)),
    "one column": (A[:, :1], B),
    "one row": (A, B[:1]),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rank", [1, 4, 8, 256])
def test_other_shapes_are_refused_for_each_rank(checkpoint: Make, tmp_path: Path, shape: str, rank: int) -> None:
    adapter = write_adapter(tmp_path / "a", dict(zip(PAIR, SHAPES[shape], strict=True)), r=rank)
    for use in (merged, lambda base, one: convert_adapter(one, base, tmp_path / "a.gguf")):
        with pytest.raises(AdapterError, match=r"o_proj\.lora_A\.weight does not fit: it has A \[") as error:
            use(checkpoint(), adapter)
        assert "\n" not in str(error.value)
    assert not (tmp_path / "a.gguf").exists()


@pytest.mark.parametrize("rank", [1, 5, 256, 600])
def test_any_rank_is_exact(checkpoint: Make, tmp_path: Path, rank: int) -> None:
    """Also one that is larger than the matrix."""
    tensors = low_rank(MODULE, ROWS, COLUMNS, rank=rank)
    adapter = write_adapter(tmp_path / "a", tensors, r=rank, lora_alpha=3)
    a, b = (factor.astype(np.float64) for factor in tensors.values())
    wanted = 3 / rank * b @ a
    found = update_of_gguf(convert_adapter(adapter, checkpoint(), tmp_path / "a.gguf"))
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    before = open_checkpoint(checkpoint()).read(TARGET)
    exact = before.astype(np.float64) + wanted
    np.testing.assert_allclose(merged(checkpoint(), adapter).astype(np.float64), exact, atol=2**-8 * abs(exact).max())


@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_other_floats_are_read(checkpoint: Make, tmp_path: Path, dtype: Any) -> None:
    """PEFT has no others; float64 is what NumPy makes."""
    tensors = {key: factor.astype(dtype) for key, factor in PAIR.items()}
    adapter = write_adapter(tmp_path / "a", tensors)
    a, b = (factor.astype(np.float64) for factor in tensors.values())
    found = update_of_gguf(convert_adapter(adapter, checkpoint(), tmp_path / "a.gguf"))
    np.testing.assert_allclose(found, 2 * b @ a, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64, np.bool_, np.uint16])
def test_what_are_no_floats_are_refused(tmp_path: Path, dtype: Any) -> None:
    adapter = write_adapter(tmp_path / "a", PAIR | {B_KEY: B.astype(dtype)})
    with pytest.raises(AdapterError, match=r"lora_B\.weight is [A-Z0-9]+; must be F32, F16 or BF16"):
        open_adapter(adapter)


# ---- alpha -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0, -8, 1e-320, 1e-46, 1e-44, 1e-30, 5e37])
def test_an_alpha_means_the_same_in_a_gguf(checkpoint: Make, tmp_path: Path, alpha: float) -> None:
    """Also where 32 bits make 0 of it, which is none for llama.cpp."""
    adapter = write_adapter(tmp_path / "a", PAIR, lora_alpha=alpha)
    found = update_of_gguf(convert_adapter(adapter, checkpoint(), tmp_path / "a.gguf"))
    wanted = alpha / 4 * B.astype(np.float64) @ A.astype(np.float64)
    exactness = 0.2 if alpha < 1e-40 else 1e-5
    np.testing.assert_allclose(found, wanted, rtol=exactness, atol=abs(wanted).max() * 1e-6 + 1e-44)


@pytest.mark.parametrize("changes", [{"lora_alpha": 1e39}, {"lora_alpha": 1e308}, {"alpha_pattern": {"o_proj": 1e300}}])
def test_an_alpha_that_32_bits_cannot_hold_is_refused(
    checkpoint: Make, tmp_path: Path, changes: dict[str, Any]
) -> None:
    adapter = write_adapter(tmp_path / "a", PAIR, **changes)
    with pytest.raises(AdapterError, match="alpha is more than a GGUF LoRA can hold"):
        convert_adapter(adapter, checkpoint(), tmp_path / "a.gguf")


@pytest.mark.parametrize("alpha", [float("nan"), float("inf"), -float("inf"), True, 10**400, None])
@pytest.mark.parametrize("key", ["lora_alpha", "alpha_pattern"])
def test_an_alpha_that_is_no_number_is_refused(tmp_path: Path, alpha: Any, key: str) -> None:
    value = alpha if key == "lora_alpha" else {"o_proj": alpha}
    if value is None:
        assert open_adapter(write_adapter(tmp_path / "a", PAIR, **{key: value})).config.alpha == 8  # PEFT's
        return
    with pytest.raises(AdapterError, match=f"{key}.* must be a number"):
        open_adapter(write_adapter(tmp_path / "a", PAIR, **{key: value}))


# Name: factors, configuration, scale: finite numbers of which the merge makes others.
OVERFLOWS: dict[str, tuple[dict[str, Any], dict[str, Any], float]] = {
    "factors": ({key: factor * np.float32(1e30) for key, factor in PAIR.items()}, {}, 1.0),
    "one factor": (PAIR | {A_KEY: np.full_like(A, 3e38)}, {}, 1.0),
    "alpha": (PAIR, {"lora_alpha": 1e308}, 1.0),
    "a scale": (PAIR, {}, 1e300),
    "opposite infinities": ({A_KEY: A * np.float32(1e30), B_KEY: B * np.float32(1e30)}, {"lora_alpha": -1e30}, 1.0),
    "a magnitude": (
        PAIR | {A_KEY.replace("lora_A.weight", "lora_magnitude_vector"): np.full(ROWS, 3e38, np.float32)},
        {"use_dora": True, "lora_alpha": 8e-30},
        1.0,
    ),
}


@pytest.mark.parametrize("case", OVERFLOWS)
def test_weights_that_become_infinite_are_the_adapter_s(checkpoint: Make, tmp_path: Path, case: str) -> None:
    tensors, config, scale = OVERFLOWS[case]
    adapter = write_adapter(tmp_path / "a", tensors, **config)
    with pytest.raises(AdapterError, match=r"o_proj\.lora_A\.weight: makes weights that are not finite"):
        merged(checkpoint(), adapter, scale)
