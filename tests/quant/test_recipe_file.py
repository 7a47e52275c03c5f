"""Recipes in files: rules, what is refused, and that conversion follows them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import gguf
import pytest
from click.testing import CliRunner
from gguf import GGMLQuantizationType as Type
from hypothesis import given
from hypothesis import strategies as st

from oracles.paths import TINY
from qwen35_gguf.architecture import Architecture
from qwen35_gguf.cli import main
from qwen35_gguf.convert import hf_to_gguf
from qwen35_gguf.errors import QuantizationError, RecipeError
from qwen35_gguf.quant import recipe_file, tensor_types
from qwen35_gguf.quant.recipe_file import find, parse

pytestmark = pytest.mark.unit

Factory = Callable[..., Path]

TEXT = """
recipe: 1
name: mine
base: Q4_K_M
rules:
- {tensors: ssm_out, layers: 0-1 5, type: Q6_K}
- {tensors: [attn_q, attn_k], layers: mtp, type: q8_0}
- {tensors: 'ffn_*', type: IQ4_XS}
- {tensors: output, type: Q5_K}
"""


def test_the_first_rule_that_matches_decides() -> None:
    recipe = parse(TEXT, "mine.yaml")
    assert (recipe.name, recipe.base.name) == ("mine", "Q4_K_M")
    shape = (512, 256)
    for tensor, expected in {
        "blk.1.ssm_out.weight": Type.Q6_K,
        "blk.5.ssm_out.weight": Type.Q6_K,
        "blk.2.ssm_out.weight": None,
        "blk.7.attn_q.weight": None,
        "blk.8.attn_q.weight": Type.Q8_0,  # of eight layers, this is the MTP head's
        "blk.3.ffn_down.weight": Type.IQ4_XS,
        "blk.3.ffn_gate_inp.weight": None,  # routers stay F32
        "blk.3.attn_norm.weight": None,
        "token_embd.weight": None,
        "output.weight": Type.Q5_K,
    }.items():
        assert recipe.type_of(tensor, shape, 8) is expected, tensor
    assert recipe.type_of("token_embd.weight", shape, 8, tied=True) is Type.Q5_K
    assert recipe.type_of("blk.3.ffn_down.weight", (512, 96), 8) is Type.IQ4_NL  # rows that are not whole blocks


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("recipe: 1", "recipe: 2"), "must begin with"),
        (("name: mine", "name: ../mine"), "needs a name"),
        (("Q4_K_M", "Q4_K_X"), "base is 'Q4_K_X'"),
        (("rules:", "rule:"), "has unknown entries: rule"),
        (("Q6_K", "Q6_L"), "rule 1: 'Q6_L' is not a type"),
        (("Q6_K", "I32"), "rule 1: 'I32' is not a type"),
        (("0-1 5", "5-1"), "rule 1: '5-1' is not a layer"),
        (("0-1 5", "''"), "rule 1: layers is empty"),
        (("layers: mtp", "layer: mtp"), "rule 2 must have tensors and type"),
        (("'ffn_*'", "[1]"), "rule 3: tensors is not"),
        (("- {tensors: ssm", "- tensors: ssm"), "is not valid YAML in line"),
    ],
)
def test_the_message_names_what_is_wrong(change: tuple[str, str], message: str) -> None:
    with pytest.raises(RecipeError, match=message.replace("'", ".")) as error:
        parse(TEXT.replace(*change), "mine.yaml")
    assert str(error.value).startswith("mine.yaml: ")
    assert "\n" not in str(error.value)


@given(st.text(max_size=200))
def test_arbitrary_text_is_parsed_or_refused(text: str) -> None:
    try:
        parse(text, "x")
    except RecipeError:
        return
    raise AssertionError("random text is not a recipe")


@given(
    st.dictionaries(
        st.sampled_from(
            [f"blk.{i}.{kind}.weight" for i in range(9) for kind in ("ssm_out", "ffn_up", "nextn.eh_proj")]
        ),
        st.sampled_from([Type.Q4_K, Type.Q5_K, Type.Q6_K]),
        min_size=1,
    )
)
def test_written_recipes_give_the_types_back(types: dict[str, Type]) -> None:
    recipe = parse(recipe_file.to_text("x", "Q4_K_M", types, 8, ["a comment"]), "x")
    assert {name: recipe.type_of(name, (256, 256), 8) for name in types} == types


def test_conversion_follows_the_recipe(checkpoint: Factory, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(TEXT)
    arguments = ["convert", str(checkpoint()), "--recipe", str(path), "-o", str(tmp_path), "--no-vision"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.stderr
    (file,) = tmp_path.glob("*-mine-Q4_K_M.gguf")
    reader = gguf.GGUFReader(file)
    recipe = find(str(path), "Q8_0")
    layers = int(reader.fields["qwen35.block_count"].contents()) - 1
    ruled = 0
    for tensor in reader.tensors:
        shape = tuple(reversed(tensor.shape.tolist()))
        wanted = recipe.type_of(tensor.name, shape, layers, tied=True)
        if wanted is not None:
            assert tensor.tensor_type == wanted, tensor.name
            ruled += 1
    assert ruled > 10
    assert reader.fields["quantize.recipe.name"].contents() == "mine"
    assert reader.fields["quantize.recipe.sha256"].contents() == recipe.sha256


def test_types_that_need_importance_are_refused_without(checkpoint: Factory, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(TEXT.replace("IQ4_XS", "IQ2_S"))
    with pytest.raises(QuantizationError, match="give one with --imatrix"):
        hf_to_gguf.convert(checkpoint(), "Q4_K_M", tmp_path, recipe=path)


def test_the_built_in_recipes_are_valid() -> None:
    with pytest.raises(RecipeError, match="exists for Q2_K, Q3_K_M, Q4_K_M, Q5_K_M, Q6_K, not for Q8_0"):
        find("deltanet", "Q8_0")
    with pytest.raises(RecipeError, match="give a file made by"):
        find("missing.yaml", "Q4_K_M")
    model = Architecture.from_config(json.loads((TINY / "config.json").read_text()))
    for quant in ("Q2_K", "Q3_K_M", "Q4_K_M", "Q5_K_M", "Q6_K"):
        recipe = find("deltanet", quant)
        assert recipe.base.name == quant
        assert recipe.type_of("blk.0.ssm_alpha.weight", (16, 1024), 24) is Type.Q8_0
        protected = recipe.type_of("blk.0.ssm_out.weight", (1024, 1024), 24)
        stock = tensor_types.tensor_type(recipe.base, "blk.0.ssm_out.weight", (1024, 1024), model, imatrix=True)
        sizes = gguf.GGML_QUANT_SIZES
        assert sizes[protected][1] / sizes[protected][0] > sizes[stock][1] / sizes[stock][0]


@pytest.mark.parametrize(
    "line",
    [
        "base: " + "x" * 9000,
        "".join(f"entry-{number}: 1\n" for number in range(3000)),
        "x" * 900 + ": 1",
        "rules: [{tensors: a, type: " + "x" * 9000 + "}]",
        "rules: [{tensors: a, type: Q4_K, layers: [" + "x" * 9000 + "]}]",
    ],
)
def test_messages_are_short(line: str) -> None:
    base = "" if line.startswith("base") else "base: Q4_K_M\n"
    with pytest.raises(RecipeError) as refused:
        recipe_file.parse(f"recipe: 1\nname: a\n{base}{line}\n", "a.yaml")
    assert len(str(refused.value)) < 1000
