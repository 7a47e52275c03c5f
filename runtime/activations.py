"""How much memory llama.cpp reserves for the activations of a Qwen3.5 graph, without llama.cpp.

ggml places every intermediate result of a graph in one buffer: best fit, in the order of computation, in the place of
an operand where the operation allows that. The buffer ends up fragmented, so that no formula comes near its size;
going through the same motions does. The graph here holds shapes alone. Weights and caches are left out, since they
have memory of their own.

Sources: llama.cpp of llama-cpp-python 0.3.36, stock and with this project's patches: src/models/qwen35.cpp,
qwen35moe.cpp and delta-net-base.cpp, src/llama-graph.cpp and tools/mtmd for the order of the operations,
ggml/src/ggml-alloc.c for the placement.

Shapes have the fastest dimension first, as ggml's do; sizes are in bytes.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

F16, F32, I32, I64 = 2, 4, 4, 8
CPU_ALIGNMENT = 32
ROTATED = 64  # least block of the rotation that a quantized KV cache gets
POSITIONS = 4  # numbers per token: M-RoPE's time, height, width, and one more
ENDLESS = 1 << 62


class Shape(NamedTuple):
    """The model's part of the shapes; counts of elements."""

    embedding: int
    feed_forward: int  # 0 with experts
    heads: int
    kv_heads: int
    head_size: int
    keys: int  # of all linear key heads together
    values: int  # of all linear value heads together
    value_heads: int
    state: int  # of one layer and sequence
    conv_state: int
    recurrent: tuple[bool, ...]  # by layer of the trunk
    vocabulary: int
    draft_vocabulary: int  # rows of the output that an MTP block predicts
    experts: int
    experts_used: int
    expert_feed_forward: int
    shared_feed_forward: int
    merged_experts: bool = False  # gate and up in one tensor


class Run(NamedTuple):
    """The context's part of the shapes."""

    tokens: int  # of a call
    cells: int  # of the KV cache
    outputs: int  # rows with logits
    sequences: int = 1
    snapshots: int = 1  # of the recurrent state
    kv_type: str = "f16"
    patched: bool = True  # this project's llama.cpp, which updates the states of a single sequence where they are

    host_states: bool = True  # they are in memory that the CPU reads

    @property
    def in_place(self) -> bool:
        """Whether the states of the DeltaNet layers stay where they are."""
        return self.patched and self.sequences == 1 and self.host_states


class Node:
    """A tensor: `parents` it is computed from, and whether it `may_replace` one of the same shape.

    A view has the tensor it shows as `root`; what is written to a cache is `outside`; a result of the graph is `kept`.
    """

    __slots__ = ("kept", "may_replace", "n_bytes", "outside", "parents", "root", "shape")

    def __init__(self, shape: tuple[int, ...], parents: tuple[Node, ...] = (), size: int = F32) -> None:
        while len(shape) > 1 and shape[-1] == 1:
            shape = shape[:-1]
        self.shape, self.parents, self.n_bytes = shape, parents, math.prod(shape) * size
        self.root: Node | None = None
        self.may_replace, self.outside, self.kept = False, False, False


def new(*shape: int, of: tuple[Node, ...], size: int = F32) -> Node:
    """Make the result of an operation that needs memory of its own (a product, a concatenation, a copy)."""
    return Node(shape, of, size)


def same(*parents: Node) -> Node:
    """Make the result of an operation by element, shaped as the first parent."""
    node = Node(parents[0].shape, parents)
    node.may_replace = True
    return node


def view(source: Node, *shape: int) -> Node:
    """Show a tensor, a part of it, or its elements in another order; nothing may replace it."""
    node = Node(shape, (source,))
    node.root = source.root or source
    return node


def _store(*parents: Node) -> Node:
    """Write to a cache."""
    node = Node((0,), parents)
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
            (self.nodes if node.parents else self.inputs).append(node)
        return node


# ---- placement ---------------------------------------------------------------------------------------------------


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
    """Place all tensors of a graph and return the bytes that its buffer needs."""
    buffer = _Buffer(alignment)
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
            buffer.give(place.pop(node), node.n_bytes)

    for node in graph.inputs:
        place[node] = buffer.take(node.n_bytes)
    for node in graph.nodes:
        if node.root is None and not node.outside:
            old = replaced(node)
            if old is None:
                place[node] = buffer.take(node.n_bytes)
            else:
                place[node] = place.pop(old)
                size = buffer.rounded(node.n_bytes)
                buffer.give(place[node] + size, buffer.rounded(old.n_bytes) - size)
        for parent in node.parents:
            users[parent] -= 1
            if users[parent] == 0 and views[parent] == 0:
                if parent.root is None:
                    release(parent)
                else:
                    views[parent.root] -= 1
                    release(parent.root)
    return buffer.peak


# ---- the graphs of Qwen3.5 ---------------------------------------------------------------------------------------


class _Inputs(NamedTuple):
    """What every layer reads beside the hidden state."""

    position: Node
    mask: Node
    key_cells: Node
    value_cells: Node
    key_rotation: Node | None
    value_rotation: Node | None
    states: Node | None


def _inputs(shape: Shape, run: Run, *, states: bool) -> _Inputs:
    rotation = shape.head_size % ROTATED == 0 and run.kv_type not in ("f32", "f16", "bf16")
    block = math.gcd(shape.head_size, 1 << 30)  # the largest power of two in it
    return _Inputs(
        position=Node((run.tokens * POSITIONS,), size=I32),
        mask=Node((run.cells, run.tokens), size=F16),
        key_cells=Node((run.tokens,), size=I64),
        value_cells=Node((run.tokens,), size=I64),
        key_rotation=Node((block, block)) if rotation else None,
        value_rotation=Node((ROTATED, ROTATED)) if rotation else None,
        states=Node((run.sequences,), size=I32) if states else None,
    )


def _norm(x: Node) -> Node:
    return same(same(x))  # the norm, and the product with its weights


def _rotate(x: Node, rotation: Node) -> Node:
    block = rotation.shape[0]
    flat = view(x, block, math.prod(x.shape) // block)
    return view(new(*flat.shape, of=(rotation, flat)), *x.shape)


def _attention(graph: Graph, shape: Shape, run: Run, inputs: _Inputs, x: Node, *, side_by_side: bool) -> Node:
    tokens, size = run.tokens, shape.head_size
    query_and_gate = new(2 * size * shape.heads, tokens, of=(x,))
    key = new(size * shape.kv_heads, tokens, of=(x,))
    value = new(size * shape.kv_heads, tokens, of=(x,))
    if side_by_side:
        for product in (query_and_gate, key, value):
            graph.add(product)
    query = _norm(view(query_and_gate, size, shape.heads, tokens))
    key = _norm(view(key, size, shape.kv_heads, tokens))
    gate = new(size * shape.heads, tokens, of=(view(query_and_gate, size, shape.heads, tokens),))
    value = view(value, size, shape.kv_heads, tokens)
    query, key = same(query, inputs.position), same(key, inputs.position)
    if inputs.key_rotation is not None:
        query, key = _rotate(query, inputs.key_rotation), _rotate(key, inputs.key_rotation)
    if inputs.value_rotation is not None:
        value = _rotate(value, inputs.value_rotation)
    for projected in (query, value, key):
        graph.add(projected)
    graph.add(_store(view(key, size * shape.kv_heads, tokens), inputs.key_cells))
    graph.add(_store(view(value, size * shape.kv_heads, tokens), inputs.value_cells))
    seen = view(view(query, size, shape.heads, tokens), size, tokens, shape.heads)
    narrowed = []
    if run.kv_type == "f32":  # attention reads F16
        cache = Node((0,))  # stands for the cache
        narrowed = [new(size, run.cells, shape.kv_heads, of=(cache,), size=F16) for _ in range(2)]
    attended = new(size, shape.heads, tokens, of=(seen, *narrowed, inputs.mask))
    result = graph.add(view(attended, size * shape.heads, tokens))
    if inputs.value_rotation is not None:
        result = _rotate(result, inputs.value_rotation)
    return new(shape.embedding, tokens, of=(same(result, same(gate)),))


def _with_states(graph: Graph, inputs: _Inputs, result: Node) -> Node:
    """Add what reads the states of the sequences, and the copying of others, of which there are none here."""
    assert inputs.states is not None
    graph.add(result)
    graph.add(_store(new(0, of=(view(inputs.states, 0),))))
    return result


def _gathered(graph: Graph, run: Run, inputs: _Inputs, floats: int) -> Node:
    assert inputs.states is not None
    return _with_states(graph, inputs, new(floats, run.sequences, of=(view(inputs.states, run.sequences),)))


def _convolution(graph: Graph, shape: Shape, run: Run, inputs: _Inputs, mixed: Node) -> Node:
    channels, each, past = mixed.shape[0], run.tokens // run.sequences, shape.conv_state // mixed.shape[0]
    if run.in_place:
        assert inputs.states is not None
        result = new(channels, run.tokens, of=(mixed, view(inputs.states, run.sequences)))
        return _with_states(graph, inputs, result)
    states = view(_gathered(graph, run, inputs, shape.conv_state), past, channels, run.sequences)
    transposed = view(mixed, each, channels, run.sequences)
    window = new(past + each, channels, run.sequences, of=(states, transposed))
    for _ in range(run.snapshots):
        graph.add(_store(view(window, past, channels, run.sequences)))
    return same(new(channels, each, run.sequences, of=(window,)))


def _delta_net(graph: Graph, shape: Shape, run: Run, inputs: _Inputs, x: Node) -> Node:
    tokens, each, sequences = run.tokens, run.tokens // run.sequences, run.sequences
    channels, heads = 2 * shape.keys + shape.values, shape.value_heads
    size = shape.values // heads
    key_heads = shape.keys // size
    mixed = view(new(channels, tokens, of=(x,)), channels, each, sequences)
    z, beta, alpha = new(shape.values, tokens, of=(x,)), new(heads, tokens, of=(x,)), new(heads, tokens, of=(x,))
    if run.patched:
        for product in (mixed, z, beta, alpha):
            graph.add(product)
    beta = same(view(beta, 1, heads, each, sequences))
    gate = view(same(same(same(view(alpha, heads, each, sequences)))), 1, heads, each, sequences)
    state = None
    if run.patched and not run.in_place:
        state = _gathered(graph, run, inputs, shape.state)
    convolved = _convolution(graph, shape, run, inputs, mixed)
    if not run.patched:
        state = _gathered(graph, run, inputs, shape.state)
    query, key = (same(same(view(convolved, size, key_heads, each, sequences))) for _ in range(2))
    operands = (query, key, view(convolved, size, heads, each, sequences), gate, beta)
    if state is None:
        assert inputs.states is not None
        output = new(shape.values, tokens, of=(*operands, view(inputs.states, sequences)))
        output = view(_with_states(graph, inputs, output), size, heads, each, sequences)
    else:
        state = view(state, size, size, heads, sequences)
        floats = shape.values * tokens + run.snapshots * shape.state * sequences
        both = new(floats, of=(*operands, state))
        output = view(both, size, heads, each, sequences)
        graph.add(_store(view(both, shape.state, sequences, run.snapshots)))
    output = same(_norm(output), same(view(z, size, heads, each, sequences)))
    return view(
        new(shape.embedding, tokens, of=(view(output, shape.values, each, sequences),)), shape.embedding, tokens
    )


def _feed_forward(width: int, shape: Shape, run: Run, x: Node) -> Node:
    up, gate = new(width, run.tokens, of=(x,)), new(width, run.tokens, of=(x,))
    return new(shape.embedding, run.tokens, of=(new(width, run.tokens, of=(gate, up)),))


def _experts(graph: Graph, shape: Shape, run: Run, x: Node) -> Node:
    tokens, used, width = run.tokens, shape.experts_used, shape.expert_feed_forward
    chances = same(new(shape.experts, tokens, of=(x,)))
    chosen = view(new(shape.experts, tokens, of=(chances,), size=I32), used, tokens)
    weights = new(1, used, tokens, of=(view(chances, 1, shape.experts, tokens), chosen))
    weights = view(weights, used, tokens)
    weights = view(same(weights, same(new(1, tokens, of=(weights,)))), 1, used, tokens)
    graph.add(weights)
    each = view(x, shape.embedding, 1, tokens)
    if shape.merged_experts:
        both = new(2 * width, used, tokens, of=(each, chosen))
        gate, up = view(both, width, used, tokens), view(both, width, used, tokens)
    else:
        gate, up = (new(width, used, tokens, of=(each, chosen)) for _ in range(2))
    down = new(shape.embedding, used, tokens, of=(new(width, used, tokens, of=(gate, up)), chosen))
    weighted = graph.add(same(down, weights))
    parts = [graph.add(view(weighted, shape.embedding, tokens)) for _ in range(used)]
    total = parts[0]
    for part in parts[1:]:
        total = graph.add(same(total, part))
    if not shape.shared_feed_forward:
        return total
    shared = _feed_forward(shape.shared_feed_forward, shape, run, x)
    return same(total, same(shared, same(new(1, tokens, of=(x,)))))


def _block(graph: Graph, shape: Shape, run: Run, residual: Node, mixed: Node) -> Node:
    """Add the residual, and what follows the mixing of tokens: norm, feed-forward, residual."""
    x = same(mixed, residual)
    normed = _norm(x)
    out = (
        _experts(graph, shape, run, normed) if shape.experts else _feed_forward(shape.feed_forward, shape, run, normed)
    )
    return same(out, x)


def trunk_graph(shape: Shape, run: Run) -> Graph:
    """Build the graph of the layers without the MTP block."""
    graph, inputs = Graph(), _inputs(shape, run, states=True)
    hidden = graph.add(new(shape.embedding, run.tokens, of=(Node((run.tokens,), size=I32),)))
    graph.add(Node((shape.embedding, run.tokens)))  # embeddings of images; placed though there are none
    rows = Node((run.outputs,), size=I32)
    for recurrent in shape.recurrent:
        normed = graph.add(_norm(hidden))
        if recurrent:
            mixed = _delta_net(graph, shape, run, inputs, normed)
        else:
            mixed = _attention(graph, shape, run, inputs, normed, side_by_side=run.patched)
        hidden = _block(graph, shape, run, hidden, mixed)
    final = _norm(hidden)
    chosen = new(shape.embedding, run.outputs, of=(final, rows))
    logits = new(shape.vocabulary, run.outputs, of=(chosen,))
    for result in (final, chosen, logits):
        result.kept = True
    graph.add(logits)
    return graph


def mtp_graph(shape: Shape, run: Run) -> Graph:
    """Build the graph of the MTP block."""
    graph, inputs = Graph(), _inputs(shape, run, states=False)
    embedded = new(shape.embedding, run.tokens, of=(Node((run.tokens,), size=I32),))
    hidden = Node((shape.embedding, run.tokens))
    rows = Node((run.outputs,), size=I32)
    # the norm of the hidden state comes second in the concatenation
    joined = new(2 * shape.embedding, run.tokens, of=(_norm(embedded), _norm(hidden)))
    x = new(shape.embedding, run.tokens, of=(joined,))
    out = _block(graph, shape, run, x, _attention(graph, shape, run, inputs, _norm(x), side_by_side=False))
    final = _norm(out)
    logits = new(shape.draft_vocabulary, run.outputs, of=(new(shape.embedding, run.outputs, of=(final, rows)),))
    if shape.draft_vocabulary < shape.vocabulary:
        others = same(Node((shape.vocabulary - shape.draft_vocabulary, run.outputs)))
        logits = new(shape.vocabulary, run.outputs, of=(logits, others))
    final.kept = logits.kept = True
    graph.add(logits)
    return graph


# ---- the graph of the vision tower ---------------------------------------------------------------------------------


class VisionShape(NamedTuple):
    """Counts of elements."""

    embedding: int
    feed_forward: int
    heads: int
    blocks: int
    merged: int  # width of the hidden layer of the projection
    projected: int
    patch: int  # pixels along a side
    grid: int  # learned positions along a side


def _affine_norm(x: Node) -> Node:
    return same(same(new(*x.shape, of=(x,))))


def _biased(*shape: int, of: tuple[Node, ...]) -> Node:
    return same(new(*shape, of=of))


def vision_graph(shape: VisionShape, columns: int, rows: int) -> Graph:
    """Build the graph that encodes a picture of `columns` x `rows` patches.

    Source: tools/mtmd/models/qwen3vl.cpp and qwen2vl.cpp, with flash attention.
    """
    graph, width, patches = Graph(), shape.embedding, columns * rows
    positions = Node((patches * POSITIONS,), size=I32)
    pixels = Node((columns * shape.patch, rows * shape.patch, 3))

    def patched() -> Node:
        unfolded = new(3 * shape.patch**2, columns, rows, of=(pixels,), size=F16)
        product = new(patches, width, of=(view(unfolded, 3 * shape.patch**2, patches),))
        return new(columns, rows, width, of=(view(product, columns, rows, width),))

    def merged(x: Node) -> Node:
        turned = new(2 * width, columns // 2, rows, of=(x,))
        return new(width, patches, of=(view(turned, width, patches),))

    x = same(merged(view(same(patched(), patched()), width, columns, rows)))
    learned = Node((0,))  # stands for the weights
    if (columns, rows) != (shape.grid, shape.grid):
        spread = new(columns, rows, width, of=(learned,))
        learned = new(width, patches, of=(view(spread, width, columns, rows),))
    x = same(x, merged(learned))
    head = width // shape.heads
    for _ in range(shape.blocks):
        mixed = _biased(3 * width, patches, of=(_affine_norm(x),))
        query, key = (same(view(mixed, head, shape.heads, patches), positions) for _ in range(2))
        query.may_replace = key.may_replace = False  # a part of `mixed` each
        value = view(mixed, head, shape.heads, patches)
        for projected in (query, key, value):
            graph.add(projected)
        keys = new(head, patches, shape.heads, of=(view(key, 0),), size=F16)
        values = new(head, patches, shape.heads, of=(view(value, 0),), size=F16)
        attended = new(head, shape.heads, patches, of=(view(query, 0), keys, values))
        x = same(_biased(width, patches, of=(view(attended, width, patches),)), x)
        hidden = same(_biased(shape.feed_forward, patches, of=(_affine_norm(x),)))
        x = same(x, _biased(width, patches, of=(hidden,)))
    final = view(_affine_norm(x), shape.merged, patches // 4)
    hidden = same(_biased(shape.merged, patches // 4, of=(final,)))
    graph.add(_biased(shape.projected, patches // 4, of=(hidden,)))
    return graph


@functools.lru_cache(maxsize=256)
def vision_bytes(shape: VisionShape, columns: int, rows: int) -> int:
    """Bytes of the buffer for encoding a picture of `columns` x `rows` patches."""
    return buffer_size(vision_graph(shape, columns, rows))


@functools.lru_cache(maxsize=4096)
def trunk_bytes(shape: Shape, run: Run) -> int:
    """Bytes of the buffer for the trunk's activations."""
    return buffer_size(trunk_graph(shape, run))


@functools.lru_cache(maxsize=4096)
def mtp_bytes(shape: Shape, run: Run) -> int:
    """Bytes of the buffer for the MTP block's activations."""
    return buffer_size(mtp_graph(shape, run))
