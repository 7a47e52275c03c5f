"""What `qwen35 imatrix --moments` sums is what transformers' modules are given."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from click.testing import CliRunner

from qwen35_gguf.cli import main
from qwen35_gguf.convert import hf_to_gguf
from qwen35_gguf.errors import MomentsError
from qwen35_gguf.evaluation import collect_imatrix, collect_moments, token_effects
from qwen35_gguf.evaluation.sums import moment_sums
from qwen35_gguf.evaluation.token_effects import TokenEffects
from qwen35_gguf.quant import imatrix
from qwen35_gguf.quant.rounding import held_out, merge_moments
from qwen35_gguf.quant.rounding import moments as files
from qwen35_gguf.quant.rounding.moments import Moments

Factory = Callable[..., Path]

MODULES = {
    "self_attn.q_proj": "attn_q", "self_attn.o_proj": "attn_output", "linear_attn.in_proj_qkv": "attn_qkv",
    "linear_attn.out_proj": "ssm_out", "mlp.gate_proj": "ffn_gate", "mlp.down_proj": "ffn_down",
}  # fmt: skip
CHUNK, CHUNKS = 64, 3


def random_ids(count: int = CHUNK * CHUNKS + 5, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, 2033, count).tolist()


def collected(file: Path, ids: list[int], out: Path, kind: str = "full", **options: object) -> Moments:
    options = {"chunks": CHUNKS, "chunk": CHUNK, "kind": kind, "dataset": "ids", "effects": False} | options
    return collect_moments.collect(file, lambda _model: ids, out, **options)


@torch.no_grad()
def reference(source: Path, ids: list[int], effects: np.ndarray) -> dict[str, np.ndarray]:
    """X^T X of what goes into each linear module, in the order of the GGUF's columns, tokens by their effects."""
    config = transformers.AutoConfig.from_pretrained(source)
    model_class = getattr(transformers, config.architectures[0])
    model = model_class.from_pretrained(source, dtype=torch.float32, attn_implementation="eager").eval()
    text = getattr(config, "text_config", config)
    keys, ratio = text.linear_num_key_heads, text.linear_num_value_heads // text.linear_num_key_heads
    sums: dict[str, np.ndarray] = {}
    waiting: list[tuple[str, np.ndarray]] = []

    def add(name: str, x: np.ndarray) -> None:
        x = x * np.sqrt(effects[start : start + CHUNK, None])
        sums[name] = sums.get(name, 0.0) + x.T @ x

    def hook(name: str, shuffled: bool) -> Callable[..., None]:
        def take(_module: object, inputs: tuple[torch.Tensor, ...]) -> None:
            x = inputs[0].reshape(-1, inputs[0].shape[-1]).double().numpy()
            if shuffled:  # value heads: grouped by key head there, tiled in a GGUF
                x = x.reshape(len(x), keys, ratio, -1).transpose(0, 2, 1, 3).reshape(len(x), -1)
            if name.split(".")[2] in moment_sums.WRITERS:
                waiting.append((name, x))
            else:
                add(name, x)

        return take

    def weigh(stream: torch.Tensor) -> None:
        size = stream.reshape(-1, stream.shape[-1]).double().square().mean(1, keepdim=True).numpy()
        for name, x in waiting:
            add(name, x / np.sqrt(size))
        waiting.clear()

    for path, module in model.named_modules():
        for suffix, name in MODULES.items():
            if path.endswith(suffix) and "layers." in path and "visual" not in path:
                layer = path.split("layers.")[1].split(".")[0]
                module.register_forward_pre_hook(hook(f"blk.{layer}.{name}.weight", name == "ssm_out"))
        if "visual" not in path and path.endswith("post_attention_layernorm"):
            module.register_forward_pre_hook(lambda _module, inputs: weigh(inputs[0]))
        if type(module).__name__ == "Qwen3_5DecoderLayer":
            module.register_forward_hook(lambda _module, _inputs, out: weigh(out[0] if isinstance(out, tuple) else out))
    for start in range(0, CHUNK * CHUNKS, CHUNK):
        model(input_ids=torch.tensor([ids[start : start + CHUNK]]))
    return sums


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"value_heads_per_key": 2}, {"value_heads_per_key": 3, "mtp": False}])
@pytest.mark.parametrize("weighted", [False, True])
def test_moments_equal_those_of_transformers(
    checkpoint: Factory, tmp_path: Path, options: dict[str, object], weighted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, ids = checkpoint(tied=False, **options), random_ids()
    (file,) = hf_to_gguf.convert(source, "F32", tmp_path, vision=False)
    effects = np.random.default_rng(2).random(CHUNK * CHUNKS) + 0.1 if weighted else np.ones(CHUNK * CHUNKS)
    known = TokenEffects(effects / effects.mean(), np.ones_like(effects))
    monkeypatch.setattr(TokenEffects, "weights", lambda effects: effects)
    monkeypatch.setattr(token_effects, "measure", lambda *_args, **_options: known)
    found = collected(file, ids, tmp_path / "m.gguf", effects=weighted)
    assert found.provenance.effects == weighted
    expected = reference(source, ids, known.stream)
    assert len(expected) > 10
    for name, sums in expected.items():
        assert found.counts(name).tolist() == [CHUNK * CHUNKS]
        slack = 2e-3 * float(np.diagonal(sums).max())  # the caches are F16
        np.testing.assert_allclose(found.sums(name)[0], sums, rtol=2e-3, atol=slack, err_msg=name)


def test_blocks_are_those_of_the_whole_matrices_whose_diagonals_are_the_importance(
    files_of_tiny: Path, tmp_path: Path
) -> None:
    ids = random_ids()
    whole = collected(files_of_tiny, ids, tmp_path / "full.gguf")
    blocks = collected(files_of_tiny, ids, tmp_path / "block.gguf", "block")
    plain = collect_imatrix.collect(
        files_of_tiny, lambda _model: ids, tmp_path / "i.gguf", dataset="ids", chunk=CHUNK, chunks=CHUNKS
    )
    assert whole.names == blocks.names
    for name in whole.names:
        columns = whole.sums(name).shape[-1]
        for number, (one, part) in enumerate(zip(blocks.matrix(name, 0, columns), blocks.sums(name)[0], strict=True)):
            span = slice(256 * number, 256 * number + len(one))
            np.testing.assert_allclose(
                part[: len(one), : len(one)], whole.sums(name)[0][span, span], rtol=1e-4, atol=1e-3
            )
    made = whole.importance(plain.entries)
    assert len(made.entries) > len(whole.names)  # matmuls that share an input
    for name, entry in made.entries.items():
        np.testing.assert_allclose(entry.sums, plain.entries[name].sums, rtol=1e-4, err_msg=name)
        assert (entry.counts == plain.entries[name].counts).all()


def test_groups_that_fit_into_memory_give_the_same(files_of_tiny: Path, tmp_path: Path) -> None:
    ids, steps = random_ids(), []
    collected(files_of_tiny, ids, tmp_path / "one.gguf", "block")
    collected(
        files_of_tiny, ids, tmp_path / "two.gguf", "block",
        memory_limit=3 << 20, advance=lambda done, total: steps.append((done, total)),
    )  # fmt: skip
    assert steps[-1][0] == steps[-1][1] > CHUNKS
    assert (tmp_path / "one.gguf").read_bytes() == (tmp_path / "two.gguf").read_bytes()
    assert not list(tmp_path.glob("*.group-*"))
    with pytest.raises(MomentsError, match="raise --memory"):
        collected(files_of_tiny, ids, tmp_path / "three.gguf", memory_limit=1000)


def test_an_interrupted_run_resumes(files_of_tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collect_moments, "SAVE_EVERY", 1)
    ids, out, steps = random_ids(), tmp_path / "m.gguf", []
    collected(files_of_tiny, ids, tmp_path / "whole.gguf", "block")

    def interrupt(done: int, _all: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collected(files_of_tiny, ids, out, "block", advance=interrupt)
    assert not out.exists()
    collected(files_of_tiny, ids, out, "block", advance=lambda done, _all: steps.append(done))
    assert steps[0] == 2 + (steps[0] == 3)
    whole, resumed = files.read(tmp_path / "whole.gguf"), files.read(out)
    assert resumed.provenance == whole.provenance
    for name in whole.names:
        np.testing.assert_allclose(resumed.sums(name), whole.sums(name), rtol=1e-5, atol=1e-4)
        np.testing.assert_allclose(resumed.squares(name), whole.squares(name), rtol=1e-5)


def test_effects_of_an_interrupted_run_are_not_measured_again(
    files_of_tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids, out = random_ids(), tmp_path / "m.gguf"

    def interrupt(done: int, total: int) -> None:
        if done > 0.95 * total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collected(files_of_tiny, ids, out, "block", effects=True, advance=interrupt)
    monkeypatch.setattr(token_effects, "NOISE", np.nan)  # would spoil what is measured now
    found = collected(files_of_tiny, ids, out, "block", effects=True)
    assert found.provenance.effects
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.gguf"]
    alike = collected(files_of_tiny, ids, tmp_path / "alike.gguf", "block")
    name = "blk.0.attn_qkv.weight"
    assert np.isfinite(found.sums(name)).all()
    assert not np.allclose(found.sums(name), alike.sums(name), rtol=0.01)
    assert (found.squares(name) == alike.squares(name)).all()
    with pytest.raises(MomentsError, match="in only one of"):
        merge_moments.join([found, alike], tmp_path / "both.gguf")


def test_sums_of_two_texts_add_up(files_of_tiny: Path, tmp_path: Path) -> None:
    first, second = random_ids(CHUNK * 2, 1), random_ids(CHUNK, 2)
    parts = [
        collected(files_of_tiny, ids, tmp_path / f"{number}.gguf", "block", chunks=None)
        for number, ids in enumerate((first, second))
    ]
    both = collected(files_of_tiny, first + second, tmp_path / "both.gguf", "block", chunks=None)
    result = CliRunner().invoke(
        main, ["imatrix", "--merge", str(parts[0].path), str(parts[1].path), "-o", str(tmp_path / "joined.gguf")]
    )
    assert result.exit_code == 0, result.output
    joined = files.read(tmp_path / "joined.gguf")
    assert joined.provenance.chunks == 3
    for name in both.names:
        np.testing.assert_allclose(joined.sums(name), both.sums(name), rtol=1e-4, atol=1e-3)


def test_shrinkings_are_chosen_by_the_halves_of_the_text(files_of_tiny: Path, tmp_path: Path) -> None:
    ids = random_ids()
    two, one = (collected(files_of_tiny, ids, tmp_path / f"{chunks}.gguf", "block", chunks=chunks) for chunks in (2, 1))
    names = [name for name in two.names if name != "token_embd.weight"]  # which is of weights, not of a text
    assert {two.shrinking(name) for name in names} <= set(np.float32(held_out.SHRINKINGS).tolist())
    assert {one.shrinking(name) for name in names} == {None}  # nothing is held out
    merge_moments.join([two, one], tmp_path / "joined.gguf")
    joined = files.read(tmp_path / "joined.gguf")
    assert all(joined.shrinking(name) == two.shrinking(name) for name in two.names)


def test_the_command_writes_both_files_and_warns_of_little_text(files_of_tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("one two three four five six seven eight " * 40)
    out = tmp_path / "i.gguf"
    text = ["-f", str(tmp_path / "text.txt"), "--chunk", "64"]
    result = CliRunner().invoke(main, ["imatrix", str(files_of_tiny), *text, "-o", str(out), "--moments", "block"])
    assert result.exit_code == 0, result.output
    assert "use a longer text" in result.output
    assert imatrix.read(out).entries.keys() >= {"blk.0.attn_gate.weight", "blk.0.ffn_up.weight"}
    assert files.read(tmp_path / "i.moments.gguf").provenance.kind == "block"


def test_the_experts_see_their_own_tokens(checkpoint: Factory, tmp_path: Path) -> None:
    (file,) = hf_to_gguf.convert(checkpoint(moe=True, mtp=False), "F32", tmp_path, vision=False)
    found = collected(file, random_ids(), tmp_path / "m.gguf", "block")
    for name in ("blk.0.ffn_gate_exps.weight", "blk.0.ffn_down_exps.weight"):
        counts = found.counts(name)
        assert len(counts) == 8
        assert found.shrinking(name) is None  # few tokens come to each half of an expert
        assert counts.sum() == 2 * CHUNK * CHUNKS  # each token goes to two experts
        columns = found.importance([name]).entries[name].sums.shape[1]
        for number in range(8):  # one without tokens has the moments of all
            assert np.trace(found.matrix(name, number, min(columns, 256))[0]) > 0


@pytest.fixture(scope="module")
def files_of_tiny(files: list[Path]) -> Path:
    return files[0]
