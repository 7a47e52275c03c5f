"""What `qwen35 imatrix` sums is what transformers' modules are given."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers
from click.testing import CliRunner

from oracles import llama
from oracles.paths import TINY
from qwen35_gguf.cli import main
from qwen35_gguf.convert import hf_to_gguf
from qwen35_gguf.errors import ImatrixError
from qwen35_gguf.evaluation import collect_imatrix
from qwen35_gguf.evaluation.texts.packaged import CALIBRATION, EVALUATION, packaged_text
from qwen35_gguf.evaluation.texts.tokenized import splitter
from qwen35_gguf.quant import imatrix
from qwen35_gguf.quant.imatrix import Imatrix

Factory = Callable[..., Path]

MODULES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "linear_attn.in_proj_qkv": "attn_qkv", "linear_attn.in_proj_z": "attn_gate",
    "linear_attn.in_proj_a": "ssm_alpha", "linear_attn.in_proj_b": "ssm_beta", "linear_attn.out_proj": "ssm_out",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip
CHUNK, CHUNKS = 64, 3


@torch.no_grad()
def reference(source: Path, ids: list[int]) -> dict[str, np.ndarray]:
    """Sums of squares of what goes into each linear module, in the order of the GGUF's columns."""
    config = transformers.AutoConfig.from_pretrained(source)
    model_class = getattr(transformers, config.architectures[0])
    model = model_class.from_pretrained(source, dtype=torch.float32, attn_implementation="eager").eval()
    text = getattr(config, "text_config", config)
    keys, ratio = text.linear_num_key_heads, text.linear_num_value_heads // text.linear_num_key_heads
    sums: dict[str, np.ndarray] = {}

    def hook(name: str, shuffled: bool) -> Callable[..., None]:
        def take(_module: object, inputs: tuple[torch.Tensor, ...]) -> None:
            x = inputs[0].reshape(-1, inputs[0].shape[-1]).double().square().sum(0).numpy()
            if shuffled:  # value heads: grouped by key head there, tiled in a GGUF
                x = x.reshape(keys, ratio, -1).transpose(1, 0, 2).reshape(-1)
            sums[name] = sums.get(name, 0.0) + x

        return take

    for path, module in model.named_modules():
        for suffix, name in MODULES.items():
            if path.endswith(suffix) and "layers." in path and "visual" not in path:
                layer = path.split("layers.")[1].split(".")[0]
                module.register_forward_pre_hook(hook(f"blk.{layer}.{name}.weight", name == "ssm_out"))
    for start in range(0, CHUNK * CHUNKS, CHUNK):
        model(input_ids=torch.tensor([ids[start : start + CHUNK]]))
    return sums


def collected(file: Path, ids: list[int], out: Path, **options: object) -> Imatrix:
    return collect_imatrix.collect(file, lambda _model: ids, out, dataset="ids", chunk=CHUNK, chunks=CHUNKS, **options)


def random_ids(count: int = CHUNK * CHUNKS + 5) -> list[int]:
    return np.random.default_rng(0).integers(0, 2033, count).tolist()


@pytest.mark.parametrize("options", [{"value_heads_per_key": 2}, {"value_heads_per_key": 3, "mtp": False}])
def test_sums_equal_those_of_transformers(checkpoint: Factory, tmp_path: Path, options: dict[str, object]) -> None:
    source, ids = checkpoint(tied=False, **options), random_ids()
    (file,) = hf_to_gguf.convert(source, "F32", tmp_path, vision=False)
    found, expected = collected(file, ids, tmp_path / "i.gguf"), reference(source, ids)
    assert len(expected) > 20
    for name, sums in expected.items():
        assert found.entries[name].counts.tolist() == [CHUNK * CHUNKS]
        np.testing.assert_allclose(found.entries[name].sums[0], sums, rtol=2e-3, err_msg=name)  # the caches are F16


def test_the_mtp_head_has_entries(files: list[Path], tmp_path: Path) -> None:
    ids = random_ids()
    found = collected(files[0], ids, tmp_path / "i.gguf")
    last = max(int(name.split(".")[1]) for name in found.entries if name.startswith("blk."))
    names = {name.split(".", 2)[2] for name in found.entries if name.startswith(f"blk.{last}.")}
    assert {"nextn.eh_proj.weight", "attn_q.weight", "attn_output.weight", "ffn_down.weight"} <= names
    # Its input is two rows of RMSNorm, whose mean square is that of the norm's weights.
    tensors = {t.name: t.data for t in gguf.GGUFReader(files[0]).tensors}
    e_norm, h_norm = (tensors[f"blk.{last}.nextn.{which}.weight"] for which in ("enorm", "hnorm"))
    means = found.entries[f"blk.{last}.nextn.eh_proj.weight"].means()[0]
    half = len(e_norm)
    assert (means[:half] / np.square(e_norm)).mean() == pytest.approx(1, rel=1e-2)
    assert (means[half:] / np.square(h_norm)).mean() == pytest.approx(1, rel=1e-2)
    hidden, _ = llama.draft_logits(files[0], ids[:CHUNK])
    assert hidden.shape[1] == half


def test_experts_count_what_they_saw(checkpoint: Factory, tmp_path: Path) -> None:
    (file,) = hf_to_gguf.convert(checkpoint(moe=True, mtp=False), "F32", tmp_path, vision=False)
    found = collected(file, random_ids(), tmp_path / "i.gguf")
    for name in ("blk.0.ffn_up_exps.weight", "blk.0.ffn_down_exps.weight"):
        entry = found.entries[name]
        assert entry.sums.shape[0] == len(entry.counts) == 8
        assert entry.counts.sum() == 2 * CHUNK * CHUNKS  # each token goes to two experts
        assert (entry.sums[entry.counts > 0] > 0).any()
        assert (entry.sums[entry.counts == 0] == 0).all()


def test_an_interrupted_run_resumes(files: list[Path], tmp_path: Path) -> None:
    ids, out = random_ids(), tmp_path / "i.gguf"
    whole = collected(files[0], ids, tmp_path / "whole.gguf")

    def interrupt(done: int, _all: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collected(files[0], ids, out, advance=interrupt)
    assert [p.name for p in tmp_path.glob("i.gguf*")] == ["i.gguf.part"]
    begun: list[int] = []
    found = collected(files[0], ids, out, advance=lambda done, _all: begun.append(done))
    assert begun == [3]
    assert [p.name for p in tmp_path.glob("i.gguf*")] == ["i.gguf"]
    for name, entry in whole.entries.items():
        np.testing.assert_allclose(found.entries[name].sums, entry.sums, rtol=1e-6)

    with pytest.raises(KeyboardInterrupt):
        collected(files[0], ids, out, advance=interrupt)
    other = ids[::-1]  # what was begun is of another text
    begun.clear()
    collected(files[0], other, out, advance=lambda done, _all: begun.append(done))
    assert begun == [1, 2, 3]


def test_a_text_that_is_too_short_is_refused(files: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ImatrixError, match="has 5 tokens, less than a chunk of 64"):
        collected(files[0], random_ids(5), tmp_path / "i.gguf")
    assert list(tmp_path.iterdir()) == []


def test_from_command_to_command(checkpoint: Factory, files: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "i.gguf"
    result = CliRunner().invoke(main, ["imatrix", str(files[0]), "-o", str(out), "--chunk", "64", "--chunks", "4"])
    assert result.exit_code == 0, result.stderr
    assert "4 chunks of 64 tokens" in result.stdout
    again = CliRunner().invoke(main, ["imatrix", str(files[0]), "-o", str(out)])
    assert (again.exit_code, "--force" in again.stderr) == (2, True)
    arguments = ["convert", str(checkpoint(tied=False)), "-q", "Q3_K_M", "-o", str(tmp_path), "--imatrix", str(out)]
    assert CliRunner().invoke(main, arguments).exit_code == 0

    text = tmp_path / "t.txt"
    text.write_bytes(b"caf\xe9")
    bad = CliRunner().invoke(main, ["imatrix", str(files[0]), "-f", str(text), "-o", str(tmp_path / "j.gguf")])
    assert (bad.exit_code, "is not UTF-8" in bad.stderr) == (2, True)
    merged = ["imatrix", str(files[0]), "-o", str(tmp_path / "j.gguf"), "--chunk", "64", "--chunks", "2"]
    assert CliRunner().invoke(main, [*merged, "--merge", str(out)]).exit_code == 0
    assert imatrix.read(tmp_path / "j.gguf").chunks == 6


def test_the_packaged_texts_are_apart_and_chats_go_through_the_template(files: list[Path]) -> None:
    from qwen35_gguf.runtime.llama.model import Model

    passages = [set(packaged_text(name, None).split("\n\n")) for name in (CALIBRATION, EVALUATION)]
    assert not passages[0] & passages[1]
    scripts = packaged_text(CALIBRATION, None)
    assert all(sample in scripts for sample in ("def ", "SELECT", "的", "は", "를", "في", "है", "ї", "ğ"))
    with Model(files[0]) as model:
        ids = splitter(None, CALIBRATION)(model)
        start = model.tokenize("<|im_start|>")
        assert len(start) == 1
        assert ids.count(start[0]) > 20


@pytest.mark.slow
def test_sums_equal_those_of_llama_imatrix_and_its_quantizer_takes_ours(tmp_path: Path, stock_tools: Any) -> None:
    (file,) = hf_to_gguf.convert(TINY, "F32", tmp_path, vision=False)
    text, theirs, ours = TINY / "calibration.txt", tmp_path / "theirs.gguf", tmp_path / "ours.gguf"
    options = ["-c", "128", "-b", "128", "--chunks", "20", "-t", "2", "--process-output", "--parse-special"]
    command = [str(stock_tools.imatrix), "-m", str(file), "-f", str(text), "-o", str(theirs), *options]
    subprocess.run(command, check=True, capture_output=True)
    arguments = ["imatrix", str(file), "-f", str(text), "-o", str(ours), "--chunk", "128", "--chunks", "20"]
    assert CliRunner().invoke(main, arguments).exit_code == 0
    stock, found = imatrix.read(theirs), imatrix.read(ours)
    compared = 0
    for name, entry in stock.entries.items():
        if name != "token_embd.weight":  # of the output ours looks at fewer rows
            expected = entry.means()
            np.testing.assert_allclose(found.entries[name].means(), expected, rtol=2e-2, atol=1e-6, err_msg=name)
            compared += 1
    assert compared > 50
    assert set(found.entries) >= set(stock.entries)

    plain = hf_to_gguf.convert(TINY, "BF16", tmp_path, vision=False)[0]
    quantized = tmp_path / "stock-Q4_K_M.gguf"
    command = [str(stock_tools.quantize), "--imatrix", str(ours), str(plain), str(quantized), "Q4_K_M", "2"]
    subprocess.run(command, check=True, capture_output=True)
    (converted,) = hf_to_gguf.convert(TINY, "Q4_K_M", tmp_path, vision=False, imatrix=ours)
    wanted = {t.name: t for t in gguf.GGUFReader(quantized).tensors}
    for tensor in gguf.GGUFReader(converted).tensors:
        assert tensor.tensor_type == wanted[tensor.name].tensor_type
        np.testing.assert_array_equal(tensor.data.ravel(), wanted[tensor.name].data.ravel(), err_msg=tensor.name)
