"""The boxes of a picture: one for every module, nested as the modules are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from ..names import UniqueNames, op_leaf
from ..schema import Module
from .dot_quoting import Block, quote
from .nesting import BODY

Node = Mapping[str, Any]
Place = tuple[str, ...]
"""Where a node is drawn: the paths of the modules around it, from the outermost inwards."""

FONT = quote("Helvetica,Arial,sans-serif")
INK, LINE, FAINT = quote("#1b1f24"), quote("#57606a"), quote("#b8bfc7")
MIDDLE_DOT = " \N{MIDDLE DOT} "


class Boxes:
    """Makes a box for every module that holds several ops, nested as the modules are.

    A module that only calls one op needs no box: its name goes into the op's title. Nor does a
    ``relu`` that a block calls twice, whose box would pull the two calls together.
    """

    def __init__(
        self,
        picture: Block,
        nodes: Mapping[str, Node],
        hosts: Mapping[str, str],
        facts: Mapping[Place, str],
    ) -> None:
        self._nodes, self._hosts, self._guests = nodes, hosts, Counter(hosts.values())
        self._facts = facts
        self._made: dict[Place | str, Block] = {(): picture}
        self._names = UniqueNames()
        self._types: dict[Place, str] = {}
        self._ops: dict[Place, set[tuple[str, str]]] = {}
        for node in nodes.values():
            for module, place in zip(_modules(node), places(node), strict=True):
                self._types[place] = module.type.rpartition(".")[2]
                ops = self._ops.setdefault(place, set())
                if node["kind"] == "op":
                    ops.add((node["module"], node["op"]))

    def place(self, name: str) -> tuple[Block, str]:
        """Return the box in which a node stands, and the title that it bears there."""
        node, host = self._nodes[name], self._hosts[name]
        around = places(self._nodes[host])
        place = next((p for p in reversed(around) if len(self._ops[p]) > 1 or BODY in p[-1]), ())
        if node["kind"] == "op":
            leaf, joint = op_leaf(node["op"]), MIDDLE_DOT
        else:
            leaf, joint = name.rpartition("/")[2], "."
            if node["kind"] == "output" and "gradient_of" in node:
                leaf = f"gradient of {node['gradient_of']}"
        inner = "" if node["module"] in place else _below(node["module"], place)
        title = leaf if inner in ("", leaf) else f"{inner}{joint}{leaf}"
        return self._with_weights(host, place), title

    def _with_weights(self, host: str, place: Place) -> Block:
        # Without a box of their own, unseen, the weights of one op mix with those of others.
        if self._guests[host] < 2:
            return self._module(place)
        if host not in self._made:
            look = {"label": quote(""), "peripheries": quote("0"), "margin": quote("4")}
            self._made[host] = self._add(self._module(place), host, look)
        return self._made[host]

    def _module(self, place: Place) -> Block:
        if place not in self._made:
            name = _below(place[-1], place[:-1]).rpartition(BODY)[2]
            title = MIDDLE_DOT.join(short(part) for part in (name, self._types[place]) if part)
            lines = [line for line in (title, self._facts.get(place, "")) if line]
            look = {
                "label": quote(*lines, left=True),
                "labeljust": quote("l"), "fontname": FONT, "fontsize": quote("10"),
                "fontcolor": LINE, "color": FAINT, "style": quote("rounded,filled"),
                "fillcolor": quote("#f3f5f8" if len(place) % 2 else "#ffffff"),
                "margin": quote("10"),
            }  # fmt: skip
            self._made[place] = self._add(self._module(place[:-1]), place[-1], look)
        return self._made[place]

    def _add(self, outer: Block, name: str, look: dict[str, str]) -> Block:
        return outer.block(f'"{self._names.take(quote(f"cluster_{name}")[1:-1])}"', look)


def _modules(node: Node) -> tuple[Module, ...]:
    """Return what is around `node`: its part of a training step, and its modules but the root."""
    phase = node.get("phase", "forward")
    step = () if phase == "forward" else (Module(f"{BODY}{phase}", ""),)
    return (*step, *node.get("module_stack", ())[1:])


def places(node: Node) -> list[Place]:
    """Return the place of every module around `node`, from the outermost."""
    paths = tuple(module.path for module in _modules(node))
    return [paths[: depth + 1] for depth in range(len(paths))]


def short(text: str) -> str:
    """Cut a title in the middle."""
    return text if len(text) <= 60 else f"{text[:29]}…{text[-30:]}"


def _below(path: str, place: Place) -> str:
    """Return `path` as it reads inside the module of `place`.

    >>> _below("layer1.0.conv1", ("layer1", "layer1.0")), _below("fc", ())
    ('conv1', 'fc')
    """
    outer = next((module for module in reversed(place) if BODY not in module), "")
    if path == outer:
        return ""
    return path.removeprefix(f"{outer}.") if outer else path
