"""The two tables of formats and presets are complete, and consistent with ggml."""

from __future__ import annotations

import ctypes

import gguf
import pytest
from gguf import GGMLQuantizationType as Type

from qwen35_gguf.errors import QuantizationError
from qwen35_gguf.quant import kernels, presets


@pytest.mark.unit
def test_every_type_of_a_preset_has_a_format() -> None:
    used = {preset.default for preset in presets.PRESETS}
    used |= {rule.type for preset in presets.PRESETS for rule in preset.rules}
    used |= {row.fallback for row in presets.FORMATS.values() if row.fallback}
    assert used <= set(presets.FORMATS)
    assert len({preset.name for preset in presets.PRESETS}) == len(presets.PRESETS)
    assert len({preset.file_type for preset in presets.PRESETS}) == len(presets.PRESETS)


@pytest.mark.unit
def test_fallbacks_have_smaller_blocks() -> None:
    for row in presets.FORMATS.values():
        if row.fallback:
            assert gguf.GGML_QUANT_SIZES[row.fallback][0] < gguf.GGML_QUANT_SIZES[row.type][0]


def test_formats_that_require_an_imatrix_are_those_of_ggml() -> None:
    ggml = kernels._ggml()
    ggml.ggml_quantize_requires_imatrix.restype = ctypes.c_bool
    ggml.ggml_quantize_requires_imatrix.argtypes = (ctypes.c_int,)
    required = {type_ for type_ in presets.FORMATS if ggml.ggml_quantize_requires_imatrix(int(type_))}
    assert {row.type for row in presets.FORMATS.values() if row.imatrix == "required"} == required


@pytest.mark.unit
def test_presets_are_found_in_any_case_and_by_their_short_names() -> None:
    assert presets.find_preset("q4_k").name == "Q4_K_M"
    assert presets.find_preset("iq4_xs").default is Type.IQ4_XS
    with pytest.raises(QuantizationError, match="Q4_K_X: unknown quantization; choose one of F32, F16"):
        presets.find_preset("Q4_K_X")
