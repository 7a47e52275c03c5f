"""`qwen35 imatrix --sequential`: layers alone compute what the model computes; files rounded by it diverge less."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from oracles.paths import TINY
from qwen35_gguf.cli import main
from qwen35_gguf.convert import hf_to_gguf
from qwen35_gguf.evaluation import collect_moments, kl_divergence, sequential_moments
from qwen35_gguf.evaluation.collect_imatrix import is_residual
from qwen35_gguf.evaluation.layer_inputs import LayerInputs
from qwen35_gguf.evaluation.layer_slice import layer_tensors, write_slice
from qwen35_gguf.evaluation.texts.tokenized import splitter
from qwen35_gguf.gguf_file.reader import map_data, read_header, tensor_data
from qwen35_gguf.quant.rounding import held_out
from qwen35_gguf.quant.rounding import moments as files
from qwen35_gguf.runtime.context_spec import ContextSpec
from qwen35_gguf.runtime.llama.context import Context
from qwen35_gguf.runtime.llama.eval_callback import EvalCallback, view
from qwen35_gguf.runtime.llama.model import Model, ModelSpec


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hf_to_gguf.convert(TINY, "F32", tmp_path_factory.mktemp("reference"), vision=False)[0]


def test_layers_alone_compute_what_the_model_computes(reference: Path, tmp_path: Path) -> None:
    ids, streams = list(range(100, 164)), {}

    def take(_kind: str, node: Any) -> None:
        streams[node.name.decode()] = view(node, np.float32)[0, 0].copy()

    watch = EvalCallback(is_residual, take)
    spec = ContextSpec(64, n_batch=64, n_threads=1, n_outputs=64)
    with Model(reference, ModelSpec()) as model, Context(model, spec, eval_callback=watch) as context:
        context.evaluate(ids, 0, outputs=64)
        context.wait()
        watch.check()
    header = read_header(reference)
    embedding = next(tensor for tensor in header.tensors if tensor.name == "token_embd.weight")
    stream = tensor_data(header, embedding, map_data(header)).view(np.float32).reshape(embedding.shape)[ids]
    for layer in range(8):
        write_slice(header, layer, tmp_path / "layer.gguf")
        writes = next(name for name in layer_tensors(header, layer) if name.endswith("ffn_down.weight"))
        with LayerInputs(tmp_path / "layer.gguf", [writes], 64, 1) as loaded:
            inputs, found = loaded.evaluate(stream, [writes], streams=2)
            sooner, _ = loaded.evaluate(stream, [writes])  # the graph is known
        np.testing.assert_array_equal(sooner[writes], inputs[writes])
        assert inputs[writes].shape == (64, 256)
        np.testing.assert_array_equal(found[0], streams[f"attn_residual-{layer}"])
        np.testing.assert_array_equal(found[1], streams[f"l_out-{layer}"])
        stream = streams[f"l_out-{layer}"]


@pytest.mark.parametrize("options", [None, {"moe": True, "mtp": False}, {"tied": False, "mtp": False}])
def test_without_quantized_layers_moments_are_those_of_the_model(
    reference: Path, checkpoint: Callable[..., Path], tmp_path: Path, options: dict[str, Any] | None
) -> None:
    model = (
        reference if options is None else hf_to_gguf.convert(checkpoint(**options), "F32", tmp_path, vision=False)[0]
    )
    how: dict[str, Any] = {"kind": "full", "dataset": "c", "chunk": 64, "chunks": 4, "effects": False}
    split = splitter(TINY / "calibration.txt", "c")
    expected = collect_moments.collect(model, split, tmp_path / "expected.gguf", **how)
    found = sequential_moments.collect(model, split, tmp_path / "found.gguf", {}, **how)
    assert set(found.names) == set(expected.names)
    assert not found.shifted
    for name in found.names:
        sums, wanted = found.sums(name), expected.sums(name)
        assert np.linalg.norm(sums - wanted) < 1e-4 * np.linalg.norm(wanted), name


@pytest.mark.slow
def test_an_interrupted_run_resumes_and_its_moments_are_for_one_quantization(
    reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (four,) = hf_to_gguf.convert(TINY, "Q4_K_M", tmp_path, vision=False)
    text = ["-f", TINY / "calibration.txt", "--chunk", 64, "--chunks", 2, "--no-effects", "--threads", 1]
    how = ["imatrix", reference, *text, "--moments", "full", "--sequential", four]
    real, done = sequential_moments._collect_layer, []

    def stop(run: Any, layer: int, *rest: Any) -> Any:
        done.append(layer)
        if len(done) == 4:
            raise KeyboardInterrupt
        return real(run, layer, *rest)

    monkeypatch.setattr(held_out, "SHRINKINGS", (0.2,))  # the choice takes most of the time
    monkeypatch.setattr(sequential_moments, "_collect_layer", stop)
    assert run(*how, "-o", tmp_path / "a.gguf").exit_code != 0
    result = run(*how, "-o", tmp_path / "a.gguf")
    assert (result.exit_code, done) == (0, [0, 1, 2, 3, 3, 4, 5, 6, 7]), result.output
    assert "--rounding sequential --moments" in result.output
    monkeypatch.setattr(sequential_moments, "_collect_layer", real)
    assert run(*how, "-o", tmp_path / "b.gguf").exit_code == 0
    a, b = (tmp_path / f"{name}.moments.gguf" for name in "ab")
    assert a.read_bytes() == b.read_bytes()
    assert not [path.name for path in tmp_path.iterdir() if ".moments.gguf." in path.name]

    convert = ["convert", TINY, "--no-vision", "--moments", a, "--rounding"]
    assert "use --rounding sequential" in run(*convert, "full", "-q", "Q4_K_M", "-o", tmp_path / "x").output
    assert "in other types" in run(*convert, "sequential", "-q", "Q5_K_M", "-o", tmp_path / "x").output
    made = run(*convert, "sequential", "-q", "Q4_K_M", "-o", tmp_path / "x")
    assert made.exit_code == 0, made.output
    header = read_header(next((tmp_path / "x").glob("*.gguf")))
    assert header.value("quantize.rounding.kind") == "sequential"
    assert [(t.name, t.type) for t in header.tensors] == [(t.name, t.type) for t in read_header(four).tensors]
    assert "parts do not add up" in run("imatrix", "--merge", a, b, "-o", tmp_path / "c.gguf").output
    assert files.read(a).shifted[0] == "blk.0.attn_gate.weight"


@pytest.mark.slow
@pytest.mark.parametrize("quant", ["Q4_K_M", "Q2_K"])
def test_a_file_rounded_layer_after_layer_diverges_less(reference: Path, tmp_path: Path, quant: str) -> None:
    split, base = splitter(TINY / "calibration.txt", "c"), tmp_path / "base"
    kl_divergence.save_reference(reference, splitter(TINY / "evaluation.txt", "e"), base, chunk=256, chunks=24)
    how: dict[str, Any] = {"kind": "full", "dataset": "c", "chunk": 256, "chunks": 48, "effects": False}
    moments = collect_moments.collect(reference, split, tmp_path / "m.gguf", **how)
    (full,) = hf_to_gguf.convert(TINY, quant, tmp_path / "f", vision=False, rounding="full", moments=moments.path)
    types = {tensor.name: tensor.type for tensor in read_header(full).tensors}
    after = sequential_moments.collect(reference, split, tmp_path / "s.gguf", types, **how)
    (file,) = hf_to_gguf.convert(TINY, quant, tmp_path / "s", vision=False, rounding="sequential", moments=after.path)
    assert kl_divergence.evaluate(file, base).mean.value < kl_divergence.evaluate(full, base).mean.value


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"moe": True, "mtp": False}, {"tied": False}], ids=["experts", "untied"])
def test_experts_and_output_matrices_of_their_own_are_rounded(
    checkpoint: Callable[..., Path], tmp_path: Path, options: dict[str, Any]
) -> None:
    source = checkpoint(**options)
    exact, four = (hf_to_gguf.convert(source, quant, tmp_path, vision=False)[0] for quant in ("BF16", "Q4_K_M"))
    text = ["-f", TINY / "calibration.txt", "--chunk", 32, "--chunks", 4, "--no-effects", "--threads", 1]
    made = run("imatrix", exact, *text, "--moments", "full", "--sequential", four, "-o", tmp_path / "a.gguf")
    assert made.exit_code == 0, made.output
    moments = files.read(tmp_path / "a.moments.gguf")
    assert ("output.weight" in moments.shifted) == ("tied" in options)
    assert not [name for name in moments.shifted if name.endswith("_exps.weight")]
    for name in moments.shifted:
        assert np.isfinite(np.array(moments.shift(name), np.float32)).all()
    how: dict[str, Any] = {"rounding": "sequential", "moments": moments.path}
    (file,) = hf_to_gguf.convert(source, "Q4_K_M", tmp_path / "made", vision=False, **how)
    assert [(t.name, t.type) for t in read_header(file).tensors] == [
        (t.name, t.type) for t in read_header(four).tensors
    ]


@pytest.mark.parametrize("kind", ["missing", "other"])
def test_a_file_that_is_not_this_model_quantized_is_one_line(tmp_path: Path, kind: str) -> None:
    (tmp_path / "other.gguf").write_bytes(b"GGUF")
    text = ["--moments", "full", "--sequential", tmp_path / f"{kind}.gguf", "-o", tmp_path / "a.gguf"]
    result = run("imatrix", tmp_path / "model.gguf", *text)
    assert (result.exit_code, len(result.output.splitlines())) == (2, 1), result.output
