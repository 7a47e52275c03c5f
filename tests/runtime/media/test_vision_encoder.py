"""Pictures and videos in a prompt give the logits that transformers gives with its own processor."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import llama_cpp
import numpy as np
import pytest
from gguf import GGUFReader
from PIL import Image

from oracles import llama, multimodal
from oracles.vision import picture as draw
from qwen35_gguf.convert import hf_to_gguf
from qwen35_gguf.errors import MediaError, VisionError
from qwen35_gguf.runtime.media import image, vision_encoder
from qwen35_gguf.runtime.media.video import FramePair, Video, VideoLimits, pair_times, sample_indices

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
    """Logits of the text after the last picture, (tokens, vocab)."""
    parts = vision_encoder.split_prompt(text, items)
    tokens = iter(llama.tokenize(model.gguf, [part for part in parts if isinstance(part, str)]))
    with (
        llama.loaded(model.gguf) as loaded,
        llama.context(loaded, 1024) as ctx,
        vision_encoder.Vision(model.mmproj, loaded, n_threads=1) as tower,
    ):
        chunks = [next(tokens) if isinstance(part, str) else tower.embed(part) for part in parts]
        n_past = vision_encoder.evaluate(ctx, chunks[:-1], 0, n_batch=n_batch, logits_last=False)
        assert n_past == vision_encoder.n_positions(chunks[:-1]) != vision_encoder.n_cells(chunks[:-1])
        vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(loaded))
        return llama.decode(ctx, chunks[-1], n_past, vocab)


@pytest.mark.parametrize("sizes", [[(300, 200)], [(64, 330), (257, 255)]], ids=["one", "two"])
def test_pictures_equal_transformers(converted: Model, sizes: list[tuple[int, int]]) -> None:
    pictures = [draw(width, height, seed) for seed, (width, height) in enumerate(sizes)]
    text = QUESTION.format(" and ".join([vision_encoder.IMAGE_PLACE] * len(sizes)))
    inputs = multimodal.processor(converted.source)(
        text=[text], images=[Image.fromarray(p) for p in pictures], return_tensors="pt"
    )
    reference = multimodal.logits(converted.source, inputs)

    found = answer(converted, text, [image.load_image(png(p)) for p in pictures])
    reference = reference[-len(found) :]
    assert llama.mean_kl(reference, found) < 1e-4
    np.testing.assert_array_equal(found.argmax(-1), reference.argmax(-1))
    assert len(np.unique(reference.argmax(-1))) > 3  # a reference that says something

    # The picture matters: another one gives other logits.
    other = [image.load_image(png(255 - p)) for p in pictures]
    assert llama.mean_kl(reference, answer(converted, text, other)) > 1e-3


def test_split_batches_give_the_same(converted: Model) -> None:
    item = image.load_image(png(draw(300, 200, 0)))
    text = QUESTION.format(vision_encoder.IMAGE_PLACE)
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
    text = QUESTION.format(vision_encoder.VIDEO_PLACE)
    parts = vision_encoder.split_prompt(text, [video])
    written = "".join(p if isinstance(p, str) else processor.video_token * p.n_tokens for p in parts)
    assert written == processor.tokenizer.decode(inputs["input_ids"][0])

    found = answer(converted, text, [video])
    reference = reference[-len(found) :]
    assert llama.mean_kl(reference, found) < 1e-4
    np.testing.assert_array_equal(found.argmax(-1), reference.argmax(-1))
    # Both frames of a pair count.
    first_twice = Video(tuple(FramePair(p.first, p.first, p.seconds, p.sha256 + "2") for p in video.pairs))
    assert llama.mean_kl(reference, answer(converted, text, [first_twice])) > 1e-4


def test_an_odd_frame_is_a_pair_with_itself_and_equals_a_picture(converted: Model) -> None:
    item = image.load_image(png(draw(96, 64, 0)), image.MediaLimits(min_pixels=1024))
    still = FramePair(item.rgb, item.rgb, 0.0, "still")
    with llama.loaded(converted.gguf) as model, vision_encoder.Vision(converted.mmproj, model, n_threads=1) as tower:
        np.testing.assert_allclose(tower.embed(still).values, tower.embed(item).values, atol=1e-4)


def test_the_same_picture_is_encoded_once(converted: Model) -> None:
    small = image.MediaLimits(min_pixels=1024)
    one, two, three = (image.load_image(png(draw(64, 64, seed)), small) for seed in range(3))
    again = image.load_image(png(draw(64, 64, 0)), small)
    room = 2 * 4 * 256 * 4  # two pictures of 4 tokens of 256 floats
    with (
        llama.loaded(converted.gguf) as model,
        vision_encoder.Vision(converted.mmproj, model, n_threads=1, cache_bytes=room) as tower,
    ):
        first = tower.embed(one)
        assert first.values.shape == (4, 256)
        assert tower.embed(again) is first
        tower.embed(two)
        assert tower.embed(one) is first
        assert tower.encoded == 2
        tower.embed(three)  # the least recently used, two, goes
        assert tower.embed(one) is first
        assert tower.encoded == 3
        tower.embed(two)
        assert tower.encoded == 4


def test_the_towers_errors(converted: Model, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(converted.mmproj.read_bytes()[:100_000])
    other = tmp_path / "other.gguf"
    shutil.copy(converted.mmproj, other)
    reader = GGUFReader(other, "r+")
    reader.fields["clip.vision.projection_dim"].parts[-1][0] = 512
    del reader
    with llama.loaded(converted.gguf) as model:
        for path, message in [
            (tmp_path / "none.gguf", "No such file"),
            (broken, "truncated"),
            (converted.gguf, "not a vision tower but qwen35"),
            (other, "another model .it makes embeddings of 512, the text model takes 256"),
        ]:
            with pytest.raises(VisionError, match=message) as error:
                vision_encoder.Vision(path, model)
            assert "\n" not in str(error.value)
        tower = vision_encoder.Vision(converted.mmproj, model, n_threads=1)
        tower.close()
        tower.close()
        with pytest.raises(VisionError, match="closed"):
            tower.embed(image.load_image(png(draw(64, 64, 0))))


def test_a_full_context_is_an_error(converted: Model) -> None:
    item = image.load_image(png(draw(640, 640, 0)))
    with (
        llama.loaded(converted.gguf) as model,
        llama.context(model, 256) as ctx,
        vision_encoder.Vision(converted.mmproj, model, n_threads=1) as tower,
        pytest.raises(VisionError, match="context is full"),
    ):
        vision_encoder.evaluate(ctx, [[1, 2], tower.embed(item)], 0, n_batch=64)


def test_places_have_to_match() -> None:
    item = image.picture(np.zeros((32, 32, 3), np.uint8))
    video = Video((FramePair(item.rgb, item.rgb, 0.5, "x"), FramePair(item.rgb, item.rgb, 1.5, "y")))
    still, film = vision_encoder.IMAGE_PLACE, vision_encoder.VIDEO_PLACE
    assert vision_encoder.split_prompt("plain", []) == ["plain"]
    start, end = vision_encoder.START, vision_encoder.END
    expected = [f"a{start}", item, f"{end}b<0.5 seconds>{start}", video.pairs[0], f"{end}<1.5 seconds>{start}"]
    assert vision_encoder.split_prompt(f"a{still}b{film}", [item, video]) == [*expected, video.pairs[1], end]
    for text, given in [(still, []), ("a", [item]), (still * 2, [item]), (film + still, [item, video])]:
        with pytest.raises(MediaError, match="places for pictures"):
            vision_encoder.split_prompt(text, given)
