"""The folder of an adapter: what is found in it, and what is refused, each in one line that says what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inputs.adapters import low_rank, write_adapter
from qwen35_gguf.convert.adapters.adapter_folder import open_adapter, open_adapters
from qwen35_gguf.errors import AdapterError

pytestmark = pytest.mark.unit

TENSORS = low_rank("layers.3.self_attn.o_proj", 256, 256)


def test_folder_holds_adapters_by_name(tmp_path: Path) -> None:
    run = tmp_path / "run"
    write_adapter(run / "style", TENSORS)
    assert open_adapter(run).name == "style"
    assert "folder style" in open_adapter(run).notes[0]

    write_adapter(run / "checkpoint-500", TENSORS)
    with pytest.raises(AdapterError, match=r"several adapters \(checkpoint-500, style\); give one of them"):
        open_adapter(run)

    write_adapter(run, TENSORS)
    assert open_adapter(run).folder == run
    assert "checkpoint-500, style, which are not used" in open_adapter(run).notes[0]


@pytest.mark.parametrize(
    ("inside", "name"),
    [("poet", "poet"), ("poet/checkpoint-12", "poet"), ("poet/default", "poet"), ("poet/adapter/final", "poet")],
)
def test_name_says_what_it_is(tmp_path: Path, inside: str, name: str) -> None:
    assert open_adapter(write_adapter(tmp_path / inside, TENSORS)).name == name


def test_file_of_the_folder_stands_for_it(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a", TENSORS)
    assert open_adapter(folder / "adapter_model.safetensors").folder == folder


def test_nothing_there(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(AdapterError, match=r"no adapter_config\.json; give the folder of a PEFT adapter"):
        open_adapter(tmp_path / "empty")
    with pytest.raises(AdapterError, match="no such directory"):
        open_adapter(tmp_path / "absent")
    (tmp_path / "empty" / "config.json").write_text("{}")
    with pytest.raises(AdapterError, match="is a whole model, not an adapter"):
        open_adapter(tmp_path / "empty")


def test_pickle_is_not_read(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a", TENSORS)
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(AdapterError, match=r"adapter_model\.bin: is a pickle.*save_pretrained writes"):
        open_adapter(folder)


def test_damaged_weights(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a", TENSORS)
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(AdapterError, match="truncated"):
        open_adapter(folder)
    path.unlink()
    with pytest.raises(AdapterError, match=r"no adapter_model\.safetensors; download or copy it"):
        open_adapter(folder)


def test_gguf_is_for_run_time(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(b"GGUF")
    with pytest.raises(AdapterError, match="is a GGUF file.*--lora"):
        open_adapter(path)


@pytest.mark.parametrize("scales", [(1.0, 2.0), (float("nan"),), (float("inf"),)])
def test_scales_belong_to_adapters(tmp_path: Path, scales: tuple[float, ...]) -> None:
    with pytest.raises(AdapterError, match="--adapter-scale"):
        open_adapters([write_adapter(tmp_path / "a", TENSORS)], scales)


# Name: changes of the configuration, what the message contains.
CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "ia3": ({"peft_type": "IA3"}, "peft_type is IA3"),
    "loha": ({"peft_type": "LOHA"}, "peft_type is LOHA"),
    "prefix tuning": ({"peft_type": "PREFIX_TUNING"}, "peft_type is PREFIX_TUNING"),
    "vera": ({"peft_type": "VERA"}, "peft_type is VERA"),
    "type of a number": ({"peft_type": 5}, "peft_type is 5"),
    "activated": ({"alora_invocation_tokens": [1, 2]}, "alora_invocation_tokens"),
    "qalora": ({"use_qalora": True}, "use_qalora"),
    "replicated layers": ({"layer_replication": [[0, 2], [1, 4]]}, "layer_replication"),
    "unknown key": ({"use_newlora": True}, "use_newlora is true, which is not known"),
    "pissa": ({"init_lora_weights": "pissa_niter_4"}, "path_initial_model_for_weight_conversion"),
    "olora": ({"init_lora_weights": "olora"}, "path_initial_model_for_weight_conversion"),
    "unknown start": ({"init_lora_weights": "magic"}, 'init_lora_weights is "magic"'),
    "rank 0": ({"r": 0}, "r is 0; must be a size"),
    "rank of a text": ({"r": "8"}, 'r is "8"'),
    "alpha of a text": ({"lora_alpha": "x"}, 'lora_alpha is "x"'),
    "broken pattern": ({"rank_pattern": {"(": 4}}, "is not a regular expression"),
    "pattern of a text": ({"alpha_pattern": {"q": "x"}}, "alpha_pattern.q"),
    "tokens of a text": ({"trainable_token_indices": ["a"]}, "trainable_token_indices"),
    "tokens twice": ({"trainable_token_indices": [1, 1]}, "without repetitions"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_configuration_is_refused_by_key(tmp_path: Path, case: str) -> None:
    changes, wanted = CONFIGS[case]
    with pytest.raises(AdapterError) as error:
        open_adapter(write_adapter(tmp_path / "a", TENSORS, **changes))
    assert wanted in str(error.value)
    assert "\n" not in str(error.value)


def test_defaults_of_unknown_keys_are_harmless(tmp_path: Path) -> None:
    added = {"use_future": False, "future_config": None, "future_pattern": {}, "lora_dropout": 0.1, "task_type": "X"}
    assert open_adapter(write_adapter(tmp_path / "a", TENSORS, **added)).entries


@pytest.mark.parametrize(
    "key", ["x.hada_w1_a", "x.lokr_w1", "x.ia3_l", "x.vera_lambda_b", "x.lora_E", "x.lora_C.weight", "x.oft_r"]
)
def test_keys_of_other_methods_are_refused(tmp_path: Path, key: str) -> None:
    folder = write_adapter(tmp_path / "a", TENSORS | {key: np.ones((2, 2), np.float32)})
    with pytest.raises(AdapterError, match=f"{key} is not of a LoRA"):
        open_adapter(folder)


def test_shards_that_were_not_gathered(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a", TENSORS | {"x.lora_A.weight": np.ones((0, 4), np.float32)})
    with pytest.raises(AdapterError, match="shards were not gathered"):
        open_adapter(folder)


def test_integers_are_no_weights(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a", TENSORS | {"x.weight": np.ones(4, np.int32)})
    with pytest.raises(AdapterError, match=r"x\.weight is I32; must be F32, F16 or BF16"):
        open_adapter(folder)
