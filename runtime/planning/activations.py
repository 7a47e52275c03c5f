"""How much memory llama.cpp reserves for the activations of a Qwen3.5 graph, without llama.cpp.

The graph here holds shapes alone, and where weights and caches are: `scheduling` finds from that which device computes
what, `allocation` how large the buffers of the devices get. Weights and caches have memory of their own.

Splits over workers are compared with llama.cpp's allocator. What GPUs do beside that (they take large products of the
host's weights, and copies of a cache that is not F16) is as the source of the CUDA backend says, and not compared.

Sources: llama.cpp of llama-cpp-python 0.3.36, stock and with this project's patches: src/models/qwen35.cpp,
qwen35moe.cpp and delta-net-base.cpp, src/llama-graph.cpp, src/llama-context.cpp (graph_get_cb) and tools/mtmd for the
operations and their order.

Shapes have the fastest dimension first, as ggml's do; sizes are in bytes.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

from qwen35_gguf.runtime.planning.allocation import (
    ANYWHERE,
    CPU_ALIGNMENT,
    F16,
    F32,
    I32,
    I64,
    Graph,
    Node,
    buffer_size,
    buffer_sizes,
    new,
    outside,
    part_of_outside,
    row_bytes,
    same,
    store,
    view,
)
from qwen35_gguf.runtime.planning.scheduling import schedule

ROTATED = 64  # least block of the rotation that a quantized KV cache gets
POSITIONS = 4  # numbers per token: M-RoPE's time, height, width, and one more
GPU_BATCH = 32  # tokens from which on a GPU takes products of the host's weights (GGML_OP_OFFLOAD_MIN_BATCH)
GPU_ALIGNMENT = 128
PIPELINED = 4  # calls that several devices compute at once (GGML_SCHED_MAX_COPIES)


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


class Layout(NamedTuple):
    """Which device has which weights; devices are numbers, the host is the last.

    A block's KV cache or state is where its mixer is. GPUs, unlike workers, compute products of the host's weights if
    the call is large, for which they copy the weights.
    """

    gpus: tuple[bool, ...]  # of each device other than the host: whether it is one, or a worker
    mixers: tuple[int, ...]  # of each block, the MTP block the last, whether or not it is loaded
    feed_forwards: tuple[int, ...]  # of each block, the experts' part if there are experts
    output: int
    full: bool = False  # the output and all blocks are on devices, but for single tensors
    # what a GPU copies of the host's weights, in bytes
    mixer_weights: tuple[int, ...] = ()  # the largest tensor of each block's mixer
    feed_forward_weights: tuple[int, ...] = ()  # and of its feed-forward part
    output_weights: int = 0
    draft_weights: int = 0  # the rows of the output that an MTP block predicts

    @property
    def host(self) -> int:
        """Number of the host."""
        return len(self.gpus)

    @property
    def taker(self) -> int:
        """Number of the device that computes products of the host's weights, `ANYWHERE` if none does."""
        return self.gpus.index(True) if True in self.gpus else ANYWHERE

    @property
    def copies(self) -> int:
        """How many calls are computed at once: several if all layers are on several devices, with all their parts."""
        return PIPELINED if len(self.gpus) > 1 and self.full and self.mixers == self.feed_forwards else 1


def on_host(shape: Shape) -> Layout:
    """Return the layout of a machine without other devices."""
    blocks = (0,) * (len(shape.recurrent) + 1)
    return Layout((), blocks, blocks, 0)


# ---- the graphs of Qwen3.5 ---------------------------------------------------------------------------------------


class _Part(NamedTuple):
    """Weights that are together: where they are, and where products of them are computed."""

    home: int
    host: int
    taker: int  # of the host's products; `ANYWHERE` for the host itself
    weights: int  # bytes of the largest tensor

    def product(self, *shape: int, of: tuple[Node, ...]) -> Node:
        """Make a product of weights and `of`."""
        return new(*shape, of=(*self._copied(self.weights), *of), on=self._device)

    def scaled(self, x: Node) -> Node:
        """Make a product or sum by element, with as many weights as a row has elements."""
        return same(x, *self._copied(x.shape[0] * F32), on=self._device)

    @property
    def _taken(self) -> bool:
        return self.home == self.host and self.taker != ANYWHERE

    @property
    def _device(self) -> int:
        return self.taker if self._taken else self.home

    def _copied(self, n_bytes: int) -> tuple[Node, ...]:
        return (outside(n_bytes, self.home),) if self._taken else ()


class _Site(NamedTuple):
    """Where a block has its weights, and where its norms are computed: `ANYWHERE` if that is not told."""

    mixer: _Part
    feed_forward: _Part
    norms: int

    @property
    def on_host(self) -> bool:
        """Whether the mixer and its state are on the host."""
        return self.mixer.home == self.mixer.host

    @property
    def reads_elsewhere(self) -> bool:
        """Whether a GPU may compute what reads a cache of the host's."""
        return self.on_host and self.mixer.taker != ANYWHERE

    def norm(self, x: Node) -> Node:
        return self.mixer.scaled(same(x, on=self.norms))


def _sites(run: Run, layout: Layout) -> list[_Site]:
    host, blocks = layout.host, len(layout.mixers)
    taker = layout.taker if run.tokens >= GPU_BATCH else ANYWHERE
    norms = layout.full or run.tokens < GPU_BATCH
    mixer_weights = layout.mixer_weights or (0,) * blocks
    feed_forward_weights = layout.feed_forward_weights or (0,) * blocks
    return [
        _Site(
            _Part(layout.mixers[i], host, taker, mixer_weights[i]),
            _Part(layout.feed_forwards[i], host, taker, feed_forward_weights[i]),
            layout.mixers[i] if norms else ANYWHERE,
        )
        for i in range(blocks)
    ]


def _output(rows: int, layout: Layout) -> _Part:
    taker = layout.taker if rows >= GPU_BATCH else ANYWHERE
    return _Part(layout.output, layout.host, taker, layout.output_weights)


class _Inputs(NamedTuple):
    """What every layer reads beside the hidden state."""

    position: Node
    mask: Node
    key_cells: Node
    value_cells: Node
    key_rotation: Node | None
    value_rotation: Node | None
    states: Node | None  # numbers of the sequences' states
    other_states: Node | None


def _inputs(shape: Shape, run: Run, host: int, *, states: bool) -> _Inputs:
    rotation = shape.head_size % ROTATED == 0 and run.kv_type not in ("f32", "f16", "bf16")
    block = math.gcd(shape.head_size, 1 << 30)  # the largest power of two in it
    rows = Node((run.sequences,), size=I32, device=host)
    return _Inputs(
        position=Node((run.tokens * POSITIONS,), size=I32, device=host),
        mask=Node((run.cells, run.tokens), size=F16, device=host),
        key_cells=Node((run.tokens,), size=I64, device=host),
        value_cells=Node((run.tokens,), size=I64, device=host),
        key_rotation=Node((block, block), device=host) if rotation else None,
        value_rotation=Node((ROTATED, ROTATED), device=host) if rotation else None,
        states=view(rows, run.sequences) if states else None,
        other_states=view(rows, 0) if states else None,
    )


def _rotate(x: Node, rotation: Node) -> Node:
    block = rotation.shape[0]
    flat = view(x, block, math.prod(x.shape) // block)
    return view(new(*flat.shape, of=(rotation, flat)), *x.shape)


def _attention(
    graph: Graph, shape: Shape, run: Run, site: _Site, inputs: _Inputs, x: Node, *, side_by_side: bool
) -> Node:
    tokens, size, product = run.tokens, shape.head_size, site.mixer.product
    query_and_gate = product(2 * size * shape.heads, tokens, of=(x,))
    key = product(size * shape.kv_heads, tokens, of=(x,))
    value = product(size * shape.kv_heads, tokens, of=(x,))
    if side_by_side:
        for result in (query_and_gate, key, value):
            graph.add(result)
    query = site.norm(view(query_and_gate, size, shape.heads, tokens))
    key = site.norm(view(key, size, shape.kv_heads, tokens))
    gate = new(size * shape.heads, tokens, of=(view(query_and_gate, size, shape.heads, tokens),))
    value = view(value, size, shape.kv_heads, tokens)
    query, key = same(query, inputs.position), same(key, inputs.position)
    if inputs.key_rotation is not None:
        query, key = _rotate(query, inputs.key_rotation), _rotate(key, inputs.key_rotation)
    if inputs.value_rotation is not None:
        value = _rotate(value, inputs.value_rotation)
    for projected in (query, value, key):
        graph.add(projected)
    graph.add(store(view(key, size * shape.kv_heads, tokens), inputs.key_cells, on=site.mixer.home))
    graph.add(store(view(value, size * shape.kv_heads, tokens), inputs.value_cells, on=site.mixer.home))
    seen = view(view(query, size, shape.heads, tokens), size, tokens, shape.heads)
    attended = new(size, shape.heads, tokens, of=(seen, *_cached(shape, run, site), inputs.mask))
    if run.kv_type not in ("f16", "f32"):
        attended.work = 2 * F16 * run.cells * shape.kv_heads * size  # the cache as a GPU may take it
    result = graph.add(view(attended, size * shape.heads, tokens))
    if inputs.value_rotation is not None:
        result = _rotate(result, inputs.value_rotation)
    return product(shape.embedding, tokens, of=(same(result, same(gate)),))


def _cached(shape: Shape, run: Run, site: _Site) -> list[Node]:
    """Return keys and values as attention reads them, if they take memory beside the cache, or may be copied."""
    floats = run.cells * shape.kv_heads * shape.head_size
    caches = [Node((0,)), Node((0,))]  # stand for the caches
    if site.reads_elsewhere:
        caches = [part_of_outside(row_bytes(run.kv_type, floats), site.mixer.home) for _ in range(2)]
    if run.kv_type == "f32":  # attention reads F16
        return [new(shape.head_size, run.cells, shape.kv_heads, of=(cache,), size=F16) for cache in caches]
    return caches if site.reads_elsewhere else []


def _with_states(graph: Graph, site: _Site, inputs: _Inputs, result: Node) -> Node:
    """Add what reads the states of the sequences, and the copying of others, of which there are none here."""
    assert inputs.other_states is not None
    graph.nodes.append(store(on=site.mixer.home))  # clears a state that begins
    graph.add(result)
    graph.add(store(new(0, of=(inputs.other_states,)), on=site.mixer.home))
    return result


def _gathered(graph: Graph, run: Run, site: _Site, inputs: _Inputs, floats: int) -> Node:
    assert inputs.states is not None
    return _with_states(graph, site, inputs, new(floats, run.sequences, of=(inputs.states,)))


def _convolution(
    graph: Graph, shape: Shape, run: Run, site: _Site, inputs: _Inputs, mixed: Node, *, in_place: bool
) -> Node:
    channels, each, past = mixed.shape[0], run.tokens // run.sequences, shape.conv_state // mixed.shape[0]
    if in_place:
        assert inputs.states is not None
        result = new(channels, run.tokens, of=(mixed, inputs.states), on=site.mixer.home)
        result.host_only = True
        return _with_states(graph, site, inputs, result)
    states = view(_gathered(graph, run, site, inputs, shape.conv_state), past, channels, run.sequences)
    transposed = view(mixed, each, channels, run.sequences)
    window = new(past + each, channels, run.sequences, of=(states, transposed))
    span = window.n_bytes // F32
    for _ in range(run.snapshots):
        graph.add(store(view(window, past, channels, run.sequences, span=span), on=site.mixer.home))
    return same(site.mixer.product(channels, each, run.sequences, of=(window,)))


def _delta_net(graph: Graph, shape: Shape, run: Run, site: _Site, inputs: _Inputs, x: Node) -> Node:
    tokens, each, sequences, product = run.tokens, run.tokens // run.sequences, run.sequences, site.mixer.product
    in_place = run.patched and sequences == 1 and site.on_host  # of memory that the processor reads
    channels, heads = 2 * shape.keys + shape.values, shape.value_heads
    size = shape.values // heads
    key_heads = shape.keys // size
    mixed = view(product(channels, tokens, of=(x,)), channels, each, sequences)
    z, beta, alpha = (product(width, tokens, of=(x,)) for width in (shape.values, heads, heads))
    if run.patched:
        for result in (mixed, z, beta, alpha):
            graph.add(result)
    beta = same(view(beta, 1, heads, each, sequences))
    gate = same(site.mixer.scaled(view(alpha, heads, each, sequences)))
    gate = view(site.mixer.scaled(gate), 1, heads, each, sequences)
    state = None
    if run.patched and not in_place:
        state = _gathered(graph, run, site, inputs, shape.state)
    convolved = _convolution(graph, shape, run, site, inputs, mixed, in_place=in_place)
    if not run.patched:
        state = _gathered(graph, run, site, inputs, shape.state)
    query, key = (same(same(view(convolved, size, key_heads, each, sequences))) for _ in range(2))
    operands = (query, key, view(convolved, size, heads, each, sequences), gate, beta)
    if state is None:
        assert inputs.states is not None
        output = new(shape.values, tokens, of=(*operands, inputs.states))
        output.host_only = True
        output = view(_with_states(graph, site, inputs, output), size, heads, each, sequences)
    else:
        state = view(state, size, size, heads, sequences)
        floats = shape.values * tokens + run.snapshots * shape.state * sequences
        both = new(floats, of=(*operands, state))
        output = view(both, size, heads, each, sequences)
        graph.add(store(view(both, shape.state, sequences, run.snapshots), on=site.mixer.home))
    output = same(site.norm(output), same(view(z, size, heads, each, sequences)))
    mixed = product(shape.embedding, tokens, of=(view(output, shape.values, each, sequences),))
    return view(mixed, shape.embedding, tokens)


def _feed_forward(width: int, shape: Shape, run: Run, part: _Part, x: Node) -> Node:
    up, gate = part.product(width, run.tokens, of=(x,)), part.product(width, run.tokens, of=(x,))
    return part.product(shape.embedding, run.tokens, of=(new(width, run.tokens, of=(gate, up)),))


def _experts(graph: Graph, shape: Shape, run: Run, site: _Site, x: Node) -> Node:
    tokens, used, width = run.tokens, shape.experts_used, shape.expert_feed_forward
    product = site.feed_forward.product
    chances = same(site.mixer.product(shape.experts, tokens, of=(x,)))
    chosen = new(shape.experts, tokens, of=(chances,), size=I32)
    chosen = view(chosen, used, tokens, span=shape.experts * (tokens - 1) + used)
    weights = new(1, used, tokens, of=(view(chances, 1, shape.experts, tokens), chosen))
    weights = view(weights, used, tokens)
    weights = view(same(weights, same(new(1, tokens, of=(weights,)))), 1, used, tokens)
    graph.add(weights)
    each = view(x, shape.embedding, 1, tokens)
    if shape.merged_experts:
        both = product(2 * width, used, tokens, of=(each, chosen))
        gate, up = view(both, width, used, tokens), view(both, width, used, tokens)
    else:
        gate, up = (product(width, used, tokens, of=(each, chosen)) for _ in range(2))
    down = product(shape.embedding, used, tokens, of=(new(width, used, tokens, of=(gate, up)), chosen))
    weighted = graph.add(same(down, weights))
    parts = [graph.add(view(weighted, shape.embedding, tokens)) for _ in range(used)]
    total = parts[0]
    for part in parts[1:]:
        total = graph.add(same(total, part))
    if not shape.shared_feed_forward:
        return total
    shared = _feed_forward(shape.shared_feed_forward, shape, run, site.mixer, x)
    return same(total, same(shared, same(site.mixer.product(1, tokens, of=(x,)))))


def _block(graph: Graph, shape: Shape, run: Run, site: _Site, residual: Node, mixed: Node) -> Node:
    """Add the residual, and what follows the mixing of tokens: norm, feed-forward, residual."""
    x = same(mixed, residual)
    normed = site.norm(x)
    if shape.experts:
        return same(_experts(graph, shape, run, site, normed), x)
    return same(_feed_forward(shape.feed_forward, shape, run, site.feed_forward, normed), x)


def trunk_graph(shape: Shape, run: Run, layout: Layout) -> Graph:
    """Build the graph of the layers without the MTP block."""
    graph, host = Graph(), layout.host
    inputs = _inputs(shape, run, host, states=True)
    sites = _sites(run, layout)
    words = Node((run.tokens,), size=I32, device=host)
    hidden = graph.add(new(shape.embedding, run.tokens, of=(words,), on=host))
    graph.add(Node((shape.embedding, run.tokens), device=host))  # embeddings of images; placed though there are none
    rows = Node((run.outputs,), size=I32, device=host)
    for recurrent, site in zip(shape.recurrent, sites, strict=False):
        normed = graph.add(site.norm(hidden))
        if recurrent:
            mixed = _delta_net(graph, shape, run, site, inputs, normed)
        else:
            mixed = _attention(graph, shape, run, site, inputs, normed, side_by_side=run.patched)
        hidden = _block(graph, shape, run, site, hidden, mixed)
    final = _output(run.tokens, layout).scaled(same(hidden))
    chosen = new(shape.embedding, run.outputs, of=(final, rows))
    logits = _output(run.outputs, layout).product(shape.vocabulary, run.outputs, of=(chosen,))
    for result in (final, chosen, logits):
        result.kept = True
    graph.add(logits)
    return graph


def mtp_graph(shape: Shape, run: Run, layout: Layout) -> Graph:
    """Build the graph of the MTP block."""
    graph, host = Graph(), layout.host
    inputs = _inputs(shape, run, host, states=False)
    sites = _sites(run, layout)
    site = sites[-1]
    words = Node((run.tokens,), size=I32, device=host)
    embedded = new(shape.embedding, run.tokens, of=(words,), on=host)
    hidden = Node((shape.embedding, run.tokens), device=host)
    rows = Node((run.outputs,), size=I32, device=host)
    # the norm of the hidden state comes second in the concatenation
    joined = new(2 * shape.embedding, run.tokens, of=(site.norm(embedded), site.norm(hidden)))
    x = site.mixer.product(shape.embedding, run.tokens, of=(joined,))
    mixed = _attention(graph, shape, run, site, inputs, site.norm(x), side_by_side=False)
    final = site.mixer.scaled(same(_block(graph, shape, run, site, x, mixed)))
    chosen = new(shape.embedding, run.outputs, of=(final, rows))
    if shape.draft_vocabulary < shape.vocabulary:
        first = part_of_outside(layout.draft_weights, layout.output)  # does not decide the device, as weights do
        logits = new(shape.draft_vocabulary, run.outputs, of=(first, chosen))
        others = same(Node((shape.vocabulary - shape.draft_vocabulary, run.outputs)))
        logits = new(shape.vocabulary, run.outputs, of=(logits, others))
    else:
        logits = _output(run.outputs, layout).product(shape.vocabulary, run.outputs, of=(chosen,))
    final.kept = logits.kept = True
    graph.add(logits)
    return graph


def _sizes(graph: Graph, layout: Layout) -> tuple[int, ...]:
    if layout.gpus:
        schedule(graph, layout.host, layout.copies)
    gpus = {number for number, gpu in enumerate(layout.gpus) if gpu}
    for node in graph.nodes:
        if node.work and node.device not in gpus:
            node.work = 0
    if not layout.gpus:
        return (buffer_size(graph),)
    return tuple(buffer_sizes(graph, [GPU_ALIGNMENT] * layout.host + [CPU_ALIGNMENT]))


@functools.lru_cache(maxsize=4096)
def trunk_sizes(shape: Shape, run: Run, layout: Layout) -> tuple[int, ...]:
    """Bytes of each device's buffer for the trunk's activations, the host's last."""
    return _sizes(trunk_graph(shape, run, layout), layout)


@functools.lru_cache(maxsize=4096)
def mtp_sizes(shape: Shape, run: Run, layout: Layout) -> tuple[int, ...]:
    """Bytes of each device's buffer for the MTP block's activations, the host's last."""
    return _sizes(mtp_graph(shape, run, layout), layout)


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


def trunk_bytes(shape: Shape, run: Run) -> int:
    """Bytes of the buffer for the trunk's activations, all of them on the host."""
    return trunk_sizes(shape, run, on_host(shape))[0]


def mtp_bytes(shape: Shape, run: Run) -> int:
    """Bytes of the buffer for the MTP block's activations, all of them on the host."""
    return mtp_sizes(shape, run, on_host(shape))[0]
