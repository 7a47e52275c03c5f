"""What a release records of itself is read by type: every damage is one line, or changes nothing that is read."""

from __future__ import annotations

import json
from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest

from inputs.json_damage import damaged_texts
from qwen35_gguf.errors import PackageError
from qwen35_gguf.release import record, state
from qwen35_gguf.release.plan import FromCheckpoint
from qwen35_gguf.release.state import Figures, State

pytestmark = pytest.mark.unit

OPTIONS = FromCheckpoint(
    model="a/b",
    quants=("Q4_K_M", "Q8_0"),
    revision="main",
    name="Another",
    recipe="deltanet",
    rounding="block",
    mtp=False,
    mmproj_types=("F16",),
    mtp_files=True,
    nomtp_files=True,
    max_shard_size=1_000_000,
    ignore_config=("x",),
    adapters=("c/d",),
    adapter_scales=(0.5,),
)
STATE = State(
    {"quants": ["Q8_0"]},
    weights="0" * 64,
    files={"a.gguf": "1" * 64},
    figures={"a.gguf": Figures(0.5, 0.25, 0.75, 0.9, 1000)},
    linted=["a.gguf"],
)
RECORD = {"tool": "qwen35-gguf 1", "options": asdict(OPTIONS), "checkpoint_sha256": "0" * 64}


def test_every_option_is_recorded() -> None:
    same = [one.name for one in fields(FromCheckpoint) if getattr(OPTIONS, one.name) == one.default]
    assert same == ["imatrix", "moments"]  # the release's own file, and what it does not include


def test_what_was_written_is_read(tmp_path: Path) -> None:
    state.save(tmp_path, STATE)
    assert state.begin(tmp_path, STATE.inputs) == STATE
    (tmp_path / record.RECIPE).write_text(json.dumps(RECORD))
    assert record.read_record(tmp_path).options == OPTIONS
    older = asdict(OPTIONS) | {"heads": True}
    del older["mtp_files"], older["ignore_config"], older["adapters"], older["adapter_scales"]
    (tmp_path / record.RECIPE).write_text(json.dumps(RECORD | {"options": older}))
    assert record.read_record(tmp_path).options == replace(
        OPTIONS, mtp_files=True, ignore_config=(), adapters=(), adapter_scales=()
    )


def test_every_damage_of_the_state_is_one_line(tmp_path: Path) -> None:
    state.save(tmp_path, STATE)
    path = tmp_path / state.STATE
    whole = json.loads(path.read_text())
    for damage, text in damaged_texts(whole):
        path.write_text(text)
        message = ""
        try:
            state.begin(tmp_path, STATE.inputs)
        except PackageError as error:
            message = str(error)
        assert "\n" not in message
        assert not message or message.startswith(str(tmp_path)), damage


def test_every_damage_of_the_record_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / record.RECIPE
    for damage, text in damaged_texts(RECORD):
        path.write_text(text)
        message = ""
        try:
            record.read_record(tmp_path)
        except PackageError as error:
            message = str(error)
        assert "\n" not in message
        assert not message or message.startswith(str(tmp_path)), damage


def test_keys_of_another_version_are_named(tmp_path: Path) -> None:
    (tmp_path / state.STATE).write_text(json.dumps(asdict(STATE) | {"more": 1}))
    with pytest.raises(PackageError, match="has more, of another version; remove it"):
        state.begin(tmp_path, STATE.inputs)
    (tmp_path / record.RECIPE).write_text(json.dumps({"options": asdict(OPTIONS) | {"more": 1}}))
    with pytest.raises(PackageError, match="options has more, of another version; make it with that version"):
        record.read_record(tmp_path)
