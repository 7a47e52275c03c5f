"""Which files of a repository are a model, by names as publishers choose them."""

from __future__ import annotations

import pytest

from qwen35_gguf.errors import HubError
from qwen35_gguf.hub.model_files import candidates, find_quant, model_files
from qwen35_gguf.hub.names import HubName

pytestmark = pytest.mark.unit

RELEASE = {
    "README.md": 1,
    "imatrix.gguf": 5,
    "Qwen3.5-9B-Q4_K_M.gguf": 500,
    "Qwen3.5-9B-nomtp-Q4_K_M.gguf": 480,
    "Qwen3.5-9B-Q8_0-00001-of-00002.gguf": 600,
    "Qwen3.5-9B-Q8_0-00002-of-00002.gguf": 400,
    "mmproj-Qwen3.5-9B-BF16.gguf": 90,
    "mtp-Qwen3.5-9B-Q8_0.gguf": 30,
}
OTHERS = {
    "BF16/Qwen3.5-9B-BF16-00001-of-00003.gguf": 700,
    "BF16/Qwen3.5-9B-BF16-00002-of-00003.gguf": 700,
    "BF16/Qwen3.5-9B-BF16-00003-of-00003.gguf": 500,
    "Qwen3.5-9B-UD-Q4_K_XL.gguf": 550,
    "Qwen3.5-9B.Q5_K_M.gguf": 610,
    "Qwen3.5-9B-MTP-Q5_K_M.gguf": 640,
    "Qwen3.5-9B.IQ4_XS.gguf": 450,
    "Qwen3.5-9B.mmproj-f16.gguf": 90,
    "Qwen3.5-9B-Q6_K-00001-of-00002.gguf": 400,
}


def find(files: dict[str, int], quant: str) -> tuple[str, ...]:
    return find_quant(HubName("org/name", quant), model_files(files).quants).files


def test_a_release_of_ours_is_sorted() -> None:
    found = model_files(RELEASE)
    assert [(one.label, one.size, one.head) for one in found.quants] == [
        ("Q8_0", 1000, "unknown"),
        ("Q4_K_M", 500, "unknown"),
        ("Q4_K_M", 480, "without"),
    ]
    assert found.encoders == ("mmproj-Qwen3.5-9B-BF16.gguf",)
    assert found.quants[0].files == tuple(sorted(name for name in RELEASE if "-of-" in name))


@pytest.mark.parametrize(
    ("quant", "file"),
    [
        ("q4_k_m", "Qwen3.5-9B-Q4_K_M.gguf"),
        ("nomtp-Q4_K_M", "Qwen3.5-9B-nomtp-Q4_K_M.gguf"),
        ("Qwen3.5-9B-nomtp-Q4_K_M.gguf", "Qwen3.5-9B-nomtp-Q4_K_M.gguf"),
        ("Q8_0", "Qwen3.5-9B-Q8_0-00001-of-00002.gguf"),
    ],
)
def test_a_quant_is_found_by_its_name_the_end_of_it_or_the_file(quant: str, file: str) -> None:
    assert find(RELEASE, quant)[0] == file


def test_other_publishers_habits() -> None:
    assert find(OTHERS, "BF16") == tuple(sorted(OTHERS)[:3])
    assert find(OTHERS, "UD-Q4_K_XL") == find(OTHERS, "Q4_K_XL") == ("Qwen3.5-9B-UD-Q4_K_XL.gguf",)
    assert find(OTHERS, "iq4_xs") == ("Qwen3.5-9B.IQ4_XS.gguf",)
    assert model_files(OTHERS).encoders == ("Qwen3.5-9B.mmproj-f16.gguf",)


def test_of_one_quant_the_file_with_the_mtp_head_is_taken() -> None:
    assert find(OTHERS, "Q5_K_M") == ("Qwen3.5-9B-MTP-Q5_K_M.gguf",)
    assert find(OTHERS, "Qwen3.5-9B.Q5_K_M") == ("Qwen3.5-9B.Q5_K_M.gguf",)


@pytest.mark.parametrize(
    ("files", "quant", "message"),
    [
        (RELEASE, "Q3_K_M", "org/name: has no Q3_K_M; use one of Q8_0, Q4_K_M"),
        (RELEASE, "Q" * 3000, f"org/name: has no {'Q' * 97}...; use one of Q8_0, Q4_K_M"),
        (OTHERS, "Q6_K", "org/name:Q6_K: 1 of its shards are missing; use one of BF16, Q5_K_M, UD-Q4_K_XL, IQ4_XS"),
        ({"a-Q8_0.gguf": 1, "b-Q8_0.gguf": 2}, "Q8_0", "org/name: has several of Q8_0; use one of b-Q8_0, a-Q8_0"),
        (
            {"README.md": 1},
            "Q8_0",
            "org/name: has no GGUF file of a text model; name another repository, or convert it",
        ),
    ],
)
def test_what_is_not_there_is_one_line_with_what_is(files: dict[str, int], quant: str, message: str) -> None:
    with pytest.raises(HubError) as caught:
        find(files, quant)
    assert str(caught.value) == message


def test_without_a_quant_the_largest_quantized_and_complete_one_comes_first() -> None:
    labels = [one.label for one in candidates(model_files(OTHERS).quants)]
    assert labels == ["Q5_K_M", "UD-Q4_K_XL", "IQ4_XS"]
    assert [one.label for one in candidates(model_files({"a-F16.gguf": 2, "a-F32.gguf": 4}).quants)] == ["F32", "F16"]
