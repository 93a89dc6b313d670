"""What a front end yields: plain records, in the order of execution."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Union

from .schema import Arg, Dim, Kind, Module, Phase, TensorMeta


class Value(NamedTuple):
    """A tensor in a record's arguments: an output of the record called `key`."""

    key: str
    output: int = 0


RecordArg = Union[Arg, Value, tuple["RecordArg", ...], Mapping[str, "RecordArg"]]  # noqa: UP007


@dataclass
class OpRecord:
    """One input, parameter, op or output, as a front end saw it.

    `key` is the front end's own name, unique among its records, and what a `Value` refers to.
    `storages` identifies the memory behind each output: outputs that share memory (a view and
    its base, an in-place op and its operand) have equal entries; None means memory of its own.
    `writes` names the arguments that the op writes in place. `subgraphs` holds the records of the
    bodies that a control flow op runs, by name (`true`, `body`): complete in themselves, with
    records of their own for inputs and outputs, and keys unique within each body. An input that
    stands for an argument of the op is called by its path (target ``operands/0``). `trips` is how
    often the op runs its bodies, which only a loop does more than once; None where the values of
    tensors decide. `links` leads from a node key such as ``gradient_of`` to the key of the record
    that it names, `saved` has the indices of the outputs that autograd keeps, and `frees` the
    storages that nobody held any more when the op had run and the next one had not, where a front
    end saw that.
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
    subgraphs: dict[str, list[OpRecord]] = field(default_factory=dict)
    trips: Dim | None = 1
    links: dict[str, str] = field(default_factory=dict)
    saved: tuple[int, ...] = ()
    frees: tuple[Hashable, ...] = ()
    like: str = ""
    """The key of an earlier record with equal arguments and outputs, but for who made them."""


def copy(record: OpRecord) -> OpRecord:
    """Return a record with the same content: many times faster than `dataclasses.replace`."""
    made = object.__new__(OpRecord)
    made.__dict__.update(record.__dict__)
    return made


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


def with_bodies(records: Iterable[OpRecord]) -> Iterator[OpRecord]:
    """Yield `records` and, after each one, those of the bodies that it runs, however deep.

    >>> body = [OpRecord("mul", "op")]
    >>> [record.key for record in with_bodies([OpRecord("scan", "op", subgraphs={"body": body})])]
    ['scan', 'mul']
    """
    for record in records:
        yield record
        for body in record.subgraphs.values():
            yield from with_bodies(body)
