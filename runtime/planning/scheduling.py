"""How ggml divides a graph among devices: who computes what, and which tensors are copied for that.

What has a weight or writes to a cache is computed where that is, and inputs are on the host. From there assignments
spread to what is computed before and after, those to devices first. Then the graph falls into splits, runs of
operations on one device. A tensor of another device is copied before the first split that needs it; all splits of
that device share the copy.

Source: llama.cpp of llama-cpp-python 0.3.36, ggml/src/ggml-backend.cpp (ggml_backend_sched_split_graph).
"""

from __future__ import annotations

from collections.abc import Iterable

from qwen35_gguf.runtime.planning.allocation import ANYWHERE, Graph, Node, store


def schedule(graph: Graph, host: int, copies: int = 1) -> None:
    """Give every tensor of a graph a device, and insert the copies that pass between them.

    Args:
        graph: is changed. Its tensors have the device that their weights or their cache decide; inputs have the host.
        host: its number; the other devices have smaller ones.
        copies: of each tensor that passes, more than one if devices compute several calls at once.

    """
    _assign(graph, host)
    _copy(graph, host, copies)


def _assign(graph: Graph, host: int) -> None:
    order = [node for node in graph.nodes if node.root is None]
    for skipped in (host, ANYWHERE):
        for nodes in (order, order[::-1]):
            _spread(nodes, host, skipped)
    for node in order:
        if node.device == ANYWHERE:
            node.device = host
    for node in graph.nodes:
        for tensor in (node, *node.parents):
            if tensor.device == ANYWHERE:
                tensor.device = node.device if tensor.root is None else tensor.root.device


def _spread(nodes: Iterable[Node], host: int, skipped: int) -> None:
    """Assign what has no device to that of the one before, if it is not `skipped`."""
    current = ANYWHERE
    for node in nodes:
        if node.device != ANYWHERE:
            current = ANYWHERE if node.device == skipped else node.device
        elif current != ANYWHERE and (current == host or not node.host_only):
            node.device = current


def _copy(graph: Graph, host: int, copies: int) -> None:
    """Start a split at each change of device, and at a weight from elsewhere, so that copies of weights are short."""
    copied: dict[tuple[Node, int], Node] = {}
    inputs = [tensor for tensor in graph.inputs if tensor.device == host]
    result: list[Node] = []
    start, current, fresh = 0, ANYWHERE, True  # of the split: where it starts, its device, nothing copied for it yet
    for node in graph.nodes:
        if node.root is not None:
            result.append(node)
            continue
        foreign = [parent for parent in node.parents if parent.device != node.device]
        weight = not fresh and any(parent.outside and not parent.parents for parent in foreign)
        if node.device != current or weight:
            start, current, fresh = len(result), node.device, True
        for parent in foreign:
            if (parent, current) not in copied:
                copy = Node(parent.shape, device=current)
                copy.n_bytes = parent.n_bytes
                copied[parent, current] = copy
                before = [store(parent, on=parent.device)]  # so that the tensor is there until it is copied
                if copies == 1:
                    before.append(copy)
                else:
                    graph.inputs.extend([copy, *(_spare(copy) for _ in range(copies - 1))])
                    copy.kept = True
                result[start:start] = before
                start, fresh = start + len(before), False
        if foreign:
            node.parents = tuple(copied.get((parent, current), parent) for parent in node.parents)
        result.append(node)
    graph.nodes = result
    if copies > 1:
        for tensor in inputs:
            tensor.kept = True
            graph.inputs.extend(_spare(tensor) for _ in range(copies - 1))


def _spare(tensor: Node) -> Node:
    spare = Node(tensor.shape, device=tensor.device)
    spare.n_bytes = tensor.n_bytes
    return spare
