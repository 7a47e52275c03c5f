"""The pipeline as a whole: files, options, verification, and that nothing half-written ever stays."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import ml_dtypes
import numpy as np
import pytest
from gguf import GGUFReader

import qwen35_gguf
from oracles.paths import ROOT
from qwen35_gguf import atomic_file
from qwen35_gguf.architecture import Architecture
from qwen35_gguf.convert import hf_to_gguf, transforms, verify
from qwen35_gguf.convert.checkpoint import open_checkpoint
from qwen35_gguf.errors import OutputError, QuantizationError
from qwen35_gguf.gguf_file import writer
from qwen35_gguf.gguf_file.header import TensorInfo

Factory = Callable[..., Path]
SCRIPT = ROOT / "convert" / "hf_to_gguf.py"


def left_behind(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def poke(directory: Path, name: str, value: float, index: int = 5) -> None:
    """Overwrite one BF16 weight of a checkpoint."""
    stored = open_checkpoint(directory).tensors[name]
    with stored.file.open("r+b") as file:
        file.seek(stored.start + 2 * index)
        file.write(np.array([value], ml_dtypes.bfloat16).tobytes())


@pytest.mark.unit
def test_writes_text_and_vision_in_one_call(checkpoint: Factory, tmp_path: Path) -> None:
    text, vision = hf_to_gguf.convert(checkpoint(), "Q4_K_M", tmp_path, name="Tiny")
    assert text.name.endswith("-Q4_K_M.gguf")
    assert vision.name.startswith("mmproj-")
    assert vision.name.endswith("-Q8_0.gguf")
    assert left_behind(tmp_path) == sorted([text.name, vision.name])
    names = {tensor.name for tensor in GGUFReader(text).tensors}
    assert "blk.4.nextn.eh_proj.weight" in names


@pytest.mark.unit
def test_parts_can_be_left_out(checkpoint: Factory, tmp_path: Path) -> None:
    files = hf_to_gguf.convert(checkpoint(), "Q8_0", tmp_path, mtp=False, vision=False)
    assert len(files) == 1
    assert not any("nextn" in tensor.name or "blk.4." in tensor.name for tensor in GGUFReader(files[0]).tensors)


@pytest.mark.unit
@pytest.mark.parametrize("jobs", [1, 3])
def test_the_number_of_threads_does_not_change_a_byte(checkpoint: Factory, tmp_path: Path, jobs: int) -> None:
    (reference,) = hf_to_gguf.convert(checkpoint(), "Q4_K_M", tmp_path / "a", vision=False, jobs=2)
    (other,) = hf_to_gguf.convert(checkpoint(), "Q4_K_M", tmp_path / "b", vision=False, jobs=jobs)
    assert reference.read_bytes() == other.read_bytes()


@pytest.mark.unit
def test_shards_and_prefixes_do_not_change_a_tensor(checkpoint: Factory, tmp_path: Path) -> None:
    options = {"mtp": False, "seed": 7}
    variants = [
        checkpoint(**options),
        checkpoint(**options, shards=3),
        checkpoint(**options, style="mlx"),
        checkpoint(**options, text_only=True),
    ]
    reference: dict[str, bytes] = {}
    for i, directory in enumerate(variants):
        file = hf_to_gguf.convert(directory, "F32", tmp_path / str(i), vision=False)[0]
        tensors = {t.name: np.asarray(t.data) for t in GGUFReader(file).tensors}
        for name, data in tensors.items():
            if not i:
                reference[name] = data.copy()
            elif i == 2 and name.endswith("norm.weight") and "ssm" not in name:
                # MLX stores 1 + w in BF16: equal to that rounding, with the +1 exactly once.
                np.testing.assert_allclose(data, reference[name], atol=2**-8, err_msg=name)
            else:
                np.testing.assert_array_equal(data, reference[name], err_msg=name)
        assert tensors.keys() == reference.keys()


@pytest.mark.unit
def test_an_mlx_vision_encoder_is_the_published_one(checkpoint: Factory, tmp_path: Path) -> None:
    ours = [
        GGUFReader(
            hf_to_gguf.convert(checkpoint(mtp=False, style=style), "F32", tmp_path / style, mmproj_type="F32")[1]
        )
        for style in ("hf", "mlx")
    ]
    for published, mlx in zip(ours[0].tensors, ours[1].tensors, strict=True):
        np.testing.assert_array_equal(published.data, mlx.data, err_msg=published.name)


@pytest.mark.parametrize(
    "quant", ["F32", "BF16", "F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K", "IQ4_XS"]
)
def test_verify_passes_what_was_converted(checkpoint: Factory, tmp_path: Path, quant: str) -> None:
    source = checkpoint(value_heads_per_key=3)
    for file in hf_to_gguf.convert(source, quant, tmp_path, mmproj_type="F32" if quant == "F32" else "Q8_0"):
        results = list(verify.verify(file, source))
        assert all(result.passed for result in results), [r for r in results if not r.passed]
        if quant in ("F32", "BF16") and not file.name.startswith("mmproj"):
            arithmetic = ("norm.weight", "ssm_a")  # +1 and exp round in F32
            assert all(r.exact or r.name.endswith(arithmetic) for r in results)


def test_verify_passes_experts(checkpoint: Factory, tmp_path: Path) -> None:
    source = checkpoint(moe=True)
    (file,) = hf_to_gguf.convert(source, "Q4_K_M", tmp_path, vision=False)
    assert all(result.passed for result in verify.verify(file, source))


def test_verify_fails_a_file_of_another_checkpoint(checkpoint: Factory, tmp_path: Path) -> None:
    (file,) = hf_to_gguf.convert(checkpoint(seed=1), "Q2_K", tmp_path, vision=False)
    results = list(verify.verify(file, checkpoint(seed=2)))
    matrices = [r for r in results if r.type != "F32"]
    assert not any(r.passed for r in matrices)


def test_verify_notices_heads_in_the_wrong_order(
    checkpoint: Factory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = checkpoint(value_heads_per_key=2)
    table = transforms.operation_table

    def without_tiling(model: Architecture, **options: bool) -> dict[str, tuple[transforms.Operation, ...]]:
        return table(model, **options) | {"v_rows": ()}

    monkeypatch.setattr(transforms, "operation_table", without_tiling)
    (file,) = hf_to_gguf.convert(source, "Q2_K", tmp_path, vision=False)
    monkeypatch.undo()
    failed = {result.name for result in verify.verify(file, source) if not result.passed}
    assert failed == {f"blk.{i}.attn_gate.weight" for i in range(3)}


@pytest.mark.unit
def test_the_package_is_also_the_function(checkpoint: Factory, tmp_path: Path) -> None:
    (file,) = qwen35_gguf.convert(checkpoint(), "Q8_0", tmp_path, vision=False)
    assert file.is_file()
    assert qwen35_gguf.convert.hf_to_gguf is hf_to_gguf
    assert isinstance(qwen35_gguf.convert, ModuleType)


@pytest.mark.unit
def test_importing_the_package_does_not_load_the_pipeline() -> None:
    code = "import sys, qwen35_gguf.convert; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.unit
def test_an_existing_file_is_kept_without_force(checkpoint: Factory, tmp_path: Path) -> None:
    (file,) = hf_to_gguf.convert(checkpoint(), "Q8_0", tmp_path, vision=False)
    file.write_bytes(b"mine")
    with pytest.raises(OutputError, match="exists already; use --force"):
        hf_to_gguf.convert(checkpoint(), "Q8_0", tmp_path, vision=False)
    assert file.read_bytes() == b"mine"
    hf_to_gguf.convert(checkpoint(), "Q8_0", tmp_path, vision=False, force=True)
    assert file.stat().st_size > 1000


@pytest.mark.unit
def test_a_second_quantization_keeps_the_vision_encoder_of_the_first(checkpoint: Factory, tmp_path: Path) -> None:
    _, mmproj = hf_to_gguf.convert(checkpoint(), "Q8_0", tmp_path)
    before = mmproj.stat()
    text, again = hf_to_gguf.convert(checkpoint(), "Q4_K_M", tmp_path)
    assert text.is_file()
    assert again == mmproj
    assert (mmproj.stat().st_ino, mmproj.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.unit
def test_a_vision_encoder_of_other_weights_is_not_kept(checkpoint: Factory, tmp_path: Path) -> None:
    out = tmp_path / "out"
    text, mmproj = hf_to_gguf.convert(checkpoint(), "Q8_0", out)
    other = bytearray(mmproj.read_bytes())
    other[-40] ^= 1  # a weight of the last tensor: name, size and header are the same
    mmproj.write_bytes(other)
    with pytest.raises(OutputError, match="mmproj-.*: exists already with other bytes; use --force"):
        hf_to_gguf.convert(checkpoint(), "Q4_K_M", out)
    assert mmproj.read_bytes() == other
    assert sorted(out.iterdir()) == sorted([text, mmproj])
    hf_to_gguf.convert(checkpoint(), "Q4_K_M", out, force=True)
    assert mmproj.read_bytes() != other


@pytest.mark.unit
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["layers.0.mlp.gate_proj.weight", "norm.weight", "visual.pos_embed.weight"])
def test_non_finite_weights_are_named(checkpoint: Factory, tmp_path: Path, value: float, name: str) -> None:
    source = Path(shutil.copytree(checkpoint(), tmp_path / "source"))
    poke(source, name, value)
    (tmp_path / "out").mkdir()
    output = {"layers.0.mlp.gate_proj.weight": "blk.0.ffn_gate.weight", "norm.weight": "output_norm.weight"}
    with pytest.raises(QuantizationError, match=output.get(name, "v.position_embd.weight")):
        hf_to_gguf.convert(source, "Q4_K_M", tmp_path / "out")
    assert left_behind(tmp_path / "out") == []


@pytest.mark.unit
def test_a_full_disk_leaves_nothing(checkpoint: Factory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = 0

    def write(stream: writer.GGUFStream, data: np.ndarray) -> None:  # type: ignore[type-arg]
        nonlocal written
        written += data.nbytes
        if written > 1_000_000:
            with atomic_file.disk_errors(stream.part):
                raise OSError(28, os.strerror(28))
        original(stream, data)

    original = writer.GGUFStream.write
    monkeypatch.setattr(writer.GGUFStream, "write", write)
    with pytest.raises(OutputError, match="disk full"):
        hf_to_gguf.convert(checkpoint(), "Q8_0", tmp_path)
    assert left_behind(tmp_path) == []


@pytest.mark.unit
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_really_full_device_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic_file, "_open_locked", lambda *_, **__: os.fdopen(os.open("/dev/full", os.O_RDWR), "r+b"))
    info = TensorInfo("a", (32,), hf_to_gguf.GGMLQuantizationType.F32)
    with (
        pytest.raises(OutputError, match="disk full"),
        writer.GGUFStream(tmp_path / "x.gguf", [info]) as stream,
    ):
        stream.write_header([])
    assert left_behind(tmp_path) == []


@pytest.mark.unit
def test_too_little_space_is_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="GB are free"):
        atomic_file.check_space(tmp_path, 1 << 60)


@pytest.mark.unit
def test_two_conversions_do_not_share_a_file(checkpoint: Factory, tmp_path: Path) -> None:
    conversion = hf_to_gguf.plan_conversion(hf_to_gguf.ConversionOptions(checkpoint(), "Q8_0", tmp_path, vision=False))
    file = conversion.files[0]
    with (
        writer.GGUFStream(file.path, file.infos),
        pytest.raises(OutputError, match="another process"),
    ):
        hf_to_gguf.run(conversion)


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_conversion_leaves_no_final_file(
    make_checkpoint: object, tmp_path: Path, stop: signal.Signals
) -> None:
    spec = make_checkpoint.build_spec(vision=False)  # type: ignore[attr-defined]
    import dataclasses

    big = dataclasses.replace(spec, intermediate_size=2048)
    source = make_checkpoint.make_checkpoint(tmp_path / "source", big)  # type: ignore[attr-defined]
    out = tmp_path / "out"
    # A type without a kernel of ours takes seconds.
    arguments = [sys.executable, str(SCRIPT), str(source), "-q", "IQ3_S", "-o", str(out), "--jobs", "1"]

    def listen() -> None:  # a shell's background jobs are started deaf to SIGINT, and so would be what they start
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=listen)
    while not list(out.glob("*.part")) and process.poll() is None:
        time.sleep(0.01)
    time.sleep(0.3)
    process.send_signal(stop)
    assert process.wait() != 0
    assert not list(out.glob("*.gguf"))
    if stop == signal.SIGINT:
        assert left_behind(out) == []
    # The next run starts over, whatever was left.
    subprocess.run(arguments, check=True, capture_output=True)
    assert [name for name in left_behind(out) if name.endswith(".part")] == []


@pytest.mark.unit
def test_the_script_and_the_dry_run_need_no_weights(checkpoint: Factory, tmp_path: Path) -> None:
    source = Path(shutil.copytree(checkpoint(), tmp_path / "source"))
    poke(source, "norm.weight", np.nan)
    command = [sys.executable, str(SCRIPT), str(source), "-q", "q4_k_m", "-o", str(tmp_path / "out"), "--dry-run"]
    short, long, record = (
        subprocess.run([*command, *more], check=True, capture_output=True, text=True).stdout
        for more in ([], ["--verbose"], ["--json"])
    )
    assert "blk.0.ssm_out.weight" in long
    assert "tile_value_heads" in long
    assert "peak memory" in long
    assert "peak memory" in short
    rows = {line.split()[0]: line.split() for line in short.splitlines() if line.strip()}
    types = [tensor["type"] for tensor in json.loads(record)["files"][0]["tensors"]]
    assert int(rows["Q6_K"][1]) == types.count("Q6_K") > 0
    assert len(short.splitlines()) < 30
    assert not (tmp_path / "out").exists()


@pytest.mark.unit
def test_unknown_types_are_named(checkpoint: Factory, tmp_path: Path) -> None:
    with pytest.raises(QuantizationError, match="Q4_K_M"):
        hf_to_gguf.convert(checkpoint(), "Q4_K_XXL", tmp_path)
    with pytest.raises(QuantizationError, match="BF16"):
        hf_to_gguf.convert(checkpoint(), "Q8_0", tmp_path, mmproj_type="Q3_K")
    with pytest.raises(QuantizationError, match="importance matrix"):
        hf_to_gguf.convert(checkpoint(), "IQ2_XS", tmp_path)
    assert left_behind(tmp_path) == []


@pytest.mark.unit
def test_config_without_vision_but_with_a_vision_encoder(checkpoint: Factory, tmp_path: Path) -> None:
    source = Path(shutil.copytree(checkpoint(), tmp_path / "source"))
    config = json.loads((source / "config.json").read_text())
    del config["vision_config"]
    (source / "config.json").write_text(json.dumps(config))
    with pytest.raises(Exception, match="no vision_config"):
        hf_to_gguf.convert(source, "Q8_0", tmp_path / "out")
