"""What a tensor costs alone is what a file costs in which it alone is quantized; recipes from costs keep their word."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from gguf import GGMLQuantizationType as Type

from oracles.paths import TINY
from qwen35_gguf.cli import main
from qwen35_gguf.convert import hf_to_gguf
from qwen35_gguf.errors import CostsError, ModelError, RecipeError
from qwen35_gguf.evaluation import collect_moments, kl_divergence, sensitivity
from qwen35_gguf.evaluation.texts.files import read_text
from qwen35_gguf.evaluation.texts.tokenized import splitter
from qwen35_gguf.quant.search import costs as files
from qwen35_gguf.quant.search import solve
from qwen35_gguf.quant.search.costs import Costs

CHUNK, CHUNKS = 128, 3
TYPES = "Q2_K,Q4_K,Q6_K"


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hf_to_gguf.convert(TINY, "F32", tmp_path_factory.mktemp("tiny"), vision=False)[0]


@pytest.fixture(scope="module")
def measured(reference: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The costs of all tensors, by the command."""
    out = tmp_path_factory.mktemp("costs") / "costs.json"
    options = ["-f", str(TINY / "calibration.txt"), "--chunk", str(CHUNK), "--chunks", str(CHUNKS), "--types", TYPES]
    result = CliRunner().invoke(main, ["sensitivity", str(reference), "-o", str(out), *options])
    assert result.exit_code == 0, result.stderr
    assert "mtp.nextn.eh_proj" in result.stdout
    return out


@pytest.mark.parametrize(
    ("tensor", "role", "layer"),
    [("blk.0.ffn_down.weight", "ffn_down", 0), ("blk.5.ssm_out.weight", "ssm_out", 5), ("token_embd.weight", "", 0)],
)
def test_a_tensor_costs_what_a_file_costs_in_which_it_alone_is_quantized(
    reference: Path, measured: Path, tmp_path: Path, tensor: str, role: str, layer: int
) -> None:
    where = f"tensors: {role}, layers: {layer}" if role else "tensors: token_embd"
    recipe = tmp_path / "one.yaml"
    recipe.write_text(f"recipe: 1\nname: one\nbase: F32\nrules:\n- {{{where}, type: Q2_K}}\n")
    (file,) = hf_to_gguf.convert(TINY, "F32", tmp_path, vision=False, recipe=recipe)
    split = splitter(TINY / "calibration.txt", "")
    kl_divergence.save_reference(reference, split, tmp_path / "base", chunk=CHUNK, chunks=CHUNKS)
    alone = kl_divergence.evaluate(file, tmp_path / "base").mean.value
    (cost,) = (c for c in files.read(measured).costs if (c.tensor, c.type) == (tensor, Type.Q2_K))
    assert alone > 5e-5
    assert cost.divergence == pytest.approx(alone, rel=0.3)  # llama.cpp also rounds the inputs of a quantized matrix


def test_weights_are_restored(reference: Path) -> None:
    split = splitter(TINY / "calibration.txt", "")
    twice = [list(sensitivity.measure(reference, split, types=(Type.Q2_K,), chunk=CHUNK, chunks=1)) for _ in range(2)]
    assert [c.divergence for c in twice[0]] == [c.divergence for c in twice[1]]
    last = twice[0][-1]
    (again,) = sensitivity.measure(
        reference,
        split,
        types=(Type.Q2_K,),
        known={(c.tensor, c.type): c for c in twice[0][:-1]},
        chunk=CHUNK,
        chunks=1,
    )
    assert again == last


def test_solved_recipes_keep_their_size_and_beat_the_preset(reference: Path, measured: Path, tmp_path: Path) -> None:
    (preset,) = hf_to_gguf.convert(TINY, "Q3_K_S", tmp_path, vision=False)
    size, recipe = preset.stat().st_size, tmp_path / "recipe.yaml"
    arguments = ["recipe", str(measured), "--target-size", str(size - 1024), "-o", str(recipe)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.stderr
    assert "(the optimum)" in result.stdout
    (ours,) = hf_to_gguf.convert(TINY, "Q4_K_M", tmp_path, vision=False, recipe=recipe)
    assert 0.97 * size < ours.stat().st_size <= size
    kl_divergence.save_reference(
        reference, splitter(TINY / "evaluation.txt", ""), tmp_path / "base", chunk=256, chunks=30, threads=2
    )
    found = {file: kl_divergence.evaluate(file, tmp_path / "base", threads=2) for file in (preset, ours)}
    assert found[ours].mean.high < 0.75 * found[preset].mean.low


def test_targets(measured: Path) -> None:
    costs = files.read(measured)
    small, large = solve.for_bits(costs, 4.0), solve.for_bits(costs, 5.5)
    assert small.bits <= 4.0 < 4.2 < large.bits <= 5.5
    assert small.expected > large.expected
    good = solve.for_divergence(costs, large.expected * 1.05)
    assert good.expected <= large.expected * 1.05
    assert good.size < solve.for_divergence(costs, large.expected / 2).size
    kinds = solve.for_bits(costs, 4.5, by_kind=True)
    assert len({type_ for name, type_ in kinds.types.items() if name.endswith("ffn_up.weight")}) <= 2
    with pytest.raises(RecipeError, match="is too small; the smallest types that were measured need"):
        solve.for_bits(costs, 1.5)
    with pytest.raises(RecipeError, match="is less than the best types"):
        solve.for_divergence(costs, 1e-9)


def test_an_interrupted_measurement_resumes(reference: Path, measured: Path, tmp_path: Path) -> None:
    whole, out = files.read(measured), tmp_path / "costs.json"
    half = Costs(**(vars(whole) | {"costs": whole.costs[: len(whole.costs) - 3]}))
    files.write(half, out)
    text = str(TINY / "calibration.txt")
    options = ["-f", text, "--chunk", str(CHUNK), "--chunks", str(CHUNKS), "--types", TYPES]
    assert CliRunner().invoke(main, ["sensitivity", str(reference), "-o", str(out), *options]).exit_code == 0
    assert sorted(map(str, files.read(out).costs)) == sorted(map(str, whole.costs))
    other = CliRunner().invoke(main, ["sensitivity", str(reference), "-o", str(out), "--chunk", "64"])
    assert (other.exit_code, "of another model, text" in other.stderr) == (2, True)


def test_estimates_need_no_evaluation(reference: Path, measured: Path) -> None:
    made = {(c.tensor, c.type): c for c in sensitivity.estimate(reference, types=(Type.Q2_K, Type.Q4_K, Type.Q6_K))}
    true = {(c.tensor, c.type): c for c in files.read(measured).costs}
    assert set(made) == set(true)
    assert all(made[key].bytes == cost.bytes for key, cost in true.items())
    sensitive = max((c for c in made.values() if c.type is Type.Q2_K), key=lambda c: c.divergence)
    assert sensitive.tensor == max((c for c in true.values() if c.type is Type.Q2_K), key=lambda c: c.divergence).tensor


def test_bad_input_is_refused(measured: Path, tmp_path: Path) -> None:
    (packed,) = hf_to_gguf.convert(TINY, "Q4_K_M", tmp_path, vision=False)
    with pytest.raises(ModelError, match=r"use a reference in F32, F16 or BF16"):
        list(sensitivity.measure(packed, lambda _model: [1] * 256))
    data = json.loads(measured.read_text())
    for change in ({"format": "x"}, {"costs": [["a", "Q4_K", -1, 0.0, 0.0]]}, {"weights": 0}, {"layers": "x"}):
        bad = tmp_path / "bad.json"
        bad.write_text(json.dumps(data | change))
        with pytest.raises(CostsError, match=r"bad\.json: .* must be .*; give a file made by"):
            files.read(bad)
    assert read_text(TINY / "calibration.txt")
    for arguments, message in (
        (["recipe", str(measured), "-o", "x.yaml"], "give one of --target-size"),
        (["recipe", str(measured), "-o", "x.yaml", "--target-size", "much"], "much"),
        (["recipe", str(tmp_path / "none"), "-o", "x.yaml", "--target-bpw", "4"], "No such file"),
        (["sensitivity", str(packed), "-o", str(tmp_path / "no" / "x")], "is not a directory"),
        (["sensitivity", str(packed), "-o", "x", "--types", "Q9"], "'Q9' is not a type"),
    ):
        result = CliRunner().invoke(main, arguments)
        assert (result.exit_code, message in result.stderr) == (2, True), result.stderr


@pytest.mark.slow
def test_rounded_costs_are_those_of_rounded_files(reference: Path, tmp_path: Path) -> None:
    """Rounding lowers the costs; measured once each, and scaled, they stay near what is measured."""
    split = splitter(TINY / "calibration.txt", "c")
    moments = tmp_path / "m.gguf"
    collect_moments.collect(reference, split, moments, kind="block", dataset="c", chunk=256, chunks=24, effects=False)
    how = ["-f", str(TINY / "calibration.txt"), "--chunk", str(CHUNK), "--chunks", str(CHUNKS), "--types", TYPES]
    rounded = ["--rounding", "block", "--moments", str(moments)]
    found = {}
    for name, extra in (("plain", []), ("rounded", rounded), ("once", [*rounded, "--once"])):
        out = tmp_path / f"{name}.json"
        result = CliRunner().invoke(main, ["sensitivity", str(reference), "-o", str(out), *how, *extra])
        assert result.exit_code == 0, result.output
        found[name] = {(c.tensor, c.type): c.divergence for c in files.read(out).costs if ".8." not in c.tensor}
    sums = {
        name: {type_: sum(value for (_, t), value in costs.items() if t is type_) for type_ in (Type.Q2_K, Type.Q4_K)}
        for name, costs in found.items()
    }
    assert sums["rounded"][Type.Q2_K] < 0.95 * sums["plain"][Type.Q2_K]
    assert sums["rounded"][Type.Q4_K] < 0.95 * sums["plain"][Type.Q4_K]
    assert sums["once"][Type.Q4_K] == pytest.approx(sums["rounded"][Type.Q4_K])  # the type that is measured
    assert sums["once"][Type.Q2_K] == pytest.approx(sums["rounded"][Type.Q2_K], rel=0.6)
    recipe = tmp_path / "r.yaml"
    result = CliRunner().invoke(main, ["recipe", str(tmp_path / "once.json"), "--target-bpw", "5", "-o", str(recipe)])
    assert f"--rounding block --moments {moments}" in result.output
    assert "with --rounding block" in recipe.read_text()
    again = CliRunner().invoke(main, ["sensitivity", str(reference), "-o", str(tmp_path / "once.json"), *how])
    assert (again.exit_code, "or rounding" in again.output) == (2, True)
