"""Images and videos in a prompt give the logits that transformers gives with its own processor."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from gguf import GGUFReader
from PIL import Image

from oracles import llama, multimodal
from oracles.vision import image as draw
from qwen35_gguf.convert import hf_to_gguf
from qwen35_gguf.errors import ContextError, MediaError, VisionError
from qwen35_gguf.runtime.chat import message_media
from qwen35_gguf.runtime.context_spec import ContextSpec
from qwen35_gguf.runtime.llama import model as runtime
from qwen35_gguf.runtime.llama.context import Context
from qwen35_gguf.runtime.media import image, vision_encoder
from qwen35_gguf.runtime.media.video import FramePair, Video, VideoLimits, pair_times, sample_indices

EXACT = ContextSpec(1024, n_threads=2, kv_type="f32", flash_attention=False)
QUESTION = "<|im_start|>user\nLook: {} What is this, and what is it not?<|im_end|>\n<|im_start|>assistant\n"


class Model(NamedTuple):
    source: Path
    gguf: Path
    mmproj: Path


@pytest.fixture(scope="module")
def converted(checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Model:
    source = checkpoint(mtp=False, tied=False, seed=3)
    return Model(source, *hf_to_gguf.convert(source, "F32", tmp_path_factory.mktemp("vision"), mmproj_type="F32"))


def png(pixels: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def answer(model: Model, text: str, items: list[Any], *, n_batch: int = 512) -> np.ndarray:  # type: ignore[type-arg]
    """Logits of the text after the last image, (tokens, vocab)."""
    parts = message_media.split_prompt(text, items)
    tokens = iter(llama.tokenize(model.gguf, [part for part in parts if isinstance(part, str)]))
    with (
        runtime.Model(model.gguf) as loaded,
        Context(loaded, replace(EXACT, n_batch=n_batch, n_outputs=n_batch)) as context,
        vision_encoder.VisionEncoder(model.mmproj, loaded, n_threads=1) as encoder,
    ):
        pos, cells = 0, 0
        for part in parts[:-1]:
            if isinstance(part, str):
                ids = next(tokens)
                for start in range(0, len(ids), n_batch):
                    context.evaluate(ids[start : start + n_batch], pos + start)
                pos, cells = pos + len(ids), cells + len(ids)
            else:
                embedding = encoder.embed(part)
                pos, cells = vision_encoder.evaluate_image(context, embedding, pos), cells + embedding.n_tokens
        assert pos < cells
        last = next(tokens)
        rows = []
        for start in range(0, len(last), n_batch):
            ids = last[start : start + n_batch]
            context.evaluate(ids, pos + start, outputs=len(ids))
            rows.append(context.last_logits(len(ids)).copy())
        return np.concatenate(rows)


@pytest.mark.parametrize("sizes", [[(300, 200)], [(64, 330), (257, 255)]], ids=["one", "two"])
def test_images_equal_transformers(converted: Model, sizes: list[tuple[int, int]]) -> None:
    images = [draw(width, height, seed) for seed, (width, height) in enumerate(sizes)]
    text = QUESTION.format(" and ".join([message_media.IMAGE_PLACE] * len(sizes)))
    inputs = multimodal.processor(converted.source)(
        text=[text], images=[Image.fromarray(p) for p in images], return_tensors="pt"
    )
    reference = multimodal.logits(converted.source, inputs)

    found = answer(converted, text, [image.load_image(png(p)) for p in images])
    reference = reference[-len(found) :]
    assert llama.mean_kl(reference, found) < 1e-4
    np.testing.assert_array_equal(found.argmax(-1), reference.argmax(-1))
    assert len(np.unique(reference.argmax(-1))) > 3  # a reference that says something

    # The image matters: another one gives other logits.
    other = [image.load_image(png(255 - p)) for p in images]
    assert llama.mean_kl(reference, answer(converted, text, other)) > 1e-3


def test_split_batches_give_the_same(converted: Model) -> None:
    item = image.load_image(png(draw(300, 200, 0)))
    text = QUESTION.format(message_media.IMAGE_PLACE)
    whole, split = (answer(converted, text, [item], n_batch=n) for n in (512, 7))
    assert llama.mean_kl(whole, split) < 1e-7


def test_a_video_equals_transformers(converted: Model) -> None:
    frames = np.stack([draw(96, 64, seed) for seed in range(5)])
    processor = multimodal.processor(converted.source)
    # The place in the text is the bare token: the processor writes the two others around every pair of frames.
    inputs = processor(
        text=[QUESTION.format(processor.video_token)],
        videos=[multimodal.normalized(frames)],
        video_metadata=[multimodal.metadata(5, 4.0)],
        return_tensors="pt",
        do_sample_frames=True,
        do_resize=False,
        do_rescale=False,
        do_normalize=False,
        do_convert_rgb=False,
        input_data_format="channels_first",
    )
    reference = multimodal.logits(converted.source, inputs)

    indices = sample_indices(5, 4.0, VideoLimits())
    assert indices == [0, 1, 3, 4]
    chosen = [frames[i] for i in indices]
    pairs = zip(chosen[::2], chosen[1::2], pair_times(indices, 4.0), strict=True)
    video = Video(tuple(FramePair(a, b, t, image.content_hash(a, b)) for a, b, t in pairs))
    text = QUESTION.format(message_media.VIDEO_PLACE)
    parts = message_media.split_prompt(text, [video])
    written = "".join(p if isinstance(p, str) else processor.video_token * p.n_tokens for p in parts)
    assert written == processor.tokenizer.decode(inputs["input_ids"][0])

    found = answer(converted, text, [video])
    reference = reference[-len(found) :]
    assert llama.mean_kl(reference, found) < 1e-4
    np.testing.assert_array_equal(found.argmax(-1), reference.argmax(-1))
    # Both frames of a pair count.
    first_twice = Video(tuple(FramePair(p.first, p.first, p.seconds, p.sha256 + "2") for p in video.pairs))
    assert llama.mean_kl(reference, answer(converted, text, [first_twice])) > 1e-4


def test_an_odd_frame_is_a_pair_with_itself_and_equals_an_image(converted: Model) -> None:
    item = image.load_image(png(draw(96, 64, 0)), image.MediaLimits(min_pixels=1024))
    still = FramePair(item.rgb, item.rgb, 0.0, "still")
    with (
        runtime.Model(converted.gguf) as model,
        vision_encoder.VisionEncoder(converted.mmproj, model, n_threads=1) as encoder,
    ):
        np.testing.assert_allclose(encoder.embed(still).values, encoder.embed(item).values, atol=1e-4)


def test_the_same_image_is_encoded_once(converted: Model) -> None:
    small = image.MediaLimits(min_pixels=1024)
    one, two, three = (image.load_image(png(draw(64, 64, seed)), small) for seed in range(3))
    again = image.load_image(png(draw(64, 64, 0)), small)
    room = 2 * 4 * 256 * 4  # two images of 4 tokens of 256 floats
    with (
        runtime.Model(converted.gguf) as model,
        vision_encoder.VisionEncoder(converted.mmproj, model, n_threads=1, cache_bytes=room) as encoder,
    ):
        first = encoder.embed(one)
        assert first.values.shape == (4, 256)
        assert encoder.embed(again) is first
        encoder.embed(two)
        assert encoder.embed(one) is first
        assert encoder.encoded == 2
        encoder.embed(three)  # the least recently used, two, goes
        assert encoder.embed(one) is first
        assert encoder.encoded == 3
        encoder.embed(two)
        assert encoder.encoded == 4


def test_errors_of_the_vision_encoder(converted: Model, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(converted.mmproj.read_bytes()[:100_000])
    other = tmp_path / "other.gguf"
    shutil.copy(converted.mmproj, other)
    reader = GGUFReader(other, "r+")
    reader.fields["clip.vision.projection_dim"].parts[-1][0] = 512
    del reader
    with runtime.Model(converted.gguf) as model:
        for path, message in [
            (tmp_path / "none.gguf", "No such file"),
            (broken, "truncated"),
            (converted.gguf, "not a vision encoder but a model of qwen35"),
            (other, "another model .its embeddings have width 512, the text model takes 256"),
        ]:
            with pytest.raises(VisionError, match=message) as error:
                vision_encoder.VisionEncoder(path, model)
            assert "\n" not in str(error.value)
        encoder = vision_encoder.VisionEncoder(converted.mmproj, model, n_threads=1)
        encoder.close()
        encoder.close()
        with pytest.raises(VisionError, match="closed"):
            encoder.embed(image.load_image(png(draw(64, 64, 0))))


def test_a_full_context_is_an_error(converted: Model) -> None:
    item = image.load_image(png(draw(640, 640, 0)))
    with (
        runtime.Model(converted.gguf) as model,
        Context(model, ContextSpec(256, n_batch=64)) as context,
        vision_encoder.VisionEncoder(converted.mmproj, model, n_threads=1) as encoder,
    ):
        context.evaluate([1, 2], 0)
        embedding = encoder.embed(item)
        with pytest.raises(ContextError, match="context of 256 tokens is full"):
            vision_encoder.evaluate_image(context, embedding, 2)


def test_places_have_to_match() -> None:
    item = image.from_pixels(np.zeros((32, 32, 3), np.uint8))
    video = Video((FramePair(item.rgb, item.rgb, 0.5, "x"), FramePair(item.rgb, item.rgb, 1.5, "y")))
    still, film = message_media.IMAGE_PLACE, message_media.VIDEO_PLACE
    assert message_media.split_prompt("plain", []) == ["plain"]
    start, end = message_media.START, message_media.END
    expected = [f"a{start}", item, f"{end}b<0.5 seconds>{start}", video.pairs[0], f"{end}<1.5 seconds>{start}"]
    assert message_media.split_prompt(f"a{still}b{film}", [item, video]) == [*expected, video.pairs[1], end]
    for text, given in [(still, []), ("a", [item]), (still * 2, [item]), (film + still, [item, video])]:
        with pytest.raises(MediaError, match="places for images"):
            message_media.split_prompt(text, given)
