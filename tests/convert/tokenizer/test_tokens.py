"""llama.cpp tokenizes with the GGUF's vocabulary exactly as the Hugging Face tokenizer does.

The Hugging Face tokenizer normalizes to NFC, which llama.cpp does not, so the lines are NFC to begin with.
"""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
import tokenizers

from oracles import llama
from qwen35_gguf.convert import hf_to_gguf

# First and last code point of letters in 36 scripts.
SCRIPTS = {
    "Latin": (0x41, 0x7A), "Latin-1": (0xC0, 0xFF), "Latin Extended": (0x100, 0x24F), "IPA": (0x250, 0x2AF),
    "Greek": (0x391, 0x3C9), "Cyrillic": (0x410, 0x44F), "Armenian": (0x531, 0x556), "Hebrew": (0x5D0, 0x5EA),
    "Arabic": (0x621, 0x64A), "Syriac": (0x710, 0x72F), "Thaana": (0x780, 0x7A5), "Devanagari": (0x904, 0x94D),
    "Bengali": (0x985, 0x9B9), "Gurmukhi": (0xA05, 0xA39), "Gujarati": (0xA85, 0xAB9), "Oriya": (0xB05, 0xB39),
    "Tamil": (0xB85, 0xBB9), "Telugu": (0xC05, 0xC39), "Kannada": (0xC85, 0xCB9), "Malayalam": (0xD05, 0xD39),
    "Sinhala": (0xD85, 0xDC6), "Thai": (0xE01, 0xE3A), "Lao": (0xE81, 0xEB0), "Tibetan": (0xF40, 0xF6C),
    "Myanmar": (0x1000, 0x102A), "Georgian": (0x10D0, 0x10FA), "Hangul Jamo": (0x1100, 0x1112),
    "Ethiopic": (0x1200, 0x1248), "Cherokee": (0x13A0, 0x13F5), "Khmer": (0x1780, 0x17B3),
    "Mongolian": (0x1820, 0x1842), "Hiragana": (0x3041, 0x3096), "Katakana": (0x30A1, 0x30FA), "Han": (0x4E00, 0x9FA5),
    "Hangul": (0xAC00, 0xD7A3), "Gothic": (0x10330, 0x1034A),
}  # fmt: skip
PIECES = [
    "def f(x):\n    return x ** 2  # why\n", "for (int i = 0; i < n; ++i) {\r\n\t a[i] += 1;\r\n}", "x\t\ty", "   ",
    "it's I'LL we've", "a  b   c", "e\u0301a\u0327", "1234567890", "3.14159e-10", "2026-11-23T18:34:00Z", "٣٤٥", "Ⅷ½²",
    "👩‍👩‍👧‍👦", "🏳️‍🌈", "👍🏽", "🇫🇷🇯🇵", "…—–«»“”", "$€£¥", "<|im_start|>user\nHi<|im_end|>\n", "<think>\n\n</think>\n\n",
    "<tool_call>{}</tool_call>", "<|vision_start|><|image_pad|><|vision_end|>", "<|endoftext|>", "<|not_a_token|>",
    "\n\n\n", "\r\n\r\n", " \n ", "\u00a0\u3000", "\u200b\u200d", "http://example.org/a?b=c&d=%20", "\\frac{1}{2}",
]  # fmt: skip


def lines(count: int, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    result = []
    for _ in range(count):
        parts = []
        for _ in range(rng.randint(1, 6)):
            if rng.random() < 0.4:
                parts.append(rng.choice(PIECES))
            else:
                low, high = SCRIPTS[rng.choice(sorted(SCRIPTS))]
                parts.append("".join(chr(rng.randint(low, high)) for _ in range(rng.randint(1, 9))))
        result.append(unicodedata.normalize("NFC", rng.choice(["", " ", "\n"]).join(parts)))
    return result


def compare(source: Path, gguf: Path) -> None:
    texts = lines(2000)
    tokenizer = tokenizers.Tokenizer.from_file(str(source / "tokenizer.json"))
    expected = [encoding.ids for encoding in tokenizer.encode_batch(texts, add_special_tokens=False)]
    found = llama.tokenize(gguf, texts)
    different = [(t, e, f) for t, e, f in zip(texts, expected, found, strict=True) if e != f]
    assert not different, (len(different), different[0])


def test_2000_lines_in_36_scripts(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    source = checkpoint()
    compare(source, hf_to_gguf.convert(source, "Q8_0", tmp_path, vision=False)[0])


@pytest.mark.slow
def test_2000_lines_with_the_whole_vocabulary(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    source = checkpoint(vocab="full", vision=False, mtp=False)
    compare(source, hf_to_gguf.convert(source, "Q8_0", tmp_path, vision=False)[0])
