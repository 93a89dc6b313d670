"""What the nodes of a training step have to do with each other beside the data that flows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import getitem

from torch import fx

from ..records import OpRecord


def link(records: Sequence[OpRecord], program: fx.Graph) -> None:
    """Write what the metadata of `program` says of its nodes into their records.

    An op that a checkpoint runs again gets a link to the forward op it repeats, a backward op
    one to the op it differentiates, and each stands under the module of that; an op that adds to
    a parameter's gradient gets a link to the parameter. What autograd or a checkpoint keeps of
    the forward pass is marked as `saved`: where the metadata says so, and what such ops read.
    What memory is given back when stands in `frees`.
    """
    by_key = {record.key: record for record in records}
    _link_recomputed(records, program)
    for node in program.nodes:
        record = by_key.get(node.name)
        for key in ("recomputes", "differentiates", "gradient_of"):
            other = node.meta.get(key)
            if record is not None and other is not None and other.name in by_key:
                record.links[key] = other.name
                if key != "gradient_of":
                    origin = by_key[other.name]
                    record.stack, record.source = origin.stack, origin.source
        if node.meta.get("again") or node.meta.get("differentiates"):
            for operand in filter(_is_forward, node.all_input_nodes):
                operand.meta["saved"] = True
    last = None
    for node in program.nodes:
        if node.meta.get("saved"):
            _mark(node, by_key)
        last = by_key.get(node.name, last)  # what noise gives back goes with the op before it
        if last is not None and last.kind == "op":
            last.frees += tuple(("memory", number) for number in node.meta.get("frees", ()))


def _is_forward(node: fx.Node) -> bool:
    if node.target is getitem and isinstance(node.args[0], fx.Node):
        node = node.args[0]
    return node.meta.get("phase") == "forward"


def _mark(node: fx.Node, by_key: Mapping[str, OpRecord]) -> None:
    output = 0
    while node.name not in by_key:  # one of several results, or noise that hands its operand on
        source = node.args[0] if node.args else None
        if not isinstance(source, fx.Node):
            return
        if node.target is getitem:
            output = int(node.args[1])  # type: ignore[arg-type]
        node = source
    record = by_key[node.name]
    record.saved = tuple(sorted({*record.saved, output}))


# -- what a checkpoint runs again ----------------------------------------------------------


def _link_recomputed(records: Sequence[OpRecord], program: fx.Graph) -> None:
    """Write into the metadata of each op that runs again which op it repeats.

    A checkpoint runs ops again in their order, the last part of the model first.
    """
    nodes = {node.name: node for node in program.nodes}
    ops = [record for record in records if record.kind == "op"]
    forward = [op for op in ops if op.phase == "forward"]
    repeated: set[str] = set()
    for stretch in _stretches(ops, nodes):
        found = [start for start in range(len(forward)) if forward[start].key not in repeated]
        pairs: list[tuple[OpRecord, OpRecord]] = []
        for start in reversed(found):
            if not _alike(stretch[0], forward[start]):
                continue
            candidate = list(_pairs(stretch, forward[start:]))
            if len(candidate) > len(pairs):
                pairs = candidate
            if len(pairs) == len(stretch):
                break
        for again, before in pairs:
            nodes[again.key].meta["recomputes"] = nodes[before.key]
            repeated.add(before.key)


def _stretches(ops: Iterable[OpRecord], nodes: Mapping[str, fx.Node]) -> Iterator[list[OpRecord]]:
    """Yield the ops that run again, those that follow each other together."""
    stretch: list[OpRecord] = []
    for op in ops:
        if nodes[op.key].meta.get("again"):
            stretch.append(op)
        elif stretch:
            yield stretch
            stretch = []


def _pairs(
    stretch: Iterable[OpRecord], forward: Iterable[OpRecord]
) -> Iterator[tuple[OpRecord, OpRecord]]:
    waiting = iter(forward)
    before = next(waiting, None)
    for again in stretch:
        if before is not None and _alike(again, before):
            yield again, before
            before = next(waiting, None)


def _alike(again: OpRecord, before: OpRecord) -> bool:
    same = (again.op, again.overload, again.source) == (before.op, before.overload, before.source)
    # The modules around a checkpoint are not running any more: there may be none but the root.
    return same and (len(again.stack) <= 1 or again.stack[-1] == before.stack[-1])


# -- parameters ----------------------------------------------------------------------------


def link_gradients(
    records: Iterable[OpRecord], gradients: Mapping[str, str], states: Mapping[str, str]
) -> None:
    """Link every parameter to its gradient, and back, and the state of an optimizer to its own.

    `gradients` leads from the keys of outputs, `states` from those of buffers, to the keys of
    parameters.
    """
    by_key = {record.key: record for record in records}
    for output, parameter in gradients.items():
        by_key[output].links["gradient_of"] = parameter
        by_key[output].phase = "backward"
        by_key[parameter].links["gradient"] = output
    for state, parameter in states.items():
        by_key[state].links["state_of"] = parameter
