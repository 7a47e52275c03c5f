"""Time what `qwen35 imatrix --moments full --sequential` does for each layer, at the shapes of a model.

.venv/bin/python examples/make_checkpoint.py models/shapes --size 0.8b --layers 4 --vocab 20000 --no-vision
.venv/bin/qwen35 convert models/shapes -q BF16 --no-vision -o models/shapes-BF16
.venv/bin/qwen35 convert models/shapes -q Q4_K_M --no-vision -o models/shapes-Q4_K_M
.venv/bin/python bench/rounding/sequential.py models/shapes-BF16/*.gguf models/shapes-Q4_K_M/*.gguf [--chunks 49]

Prints wall and processor time of evaluating, of sums, and of shifts and rounding, then of `--layers` such layers. The
text is random tokens that count alike, as many as are printed: evaluating and sums take as long for each of them. The
conversion that follows rounds the layers once more.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qwen35_gguf.evaluation import sequential_moments
from qwen35_gguf.evaluation.sequential import weights
from qwen35_gguf.gguf_file.reader import read_header
from qwen35_gguf.quant.rounding.input_sums import InputSums
from qwen35_gguf.runtime.planning import memory

EVALUATING, SUMS, ROUNDING = "evaluating", "sums", "shifts and rounding"


class Clocks:
    """Adds up the seconds of parts, and those of the processors.

    Attributes:
        seconds: of each part.

    """

    def __init__(self) -> None:
        """Begin with nothing."""
        self.seconds = {part: np.zeros(2) for part in (EVALUATING, SUMS, ROUNDING)}

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function so that it adds to a part what it takes, without the parts within it."""

        def call(*arguments: Any) -> Any:
            before, within = now(), sum(self.seconds.values())
            found = function(*arguments)
            self.seconds[part] += now() - before - (sum(self.seconds.values()) - within)
            return found

        return call


def now() -> npt.NDArray[np.float64]:
    """Return the time, and that of the processors: seconds."""
    return np.array([time.perf_counter(), time.process_time()])


def main() -> None:
    """Print a line for each part, and one for all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="BF16")
    parser.add_argument("quantized", type=Path)
    parser.add_argument("--chunk", type=int, default=512)
    parser.add_argument("--chunks", type=int, default=49)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--layers", type=int, default=24)
    options = parser.parse_args()
    clocks = Clocks()
    sequential_moments._collect_layer = clocks.timed(EVALUATING, sequential_moments._collect_layer)
    InputSums.add = clocks.timed(SUMS, InputSums.add)  # type: ignore[method-assign]
    weights.overwrite = clocks.timed(ROUNDING, weights.overwrite)
    weights.put = clocks.timed(ROUNDING, weights.put)
    header = read_header(options.model)
    tokens = options.chunk * options.chunks
    ids = np.random.default_rng(0).integers(1000, 10_000, tokens).tolist()
    types = {tensor.name: tensor.type for tensor in read_header(options.quantized).tensors}
    how = {"kind": "full", "dataset": "random", "effects": False, "threads": options.threads}
    with tempfile.TemporaryDirectory() as folder:
        sequential_moments.collect(
            options.model, lambda _model: ids, Path(folder, "m.gguf"), types,
            chunk=options.chunk, chunks=options.chunks, **how,
        )  # fmt: skip
    scale = options.layers / memory.main_layers(header) / 60
    print(f"{options.layers} layers, {tokens} tokens: minutes, and those of the processors")
    for part, seconds in [*clocks.seconds.items(), ("all", sum(clocks.seconds.values()))]:
        print(part, *(f"{value * scale:.1f}" for value in seconds))


if __name__ == "__main__":
    main()
