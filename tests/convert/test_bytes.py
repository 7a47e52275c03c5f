"""Every tensor equals, byte for byte, what the stock converter followed by llama-quantize writes.

The one exception is ssm_a = -exp(A_log), which may differ in the last bit. llama-quantize is a command line around
`llama_model_quantize`; the tests call that function of the stock libllama.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import llama_cpp
import numpy as np
import pytest
from gguf import GGUFReader

from qwen35_gguf.convert import hf_to_gguf
from qwen35_gguf.errors import QuantizationError
from qwen35_gguf.quant import presets

Factory = Callable[..., Path]

MODELS = {
    "dense, tied": {"value_heads_per_key": 2},
    "dense, untied, three value heads a key": {"value_heads_per_key": 3, "tied": False, "mtp": False},
    "experts": {"moe": True},
}


def tensors(file: Path) -> dict[str, tuple[str, bytes]]:
    return {t.name: (t.tensor_type.name, np.asarray(t.data).tobytes()) for t in GGUFReader(file).tensors}


def llama_quantize(source: Path, target: Path, quant: str) -> Path:
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = int(presets.find_preset(quant).file_type)
    params.nthread = 2
    assert llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), params) == 0
    return target


@pytest.mark.parametrize("quant", ["Q4_K_M", "Q5_K_S", "Q3_K_L", "Q6_K", "Q8_0", "IQ4_XS", "BF16"])
@pytest.mark.parametrize("options", MODELS.values(), ids=MODELS.keys())
def test_text_tensors_equal_the_stock_tools(
    checkpoint: Factory, stock_convert: Factory, tmp_path: Path, options: dict[str, object], quant: str
) -> None:
    source = checkpoint(**options)
    stock = stock_convert(source, outtype="bf16")
    if quant != "BF16":
        stock = llama_quantize(stock, tmp_path / "stock.gguf", quant)
    (ours,) = hf_to_gguf.convert(source, quant, tmp_path / "ours", vision=False)
    expected, found = tensors(stock), tensors(ours)
    assert {name: type_ for name, (type_, _) in found.items()} == {n: t for n, (t, _) in expected.items()}
    different = [name for name in expected if found[name][1] != expected[name][1]]
    # torch's float32 exp is off by an ulp for about one value in a hundred; ours is correctly rounded.
    assert [name for name in different if not name.endswith("ssm_a")] == []
    for name in different:
        ours_a, stock_a = (np.frombuffer(side[name][1], np.float32) for side in (found, expected))
        np.testing.assert_array_max_ulp(ours_a, stock_a, maxulp=1)


@pytest.mark.parametrize("outtype", ["F32", "F16", "BF16", "Q8_0"])
def test_vision_tensors_equal_the_stock_converter(
    checkpoint: Factory, stock_convert: Factory, tmp_path: Path, outtype: str
) -> None:
    source = checkpoint()
    stock = stock_convert(source, outtype=outtype.lower(), mmproj=True)
    _, ours = hf_to_gguf.convert(source, "Q8_0", tmp_path, mmproj_type=outtype)
    assert tensors(ours) == tensors(stock)


# These need an importance matrix, for llama-quantize as well as here; IQ1 and IQ2 throughout.
REFUSED = ("IQ3_XXS", "IQ3_XS", "Q2_K_S")
QUANTIZED = [name for name in presets.PRESETS_BY_NAME if name not in ("F32", "F16", "BF16")]
ALL = [name for name in QUANTIZED if not name.startswith(("IQ1", "IQ2"))]


@pytest.mark.slow
@pytest.mark.parametrize("options", MODELS.values(), ids=MODELS.keys())
def test_every_name_gives_the_stock_tensors(
    checkpoint: Factory, stock_convert: Factory, tmp_path: Path, options: dict[str, object]
) -> None:
    source = checkpoint(**options)
    stock = stock_convert(source, outtype="bf16")
    for quant in ALL:
        if quant in REFUSED:
            with pytest.raises(QuantizationError, match="importance"):
                hf_to_gguf.convert(source, quant, tmp_path / "ours", vision=False)
            continue
        (ours,) = hf_to_gguf.convert(source, quant, tmp_path / "ours", vision=False)
        expected, found = tensors(llama_quantize(stock, tmp_path / "stock.gguf", quant)), tensors(ours)
        different = [n for n in expected if found[n] != expected[n] and not n.endswith("ssm_a")]
        assert (quant, [(n, found[n][0], expected[n][0]) for n in different]) == (quant, [])
