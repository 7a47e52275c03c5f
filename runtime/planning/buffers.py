"""What llama.cpp allocates on each device for the activations of a split model.

A plan tries many choices, and each takes hundredths of a second to go through; so bounds are assumed for all of them
first, and the one that is taken is computed.
"""

from __future__ import annotations

from typing import NamedTuple

from qwen35_gguf.runtime.planning import activations
from qwen35_gguf.runtime.planning.allocation import F32
from qwen35_gguf.runtime.planning.units import Unit

REPEATED = 8  # layers, after which buffers do not grow if all are in one place


class Choice(NamedTuple):
    """What goes where."""

    n_gpu_layers: int
    counts: tuple[int, ...]  # layers of each GPU
    gone: frozenset[Unit] = frozenset()  # of these layers, to the host
    added: frozenset[Unit] = frozenset()  # of the others, to the first GPU


class Buffers(NamedTuple):
    """Buffers for activations, bytes of each GPU and then the host."""

    trunk: tuple[int, ...]
    mtp: tuple[int, ...]

    @property
    def together(self) -> tuple[int, ...]:
        """Those of both contexts."""
        return tuple(map(sum, zip(self.trunk, self.mtp, strict=True)))


class Graphs(NamedTuple):
    """What the graphs depend on.

    Attributes:
        shape: of the model.
        run: the largest call.
        mtp: whether the MTP head has a context.
        gpus: of each device other than the host: whether it is a GPU, or a worker.
        largest: bytes of the largest tensor of each layer's mixer, and of its feed-forward part.
        output: bytes of the output's matrix.

    """

    shape: activations.Shape
    run: activations.Run
    mtp: bool
    gpus: tuple[bool, ...]
    largest: tuple[tuple[int, ...], tuple[int, ...]]
    output: int

    @property
    def blocks(self) -> int:
        """How many layers there are, with the MTP block."""
        return len(self.largest[0])

    def buffers(self, layout: activations.Layout) -> Buffers:
        """Return the buffers of a layout."""
        if not layout.gpus:
            layout = activations.on_host(self.shape)
        trunk = activations.trunk_sizes(self.shape, self.run, layout)
        if not self.mtp:
            return Buffers(trunk, (0,) * len(trunk))
        draft = self.run._replace(outputs=min(self.run.tokens, self.run.sequences))
        return Buffers(trunk, activations.mtp_sizes(self.shape, draft, layout))


def _layout(graphs: Graphs, choice: Choice) -> tuple[activations.Layout, list[int]]:
    """Say what each device has that is used; llama.cpp numbers only these. Return also which of all GPUs they are."""
    used = [i for i, count in enumerate(choice.counts) if count or (choice.added and i == 0)]
    start = graphs.blocks + 1 - choice.n_gpu_layers
    homes = [len(used)] * start + [number for number, i in enumerate(used) for _ in range(choice.counts[i])]
    apart = {unit.layer: len(used) for unit in choice.gone} | {unit.layer: 0 for unit in choice.added}
    layout = activations.Layout(
        gpus=tuple(graphs.gpus[i] for i in used),
        mixers=tuple(homes[:-1]),
        feed_forwards=tuple(apart.get(layer, home) for layer, home in enumerate(homes[:-1])),
        output=homes[-1],
        full=start == 0,
        mixer_weights=graphs.largest[0],
        feed_forward_weights=graphs.largest[1],
        output_weights=graphs.output,
        draft_weights=graphs.output * graphs.shape.draft_vocabulary // graphs.shape.vocabulary,
    )
    return layout, used


def buffers_of(graphs: Graphs, choice: Choice) -> Buffers:
    """Compute the buffers of a choice; a GPU that is not used has none."""
    gpus = len(graphs.gpus)
    layout, used = _layout(graphs, choice)
    sizes = graphs.buffers(layout)
    places = [used.index(i) if i in used else None for i in range(gpus)]
    trunk, mtp = ((*(0 if i is None else found[i] for i in places), found[-1]) for found in sizes)
    return Buffers(trunk, mtp)


class Bounds(NamedTuple):
    """What is assumed of the buffers until a choice is made, bytes of each GPU and then the host."""

    none: tuple[int, ...]  # with nothing on GPUs
    whole: tuple[int, ...]  # with everything on GPUs
    apart: tuple[int, ...]  # with every layer on GPUs, but for feed-forward parts
    split: tuple[int, ...]  # with layers on the host

    def of(self, layers_on_host: int, layers_on_gpus: int, gone: int) -> tuple[int, ...]:
        """Return those for so many layers, and so many parts of those on GPUs that are not there."""
        if not layers_on_gpus:
            return self.none
        return self.split if layers_on_host else self.apart if gone else self.whole

    def replaced(self, assumed: tuple[int, ...], found: tuple[int, ...]) -> Bounds:
        """Assume what was found where so much was `assumed`."""
        return Bounds(*(found if sizes == assumed else sizes for sizes in self))

    def raised(self, assumed: tuple[int, ...], found: tuple[int, ...]) -> Bounds:
        """Assume at least what was found where so much was `assumed`."""
        return Bounds(*(tuple(map(max, sizes, found)) if sizes == assumed else sizes for sizes in self))


def bounds_of(graphs: Graphs) -> Bounds:
    """Bound the buffers by those of everything in one place, with room for what passes between devices."""
    kinds = graphs.gpus
    few = graphs._replace(shape=graphs.shape._replace(recurrent=graphs.shape.recurrent[:REPEATED]))  # more add nothing
    there, host = ((device,) * (len(few.shape.recurrent) + 1) for device in (0, 1))
    mixer_weights, feed_forward_weights = ((max(sizes),) * len(there) for sizes in graphs.largest)
    passing = 4 * F32 * graphs.shape.embedding * graphs.run.tokens  # hidden states, and what becomes of them
    none = buffers_of(graphs, Choice(0, (0,) * len(kinds))).together
    busy = none[-1]
    if not kinds:
        return Bounds(none, none, none, none)
    alone = {kind: few.buffers(activations.Layout((kind,), there, there, 0, full=True)).together for kind in set(kinds)}
    idle = max(size for _, size in alone.values())
    whole, apart, split = ([alone[kind][0] for kind in kinds] for _ in range(3))
    if True in kinds:  # the first GPU computes large products of the host's weights
        first = kinds.index(True)
        for sizes, mixers, output in ((apart, there, 0), (split, host, 1)):
            layout = activations.Layout((True,), mixers, host, output, not output, mixer_weights, feed_forward_weights)
            sizes[first] = max(sizes[first], few.buffers(layout).together[0])
    several = (activations.PIPELINED - 1) * idle + activations.PIPELINED * passing // 2 if len(kinds) > 1 else 0
    return Bounds(
        none,
        (*(size + several for size in whole), idle + several),
        (*(size + passing for size in apart), max(idle, busy) + passing),
        (*(size + passing for size in split), max(idle, busy) + passing),
    )
