"""Lint finds planted faults in our files and the stock converter's, and reports nothing in files without one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from click.testing import CliRunner, Result

from oracles.paths import TEMPLATES, TINY
from qwen35_gguf.cli import main
from qwen35_gguf.convert import hf_to_gguf
from qwen35_gguf.gguf_file import shards
from qwen35_gguf.gguf_file.keyvalue import KeyValue
from qwen35_gguf.gguf_file.reader import read_header
from qwen35_gguf.quant import recipe_file
from qwen35_gguf.release import metadata_edit

Factory = Callable[..., Path]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def diagnostics(file: Path, *options: object) -> list[dict[str, str]]:
    return json.loads(run("lint", file, "--json", *options).stdout)["findings"]


@pytest.fixture(scope="module", params=["ours", "stock"])
def clean(request: pytest.FixtureRequest, checkpoint: Factory, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with model.gguf and mmproj-model.gguf."""
    folder, source = tmp_path_factory.mktemp("lint"), checkpoint(value_heads_per_key=2)
    if request.param == "ours":
        made = hf_to_gguf.convert(source, "Q4_K_M", folder / "made")
    else:
        stock = request.getfixturevalue("stock_convert")
        made = [stock(source, outtype="bf16"), stock(source, outtype="bf16", mmproj=True)]
    shutil.copy(made[0], folder / "model.gguf")
    shutil.copy(made[1], folder / "mmproj-model.gguf")
    return folder


@pytest.fixture
def planted(clean: Path, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    for name in ("model.gguf", "mmproj-model.gguf"):
        shutil.copy(clean / name, tmp_path)
    return tmp_path / "model.gguf"


def change(file: Path, key: str, value: str | None) -> None:
    if value is None:
        metadata_edit.change(file, remove=[key])
    else:
        metadata_edit.change(file, replace=[metadata_edit.new_entry(read_header(file), key, value)])


def test_clean_files_have_no_diagnostics(clean: Path) -> None:
    for name in ("model.gguf", "mmproj-model.gguf"):
        assert diagnostics(clean / name) == []
    assert run("lint", clean / "model.gguf").exit_code == 0


CHECKPOINTS: dict[str, dict[str, object]] = {
    "dense, tied": {"tied": True},
    "dense, untied, three value heads per key": {"tied": False, "value_heads_per_key": 3},
    "mixture of experts": {"moe": True},
    "without MTP": {"mtp": False},
    "text only": {"text_only": True},
    "in shards": {"shards": 3},
}
QUANTS = ["Q2_K", "Q3_K_M", "Q4_K_M", "Q5_K_S", "Q6_K", "Q8_0", "IQ4_XS", "F16", "BF16", "F32"]


NO_DRAFTS = [("note", "nextn")]  # of a model without MTP


def found_in(files: list[Path]) -> list[tuple[str, str]]:
    return [(one["severity"], one["check"]) for file in files for one in diagnostics(file)]


@pytest.mark.parametrize("kind", CHECKPOINTS)
@pytest.mark.parametrize("quant", ["Q4_K_M", "Q2_K", "Q8_0", "IQ4_XS", "BF16", "F32"])
def test_no_fault_in_what_convert_writes(checkpoint: Factory, tmp_path: Path, kind: str, quant: str) -> None:
    files = hf_to_gguf.convert(checkpoint(**CHECKPOINTS[kind]), quant, tmp_path)
    assert len(files) == (1 if kind == "text only" else 2)
    assert found_in(files) == (NO_DRAFTS if kind == "without MTP" else [])


@pytest.mark.parametrize("quant", QUANTS)
def test_no_fault_in_any_preset_of_the_trained_model(tmp_path: Path, quant: str) -> None:
    assert found_in(hf_to_gguf.convert(TINY, quant, tmp_path)) == []


@pytest.mark.unit
@pytest.mark.parametrize("kind", ["dense, tied", "dense, untied, three value heads per key", "mixture of experts"])
@pytest.mark.parametrize("quant", recipe_file.variants("deltanet"))
def test_no_fault_in_the_recipe_deltanet(checkpoint: Factory, tmp_path: Path, kind: str, quant: str) -> None:
    files = hf_to_gguf.convert(checkpoint(**CHECKPOINTS[kind]), quant, tmp_path, vision=False, recipe="deltanet")
    assert found_in(files) == []


@pytest.mark.parametrize("source", ["random", "trained"])
@pytest.mark.parametrize("mmproj_type", ["BF16", "F16", "F32", "Q8_0"])
def test_no_fault_in_any_vision_encoder(checkpoint: Factory, tmp_path: Path, source: str, mmproj_type: str) -> None:
    made_of = TINY if source == "trained" else checkpoint(tied=True)
    model, mmproj = hf_to_gguf.convert(made_of, "Q8_0", tmp_path, mmproj_type=mmproj_type)
    assert found_in([model, mmproj]) == []
    assert diagnostics(model, "--mmproj", mmproj) == diagnostics(model)


@pytest.mark.unit
@pytest.mark.parametrize("without", ["mtp", "vision"])
def test_no_fault_in_a_conversion_without_a_part(checkpoint: Factory, tmp_path: Path, without: str) -> None:
    files = hf_to_gguf.convert(checkpoint(tied=True), "Q4_K_M", tmp_path, **{without: False})
    assert found_in(files) == (NO_DRAFTS if without == "mtp" else [])


def test_no_fault_in_shards(clean: Path, tmp_path: Path) -> None:
    parts = shards.split(clean / "model.gguf", tmp_path, 1_000_000)
    assert len(parts) > 1
    assert diagnostics(parts[0]) == []


NO_SYSTEM = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "<|im_start|>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<|im_start|>{% endif %}"
)
ATTACK = "{{ ''.__class__.__mro__[1].__subclasses__() }}"


@pytest.mark.parametrize(
    ("key", "value", "check", "words"),
    [
        ("qwen35.block_count", "7", "blocks", "is 7"),
        ("qwen35.nextn_predict_layers", None, "", "nextn"),
        ("tokenizer.chat_template", None, "chat template", "missing"),
        ("tokenizer.chat_template", NO_SYSTEM, "chat template", "a system message"),
        ("tokenizer.chat_template", "{% if %}", "chat template", "cannot be compiled"),
        ("tokenizer.chat_template", ATTACK, "chat template", "fails on a user's message"),
        ("tokenizer.ggml.eos_token_id", "5", "end tokens", ""),
        ("tokenizer.ggml.pre", "default", "", "pre"),
        ("qwen35.rope.dimension_sections", None, "", "rope"),
        ("general.file_type", "10", "file type", "most weights are"),
        ("qwen35.attention.layer_norm_rms_epsilon", "0", "numbers", "is 0.0"),
        ("qwen35.attention.layer_norm_rms_epsilon", "-1e-6", "numbers", "divide by zero"),
        ("qwen35.attention.layer_norm_rms_epsilon", None, "numbers", "is missing"),
        ("qwen35.context_length", "1", "numbers", "is 1"),
        ("qwen35.context_length", "0", "numbers", "is 0"),
        ("qwen35.rope.freq_base", "1", "numbers", "is 1.0"),
        ("qwen35.rope.freq_base", "0", "numbers", "is 0.0"),
        ("qwen35.rope.freq_base", "1e30", "numbers", "positions are lost"),
        ("qwen35.rope.dimension_count", "128", "numbers", "more than the 64"),
        ("qwen35.full_attention_interval", "3", "interval", "layer 2 has those of a gated delta net"),
        ("qwen35.full_attention_interval", "8", "interval", "layer 3 has those of full attention"),
        ("qwen35.full_attention_interval", "1", "interval", "contradicts the tensors"),
        ("qwen35.attention.head_count_kv", "3", "numbers", "does not divide"),
        ("qwen35.attention.head_count", "0", "numbers", "there are no heads"),
        ("qwen35.attention.head_count", "8", "tensors", "attn_q.weight has shape"),
        ("qwen35.embedding_length", "512", "tensors", "has shape"),
        ("tokenizer.ggml.eos_token_id", "999999", "end tokens", "not a token"),
        ("tokenizer.ggml.eos_token_id", None, "end tokens", "is missing"),
        ("tokenizer.ggml.padding_token_id", "999999", "end tokens", "not a token"),
    ],
)
def test_planted_metadata_is_found(planted: Path, key: str, value: str | None, check: str, words: str) -> None:
    change(planted, key, value)
    found = diagnostics(planted)
    assert any(check in one["check"] and words in f"{one['where']} {one['what']} {one['check']}" for one in found), (
        found
    )
    assert all(one["advice"] for one in found)
    assert run("lint", planted).exit_code == 1


@pytest.mark.parametrize(
    ("key", "value", "check", "words"),
    [
        ("general.name", "", "label", "is empty"),
        ("general.name", "  ", "label", "is empty"),
        ("general.name", None, "label", "is missing"),
        ("general.size_label", "", "label", "is ''"),
        ("general.size_label", "397B-A17B", "label", "the file has"),
        ("general.size_label", "large", "label", "is 'large'"),
        ("qwen35.rope.freq_base", "10000", "numbers", "the default where nothing is given"),
        *[
            (f"general.sampling.{key}", value, "sampling", "must be")
            for key, value in (
                *[("temp", "-1"), ("temp", "99"), ("top_p", "0"), ("top_p", "2"), ("top_k", "-3"), ("min_p", "1.5")],
                *[("penalty_repeat", "0"), ("mirostat", "7")],
            )
        ],
    ],
)
def test_what_a_publisher_should_know_is_a_warning(
    planted: Path, key: str, value: str | None, check: str, words: str
) -> None:
    if value is not None and read_header(planted).find(key) is None:
        new = {"temp": "FLOAT32", "top_p": "FLOAT32", "min_p": "FLOAT32", "penalty_repeat": "FLOAT32"}
        type_ = gguf.GGUFValueType[new.get(key.split(".")[-1], "INT32" if "sampling" in key else "STRING")]
        number = float(value) if type_ == gguf.GGUFValueType.FLOAT32 else int(value) if "sampling" in key else value
        metadata_edit.change(planted, replace=[KeyValue.of(key, number, type_)])
    else:
        change(planted, key, value)
    (found,) = [one for one in diagnostics(planted) if one["severity"] == "warning"]
    assert (found["check"], words in found["what"]) == (check, True)
    assert run("lint", planted).exit_code == 0


def rewrite(file: Path, name: str, change: Callable[[np.ndarray], object]) -> None:
    """Change the bytes of a tensor."""
    reader = gguf.GGUFReader(file, "r+")
    raw = next(tensor for tensor in reader.tensors if tensor.name == name).data
    change(raw)
    reader.data.flush()


def zeros(raw: np.ndarray) -> None:
    raw[...] = 0


@pytest.mark.parametrize(
    "name",
    [
        *["blk.1.attn_norm.weight", "blk.0.post_attention_norm.weight", "output_norm.weight"],
        *["blk.3.attn_q_norm.weight", "blk.0.ssm_norm.weight", "blk.0.ssm_a", "blk.0.ssm_conv1d.weight"],
        *["token_embd.weight", "blk.1.ffn_up.weight"],
        *["blk.3.attn_v.weight", "blk.0.ssm_out.weight", "blk.0.ssm_alpha.weight"],
    ],
)
def test_zeros_are_found(planted: Path, name: str) -> None:
    rewrite(planted, name, zeros)
    found = [one for one in diagnostics(planted) if one["check"] == "values"]
    assert [(one["severity"], one["where"]) for one in found] == [("error", name)]
    assert "only zeros" in found[0]["what"]
    assert run("lint", planted).exit_code == 1
    assert diagnostics(planted, "--no-values") == []


def test_a_matrix_of_one_value_is_found_and_norms_of_an_untrained_model_are_not(planted: Path) -> None:
    def ones(raw: np.ndarray) -> None:
        raw[...] = 1

    rewrite(planted, "blk.1.attn_norm.weight", ones)
    assert diagnostics(planted) == []
    rewrite(planted, "blk.0.ssm_conv1d.weight", ones)
    (found,) = diagnostics(planted)
    assert (found["where"], "the value 1 everywhere" in found["what"]) == ("blk.0.ssm_conv1d.weight", True)


def test_an_expert_of_zeros_is_found(checkpoint: Factory, tmp_path: Path) -> None:
    file = hf_to_gguf.convert(checkpoint(moe=True), "Q4_K_M", tmp_path, vision=False)[0]

    def second(raw: np.ndarray) -> None:
        raw[1] = 0

    rewrite(file, "blk.2.ffn_up_exps.weight", second)
    (found,) = diagnostics(file)
    assert "only zeros in 1 of" in found["what"]
    assert "the first is 1" in found["what"]


def test_a_zero_norm_of_a_vision_encoder_is_found(planted: Path) -> None:
    mmproj = planted.with_name("mmproj-model.gguf")
    rewrite(mmproj, "v.blk.0.ln1.weight", zeros)
    (found,) = diagnostics(mmproj)
    assert found["where"] == "v.blk.0.ln1.weight"


@pytest.mark.parametrize(("experts", "used", "words"), [("3", None, "experts"), (None, "99", "of"), (None, "0", "of")])
def test_the_numbers_of_experts_are_checked(
    checkpoint: Factory, tmp_path: Path, experts: str | None, used: str | None, words: str
) -> None:
    file = hf_to_gguf.convert(checkpoint(moe=True), "Q8_0", tmp_path, vision=False)[0]
    key, value = ("count", experts) if experts else ("used_count", used)
    change(file, f"qwen35moe.expert_{key}", value)
    assert [one for one in diagnostics(file) if one["check"] == "numbers" and words in one["what"]]


def test_tags_that_are_control_tokens_are_found(planted: Path) -> None:
    entry = read_header(planted).find("tokenizer.ggml.token_type")
    texts = read_header(planted).value("tokenizer.ggml.tokens")
    for tags, type_, severity in ((["<think>", "</think>"], 3, "error"), (["<tool_call>"], 1, "warning")):
        types = [type_ if text in tags else kind for text, kind in zip(texts, entry.value, strict=True)]
        metadata_edit.change(planted, replace=[KeyValue.of(entry.key, types, entry.type, entry.element)])
        (found,) = [one for one in diagnostics(planted) if one["check"] == "tags"]
        assert (found["severity"], all(tag in found["what"] for tag in tags)) == (severity, True)


@pytest.mark.parametrize(
    ("template", "words"), [("{% if %}", "cannot be compiled"), ("{{ messages[0].content }}", "leaves 'weather_at'")]
)
def test_the_template_for_tools_is_checked(planted: Path, template: str, words: str) -> None:
    string = gguf.GGUFValueType.STRING
    names = KeyValue.of("tokenizer.chat_templates", ["tool_use", "gone"], gguf.GGUFValueType.ARRAY, string)
    named = KeyValue.of("tokenizer.chat_template.tool_use", template, string)
    metadata_edit.change(planted, replace=[names, named])
    found = {one["where"]: one["what"] for one in diagnostics(planted)}
    assert words in found["tokenizer.chat_template.tool_use"]
    assert "is missing" in found["tokenizer.chat_template.gone"]


def test_a_template_cannot_reach_out_of_its_sandbox(planted: Path, tmp_path: Path) -> None:
    target = tmp_path / "reached"
    change(planted, "tokenizer.chat_template", f"{{{{ cycler.__init__.__globals__.os.system('touch {target}') }}}}")
    assert any("fails on" in one["what"] for one in diagnostics(planted))
    assert not target.exists()


def test_scales_that_are_not_finite_are_found(planted: Path) -> None:
    reader = gguf.GGUFReader(planted, "r+")
    tensor = next(t for t in reader.tensors if t.name == "blk.1.ffn_up.weight")
    raw = tensor.data.reshape(-1).view(np.uint8)
    raw[:2] = np.array([0x7FC0 if tensor.tensor_type.name == "BF16" else 0x7E00], np.uint16).view(np.uint8)
    reader.data.flush()
    (found,) = diagnostics(planted)
    assert "blk.1.ffn_up.weight" in found["where"] + found["what"]
    assert diagnostics(planted, "--no-values") == []


def test_a_missing_tensor_is_found(planted: Path) -> None:
    raw = planted.read_bytes()
    planted.write_bytes(raw.replace(b"blk.0.ssm_out.weight", b"blk.0.ssm_uot.weight", 1))
    assert any("ssm_out" in f"{one['where']} {one['what']}" for one in diagnostics(planted))


def test_a_vision_encoder_of_another_model_is_found(planted: Path) -> None:
    change(planted.with_name("mmproj-model.gguf"), "clip.vision.projection_dim", "512")
    found = diagnostics(planted, "--mmproj", planted.with_name("mmproj-model.gguf"))
    assert any(one["severity"] == "error" for one in found), found


@pytest.mark.unit
def test_a_file_that_is_not_a_gguf_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF" + bytes(10))
    for name in ("x.gguf", "none.gguf"):
        result = run("lint", tmp_path / name)
        assert (result.exit_code, result.stderr.count("\n")) == (2, 1)


@pytest.mark.parametrize("kind", ["qwen3.5", "qwen3.6", "qwen3.8"])
def test_templates_of_all_versions_are_clean(planted: Path, kind: str) -> None:
    change(planted, "tokenizer.chat_template", (TEMPLATES / f"{kind}.jinja").read_text(encoding="utf-8"))
    assert diagnostics(planted, "--no-values") == []
