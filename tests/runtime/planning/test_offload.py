"""Whether the vision encoder goes to a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from qwen35_gguf.gguf_file.reader import read_header
from qwen35_gguf.runtime.llama.devices import Device, Offload
from qwen35_gguf.runtime.planning import fitting, offload
from qwen35_gguf.runtime.planning.device_reserve import WORK

PIXELS = 1 << 20


@pytest.mark.parametrize(
    ("used", "known", "spare", "expected"),
    [
        (("CUDA0",), ("CUDA0",), 0, True),
        (("CUDA0",), ("CUDA0",), -1, False),
        ((), ("CUDA0",), 0, False),
        (("CUDA1",), ("CUDA0", "CUDA1"), 0, False),
        (("CUDA0",), (), 0, False),
    ],
)
def test_the_first_gpu_encodes_images_if_it_has_layers_and_room(
    files: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    used: tuple[str, ...],
    known: tuple[str, ...],
    spare: int,
    expected: bool,
) -> None:
    mmproj = read_header(files[1])
    free = fitting.vision_bytes_of_gpu(mmproj, PIXELS) + WORK + spare
    found = [Device("CPU", 1, "cpu"), *(Device(name, free, pointer=1) for name in known)]
    monkeypatch.setattr(offload, "find_devices", lambda: found)
    assert offload.takes_vision(Offload(tuple(Device(n, 1) for n in used), -1), mmproj, PIXELS) == expected
