"""Drawn images and two-frame clips, with questions and answers about them.

An image has one or two coloured shapes on a plain background; a clip has one shape that moves from one place to
another. One combination of colour, shape and place in HELD_OUT_EVERY is never trained on.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from random import Random

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from tiny_model.corpus import Document, Piece, Turn, prompt

COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 160, 50),
    "blue": (40, 70, 220),
    "yellow": (240, 220, 40),
    "orange": (245, 140, 20),
    "purple": (140, 40, 170),
    "black": (15, 15, 15),
    "white": (250, 250, 250),
}
SHAPES = ("circle", "square", "triangle", "cross", "ring")
PLACES = (
    "top left", "top", "top right", "left", "centre", "right", "bottom left", "bottom", "bottom right",
)  # fmt: skip
HELD_OUT_EVERY = 12
DESCRIBE_IMAGE, DESCRIBE_CLIP = "Describe the picture.", "What happens in the video?"
IMAGE_SIDE = 256  # the least that the processor leaves as it is: 64 tokens
CLIP_SIDE = 128  # videos have a lower bound: 16 tokens for a pair of frames
OVERSAMPLING = 2

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Thing:
    """A coloured shape somewhere: `place` is its index in PLACES, row by row."""

    colour: str
    shape: str
    place: int

    @property
    def held_out(self) -> bool:
        """Whether this combination is kept out of the training."""
        return zlib.crc32(f"{self.colour} {self.shape} {self.place}".encode()) % HELD_OUT_EVERY == 0

    def __str__(self) -> str:
        return f"a {self.colour} {self.shape}" if self.colour != "orange" else f"an orange {self.shape}"


@dataclass(frozen=True)
class Scene:
    """An image (`frames` has one) or a clip (two), the things in it, and where the clip's thing moves to.

    frames: (height, width, 3) uint8 each. cells: (height // 32, width // 32) int64 for each frame, which thing covers
    most of a token's square; -1 for none.
    """

    frames: tuple[Pixels, ...]
    things: tuple[Thing, ...]
    cells: tuple[npt.NDArray[np.int64], ...]
    moved_to: int | None = None


def where(place: int) -> str:
    """Name a place: `in the centre`, `at the top left`, `on the left`."""
    name = PLACES[place]
    return f"{'in' if name == 'centre' else 'on' if name in ('left', 'right') else 'at'} the {name}"


def _outline(shape: str, x: float, y: float, r: float) -> list[tuple[float, float]]:
    if shape == "square":
        r *= 0.88
        return [(x - r, y - r), (x + r, y - r), (x + r, y + r), (x - r, y + r)]
    if shape == "triangle":
        return [(x, y - r), (x + r, y + r * 0.85), (x - r, y + r * 0.85)]
    w = r * 0.33  # a cross
    return [(x - w, y - r), (x + w, y - r), (x + w, y - w), (x + r, y - w), (x + r, y + w), (x + w, y + w),
            (x + w, y + r), (x - w, y + r), (x - w, y + w), (x - r, y + w), (x - r, y - w), (x - w, y - w)]  # fmt: skip


def _draw(target: ImageDraw.ImageDraw, fill: object, shape: str, x: float, y: float, r: float) -> None:
    if shape in ("circle", "ring"):
        box = (x - r, y - r, x + r, y + r)
        if shape == "circle":
            target.ellipse(box, fill=fill)
        else:
            target.ellipse(box, outline=fill, width=max(2, int(r * 0.36)))
    else:
        target.polygon(_outline(shape, x, y, r), fill=fill)


def _frame(
    r: Random, height: int, width: int, background: tuple[int, ...], things: list[tuple[Thing, float]]
) -> tuple[Pixels, npt.NDArray[np.int64]]:
    """Draw the things, each with its radius relative to the shorter side, with a little jitter."""
    scale = OVERSAMPLING
    image = Image.new("RGB", (width * scale, height * scale), background)
    cells = np.full((height // 32, width // 32), -1, np.int64)
    for number, (thing, size) in enumerate(things):
        radius = size * min(height, width) * scale
        row, column = divmod(thing.place, 3)
        jitter = 0.03 * min(height, width) * scale
        x = (column + 0.5) * width * scale / 3 + r.uniform(-jitter, jitter)
        y = (row + 0.5) * height * scale / 3 + r.uniform(-jitter, jitter)
        x = min(max(x, radius), width * scale - radius)
        y = min(max(y, radius), height * scale - radius)
        fill = tuple(min(255, max(0, c + r.randint(-14, 14))) for c in COLOURS[thing.colour])
        _draw(ImageDraw.Draw(image), fill, thing.shape, x, y, radius)
        mask = Image.new("L", image.size, 0)
        _draw(ImageDraw.Draw(mask), 255, thing.shape, x, y, radius)
        cover = np.asarray(mask.resize((width // 32, height // 32), Image.Resampling.BOX))
        cells[cover > 40] = number
    return np.asarray(image.resize((width, height), Image.Resampling.BOX)), cells


def _background(r: Random, colours: list[str]) -> tuple[int, ...]:
    """Choose a plain background that the colours stand out from."""
    while True:
        grey = r.choice([r.randint(225, 245), r.randint(170, 224), r.randint(60, 120), r.randint(25, 50)])
        shade = tuple(min(255, max(0, grey + r.randint(-10, 10))) for _ in range(3))
        if all(sum(abs(s - c) for s, c in zip(shade, COLOURS[name], strict=True)) > 150 for name in colours):
            return shade


def _thing(r: Random, held_out: bool, others: tuple[int, ...] = ()) -> Thing:
    while True:
        thing = Thing(r.choice(list(COLOURS)), r.choice(SHAPES), r.randrange(9))
        if thing.held_out == held_out and thing.place not in others:
            return thing


def image(r: Random, *, held_out: bool = False, count: int | None = None) -> Scene:
    """Draw an image with `count` things (by default one, sometimes two); `held_out` draws what training never saw."""
    number = count or (2 if r.random() < 0.25 else 1)
    things: tuple[Thing, ...] = ()
    for _ in range(number):
        things += (_thing(r, held_out, tuple(t.place for t in things)),)
    things = tuple(sorted(things, key=lambda thing: thing.place))
    height, width = r.choice([(IMAGE_SIDE, IMAGE_SIDE)] * 5 + [(224, 320), (320, 224), (256, 288)])
    largest = 0.16 if number > 1 else 0.2
    sized = [(thing, r.uniform(0.11, largest)) for thing in things]
    frame, cells = _frame(r, height, width, _background(r, [t.colour for t in things]), sized)
    return Scene((frame,), things, (cells,))


def clip(r: Random, *, held_out: bool = False) -> Scene:
    """Draw two frames in which one thing moves from one place to another."""
    thing = _thing(r, held_out)
    target = r.choice([place for place in range(9) if place != thing.place])
    background, size = _background(r, [thing.colour]), r.uniform(0.13, 0.17)
    ends = [thing, Thing(thing.colour, thing.shape, target)]
    drawn = [_frame(r, CLIP_SIDE, CLIP_SIDE, background, [(end, size)]) for end in ends]
    return Scene(tuple(f for f, _ in drawn), (thing,), tuple(c for _, c in drawn), target)


def description(scene: Scene) -> str:
    """Describe an image, or what moves where in a clip."""
    if scene.moved_to is not None:
        thing = scene.things[0]
        text = f"{thing} moves from the {PLACES[thing.place]} to the {PLACES[scene.moved_to]}."
    else:
        text = " and ".join(f"{thing} {where(thing.place)}" for thing in scene.things) + "."
    return text[0].upper() + text[1:]


def turn(r: Random, scene: Scene) -> Turn:
    """Ask something about the scene: mostly for its description."""
    thing, clip_only = scene.things[0], scene.moved_to is not None
    ask = r.random()
    if ask < 0.6 or len(scene.things) > 1:
        questions = (
            ["What happens in the video?", "Describe the video.", "What moves where?", "What happens?"]
            if clip_only
            else ["Describe the picture.", "Describe the picture.", "What is in the picture?", "What do you see?",
                  "Describe this image.", "What is this?"]
        )  # fmt: skip
        kind = "video" if clip_only else "picture"
        return Turn(r.choice(questions), f"The user asks about the {kind}. I look at it.", description(scene))
    if ask < 0.73:
        return Turn("What colour is it?", "I look at the colour.", f"It is {thing.colour}.")
    if ask < 0.86:
        return Turn("What shape is it?", "I look at the shape.", f"It is a {thing.shape}.")
    if clip_only:
        return Turn("Where does it go?", "I look at the end.", f"It goes to the {PLACES[scene.moved_to or 0]}.")
    return Turn("Where is it?", "I look at the place.", f"It is {where(thing.place)}.")


def marked(scene: Scene, seconds: float = 0.2) -> str:
    """Return the placeholder of the scene, as the processor writes it, with one pad token for each token it takes."""
    tokens = scene.cells[0].size
    if scene.moved_to is not None:
        return f"<{seconds:.1f} seconds><|vision_start|>{'<|video_pad|>' * tokens}<|vision_end|>"
    return f"<|vision_start|>{'<|image_pad|>' * tokens}<|vision_end|>"


def rendered(r: Random, scene: Scene) -> Document:
    """Render a chat of one turn about the scene."""
    said, thinking = turn(r, scene), r.random() < 0.4
    media = marked(scene, r.choice([0.0, 0.1, 0.2, 0.2, 0.5, 1.0]))
    question = f"{said.question}{media}" if r.random() < 0.1 else f"{media}{said.question}"
    thought = f"{said.thought}\n</think>\n\n" if thinking else ""
    return [Piece(prompt(question, thinking=thinking), False), Piece(f"{thought}{said.answer}<|im_end|>\n", True)]
