"""What a front end yields: plain records, in the order of execution."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Union

from .schema import Arg, Kind, Module, Phase, TensorMeta


class Value(NamedTuple):
    """A tensor in a record's arguments: an output of the record called `key`."""

    key: str
    output: int = 0


RecordArg = Union[Arg, Value, tuple["RecordArg", ...], Mapping[str, "RecordArg"]]  # noqa: UP007


@dataclass(slots=True)
class OpRecord:
    """One input, parameter, op or output, as a front end saw it.

    `key` is the front end's own name, unique among its records, and what a `Value` refers to.
    `storages` identifies the memory behind each output: outputs that share memory (a view and
    its base, an in-place op and its operand) have equal entries; None means memory of its own.
    `writes` names the arguments that the op writes in place.
    """

    key: str
    kind: Kind
    op: str = ""
    overload: str = ""
    target: str = ""
    args: dict[str, RecordArg] = field(default_factory=dict)
    outputs: tuple[TensorMeta | None, ...] = ()
    storages: tuple[Hashable | None, ...] = ()
    stack: tuple[Module, ...] = ()
    writes: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    source: str = ""
    phase: Phase = "forward"


def values(arg: RecordArg, path: str) -> Iterator[tuple[str, Value]]:
    """Yield every `Value` inside `arg` with its path.

    >>> list(values((Value("a"), 1, Value("b")), "tensors"))
    [('tensors.0', Value(key='a', output=0)), ('tensors.2', Value(key='b', output=0))]
    """
    if isinstance(arg, Value):
        yield path, arg
    elif isinstance(arg, tuple):
        for i, item in enumerate(arg):
            yield from values(item, f"{path}.{i}")
    elif isinstance(arg, Mapping):
        for key, item in arg.items():
            yield from values(item, f"{path}.{key}")


def map_values(arg: RecordArg, change: Callable[[Value], Any]) -> Any:
    """Return `arg` with every `Value` replaced by what `change` makes of it.

    >>> map_values((Value("a"), {"k": 1}), lambda value: value.key)
    ('a', {'k': 1})
    """
    if isinstance(arg, Value):
        return change(arg)
    if isinstance(arg, tuple):
        return tuple(map_values(item, change) for item in arg)
    if isinstance(arg, Mapping):
        return {key: map_values(item, change) for key, item in arg.items()}
    return arg
