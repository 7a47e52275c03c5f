"""Values of metadata, as a terminal shows them."""

from __future__ import annotations

import math
import struct

import numpy as np
import pytest
from gguf import GGUFValueType
from hypothesis import given
from hypothesis import strategies as st

from qwen35_gguf.commands.metadata_text import plain, shorten
from qwen35_gguf.gguf_file.keyvalue import KeyValue


def shown(value: float) -> float:
    number = plain(KeyValue("x", GGUFValueType.FLOAT32, struct.pack("<f", value)))
    assert isinstance(number, float)
    return number


@pytest.mark.unit
@given(st.floats(width=32, allow_nan=False))
def test_a_float32_has_the_digits_that_numpy_writes(value: float) -> None:
    assert shown(value) == float(str(np.float32(value)))


@pytest.mark.unit
def test_edges_of_float32() -> None:
    assert shown(0.95) == 0.95
    assert shown(float(np.finfo(np.float32).max)) == 3.4028235e38
    assert shown(-math.inf) == -math.inf
    assert math.isnan(shown(math.nan))
    assert shorten(KeyValue.of("general.sampling.top_p", 0.95, GGUFValueType.FLOAT32)) == "0.95"
