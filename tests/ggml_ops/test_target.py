"""QWEN35_CPU: what it allows and what it refuses."""

from __future__ import annotations

import pytest

from qwen35_gguf import ggml_ops
from qwen35_gguf.errors import UnknownTargetError
from qwen35_gguf.ggml_ops import _native


@pytest.mark.unit
@pytest.mark.parametrize("name", ggml_ops.targets())
def test_a_target_of_this_processor_is_taken(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QWEN35_CPU", name)
    assert ggml_ops.target() == name


@pytest.mark.parametrize(
    ("limit", "expected"),
    [("avx512vbmi", "avx512"), ("avx512vnni", "avx512"), ("avxvnni", "avx2")],
    ids=["avx512vbmi", "avx512vnni", "avxvnni"],
)
def test_a_limit_between_two_targets_takes_the_lesser(
    limit: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if limit not in _native.mul_mat_targets():
        pytest.skip("not a target of this processor")
    monkeypatch.setenv("QWEN35_CPU", limit)
    assert ggml_ops.target() == expected


@pytest.mark.unit
def test_an_unknown_target_is_refused_with_those_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QWEN35_CPU", "sse9")
    with pytest.raises(UnknownTargetError, match=rf"sse9.*{ggml_ops.targets()[0]}"):
        ggml_ops.target()


@pytest.mark.unit
@pytest.mark.parametrize("limit", ["", *_native.mul_mat_targets()])
def test_matmul_takes_the_target_that_is_asked_for(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QWEN35_CPU", limit)
    assert ggml_ops.matmul_target() == (limit or next(iter(_native.mul_mat_targets()), None))


@pytest.mark.unit
def test_portable_matmul_is_that_of_ggml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QWEN35_CPU", "portable")
    assert ggml_ops.matmul_target() is None
    assert ggml_ops.product_target is ggml_ops.matmul_target
