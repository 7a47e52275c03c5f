"""Videos: frames and times as transformers samples them; what is not a video is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inputs.clips import clip
from oracles import multimodal
from qwen35_gguf.errors import MediaError, MessageError
from qwen35_gguf.runtime.media.video import VideoLimits, load_video, sample_indices

SMALL = VideoLimits(min_pixels=1024)


def levels(data: bytes, **limits: Any) -> list[tuple[int, int, float]]:
    video = load_video(data, sampling=VideoLimits(min_pixels=1024, **limits))
    return [(int(p.first.mean()) // 10, int(p.second.mean()) // 10, p.seconds) for p in video.pairs]


def test_frames_are_sampled_paired_and_timed() -> None:
    assert levels(clip(8), fps=2.0) == [(0, 2, 0.25), (5, 7, 1.5)]
    assert levels(clip(3), fps=4.0) == [(0, 1, 0.125), (2, 2, 0.5)]
    assert levels(clip(1)) == [(0, 0, 0.0)]


@given(st.integers(1, 5000), st.sampled_from([4.0, 23.976, 25.0, 30.0, 60.0]))
def test_frames_are_those_that_transformers_takes(frames: int, fps: float) -> None:
    assert sample_indices(frames, fps, VideoLimits()) == multimodal.sampled(frames, fps)


def test_labels_are_seconds() -> None:
    assert [pair.label for pair in load_video(clip(8), sampling=SMALL).pairs] == ["<0.2 seconds>", "<1.5 seconds>"]


def test_what_is_no_video_is_refused_in_a_line() -> None:
    whole = clip(8)
    for data, message in [(b"no video at all", "not a video"), (whole[:100], "video"), (b"", "video|empty")]:
        with pytest.raises(MediaError, match=message) as error:
            load_video(data)
        assert "\n" not in str(error.value)
    with pytest.raises(MediaError, match="longer than 0 s"):
        load_video(whole, sampling=VideoLimits(seconds=0))
    with pytest.raises(MessageError, match="fps: 0 is not a number above 0"):
        load_video(whole, sampling=VideoLimits(fps=0))


@pytest.mark.parametrize("as_file", [True, False])
@pytest.mark.parametrize("length", [0, 1, 4, 31, 100])
def test_a_truncated_video_is_refused_in_a_line(length: int, as_file: bool, tmp_path: Path) -> None:
    data = clip(8)[:length]
    (tmp_path / "clip.mp4").write_bytes(data)
    with pytest.raises(MediaError) as error:
        load_video(tmp_path / "clip.mp4" if as_file else data)
    assert "\n" not in str(error.value)
    assert not as_file or "clip.mp4" in str(error.value)
