"""How ggml places the intermediate results of a graph in buffers, one for each device.

Best fit, in the order of computation, in the place of an operand where the operation allows that. The buffers end up
fragmented, so that no formula comes near their sizes; going through the same motions does.

Source: llama.cpp of llama-cpp-python 0.3.36, ggml/src/ggml-alloc.c.

Shapes have the fastest dimension first, as ggml's do; sizes are in bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

F16, F32, I32, I64 = 2, 4, 4, 8
CPU_ALIGNMENT = 32
ENDLESS = 1 << 62
ANYWHERE = -1  # no device, or none yet


class Node:
    """A tensor: `parents` it is computed from, and whether it `may_replace` one of the same shape.

    A view has the tensor it shows as `root`; what has memory of its own, a weight or a cache, is `outside`; a result of
    the graph is `kept`. `device` is the number of the one that computes it, and `host_only` what no other one can;
    `work` are bytes beside the result.
    """

    __slots__ = (
        "device",
        "host_only",
        "kept",
        "may_replace",
        "n_bytes",
        "outside",
        "parents",
        "root",
        "shape",
        "work",
    )

    def __init__(
        self, shape: tuple[int, ...], parents: tuple[Node, ...] = (), size: int = F32, device: int = ANYWHERE
    ) -> None:
        while len(shape) > 1 and shape[-1] == 1:
            shape = shape[:-1]
        self.shape, self.parents, self.n_bytes, self.work = shape, parents, math.prod(shape) * size, 0
        self.root: Node | None = None
        self.device = device
        self.may_replace, self.outside, self.kept, self.host_only = False, False, False, False


def new(*shape: int, of: tuple[Node, ...], size: int = F32, on: int = ANYWHERE) -> Node:
    """Make the result of an operation that needs memory of its own (a product, a concatenation, a copy)."""
    return Node(shape, of, size, on)


def same(*parents: Node, on: int = ANYWHERE) -> Node:
    """Make the result of an operation by element, shaped as the first parent."""
    node = Node(parents[0].shape, parents, device=on)
    node.may_replace = True
    return node


def view(source: Node, *shape: int, span: int | None = None) -> Node:
    """Show a tensor, a part of it, or its elements in another order; nothing may replace it.

    With gaps between its elements it has a `span`: how many lie from the first to the last.
    """
    node = Node(shape, (source,))
    node.root = source.root or source
    if span is not None:
        node.n_bytes = span * F32
    return node


def outside(n_bytes: int, device: int) -> Node:
    """Make a tensor that has its own memory on a device."""
    node = Node((n_bytes,), size=1, device=device)
    node.outside = True
    return node


def part_of_outside(n_bytes: int, device: int) -> Node:
    """Make a view of so many bytes of a tensor that has its own memory on a device."""
    node = view(outside(n_bytes, device), n_bytes)
    node.n_bytes = n_bytes
    return node


def store(*parents: Node, on: int = ANYWHERE) -> Node:
    """Write to a cache on a device."""
    node = Node((0,), parents, device=on)
    node.outside = True
    return node


class Graph:
    """Operations in the order of their computation, and the inputs, which are placed before all."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.inputs: list[Node] = []
        self._seen: set[Node] = set()

    def add(self, node: Node) -> Node:
        """Append a tensor, and before it all that it is computed from and that is not there yet."""
        if node not in self._seen:
            self._seen.add(node)
            for parent in node.parents:
                self.add(parent)
            if node.parents:
                self.nodes.append(node)
            elif not node.outside:
                self.inputs.append(node)
        return node


def row_bytes(kind: str, count: int) -> int:
    """How many bytes `count` numbers of a type take."""
    block, size = GGML_QUANT_SIZES[GGMLQuantizationType[kind.upper()]]
    return -(-count // block) * size


class _Buffer:
    """Free blocks `[offset, size]` in the order of their offsets; the last one has no end."""

    def __init__(self, alignment: int) -> None:
        self.alignment, self.peak = alignment, 0
        self.free = [[0, ENDLESS]]

    def rounded(self, n_bytes: int) -> int:
        return -(-n_bytes // self.alignment) * self.alignment

    def take(self, n_bytes: int) -> int:
        """Take the smallest block that is large enough; the last of equal ones, the endless one if there is none."""
        size = self.rounded(n_bytes)
        fitting = [(block[1], -i) for i, block in enumerate(self.free[:-1]) if block[1] >= size]
        index = -min(fitting)[1] if fitting else len(self.free) - 1
        block = self.free[index]
        offset = block[0]
        block[0], block[1] = offset + size, block[1] - size
        if block[1] == 0:
            del self.free[index]
        self.peak = max(self.peak, offset + size)
        return offset

    def give(self, offset: int, n_bytes: int) -> None:
        """Return a range, and join it with its neighbours."""
        size = self.rounded(n_bytes)
        if size == 0:
            return
        index = next((i for i, block in enumerate(self.free) if block[0] > offset), len(self.free))
        self.free.insert(index, [offset, size])
        if index + 1 < len(self.free) and offset + size == self.free[index + 1][0]:
            self.free[index][1] += self.free.pop(index + 1)[1]
        if index > 0 and sum(self.free[index - 1]) == offset:
            self.free[index - 1][1] += self.free.pop(index)[1]


def buffer_size(graph: Graph, alignment: int = CPU_ALIGNMENT) -> int:
    """Place all tensors of a graph on one device and return the bytes that its buffer needs."""
    for node in (*graph.inputs, *graph.nodes):
        node.device = 0
    return buffer_sizes(graph, (alignment,))[0]


def buffer_sizes(graph: Graph, alignments: Sequence[int]) -> list[int]:
    """Place all tensors of a graph on their devices and return the bytes that each device's buffer needs."""
    buffers = [_Buffer(alignment) for alignment in alignments]
    place: dict[Node, int] = {}  # of those that have memory at this moment
    users: dict[Node, int] = dict.fromkeys(graph.inputs, 0)
    views: dict[Node, int] = dict.fromkeys(graph.inputs, 0)
    for node in graph.nodes:
        users.setdefault(node, 0)
        views.setdefault(node, 0)
        if node.root is not None:
            views[node.root] = views.get(node.root, 0) + 1
        for parent in node.parents:
            users[parent] = users.get(parent, 0) + 1
            views.setdefault(parent, 0)

    def replaced(node: Node) -> Node | None:
        """Find the tensor whose memory the node takes over, one that nobody needs after it."""
        for parent in node.parents if node.may_replace else ():
            if (
                parent in place
                and not parent.kept
                and users[parent] == 1
                and not views[parent]
                and parent.shape == node.shape
            ):
                return parent
        return None

    def release(node: Node) -> None:
        if node in place and not node.kept and users[node] == 0 and views[node] == 0:
            buffers[node.device].give(place.pop(node), node.n_bytes + node.work)

    for node in graph.inputs:
        place[node] = buffers[node.device].take(node.n_bytes)
    for node in graph.nodes:
        if node.root is None and not node.outside:
            old, buffer = replaced(node), buffers[node.device]
            if old is None:
                place[node] = buffer.take(node.n_bytes + node.work)
            else:
                place[node] = place.pop(old)
                size = buffer.rounded(node.n_bytes)
                buffer.give(place[node] + size, buffer.rounded(old.n_bytes + old.work) - size)
        for parent in node.parents:
            users[parent] -= 1
            if users[parent] == 0 and views[parent] == 0:
                if parent.root is None:
                    release(parent)
                else:
                    views[parent.root] -= 1
                    release(parent.root)
    return [buffer.peak for buffer in buffers]
