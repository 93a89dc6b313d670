"""Control flow operators: what their bodies are called, what goes into them, how often they run.

Nothing here needs torch: arguments are those of records, however a front end came by them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from ..names import clean, op_leaf
from ..records import OpRecord, RecordArg, Value, values
from ..schema import Dim, TensorMeta

# -- bodies ------------------------------------------------------------------------------------

_BODIES = {
    "block_mask": "mask_mod",
    "callable": "body",
    "f": "body",
    "fn": "body",
    "func": "body",
    "function": "body",
    "gm": "body",
    "gmod": "body",
    "subgraph": "body",
    "wrapped_fn": "body",
}
"""Arguments whose name does not tell what their graph is."""


_PLACE = "<graph>"
"""Stands for a graph inside an argument that holds something else as well."""


class Bodies(NamedTuple):
    """The graphs among the arguments of an op, by name, and the other arguments."""

    graphs: dict[str, Any]
    args: dict[str, Any]


def take_bodies(named: Mapping[str, Any], is_graph: Callable[[Any], bool]) -> Bodies:
    """Take the graphs out of the arguments of an op.

    Arguments after the last one with a name, which torch counts, are together the `operands`.

    >>> take_bodies({"pred": 1, "true_fn": "G", "false_fn": "G", "2": 7}, lambda arg: arg == "G")
    Bodies(graphs={'true': 'G', 'false': 'G'}, args={'pred': 1, 'operands': (7,)})
    """
    graphs: dict[str, Any] = {}
    args: dict[str, Any] = {}
    for argument, value in named.items():
        if is_graph(value):
            graphs[_body_name(argument)] = value
        elif isinstance(value, list | tuple) and any(map(is_graph, value)):
            rest = _without(value, argument, graphs, is_graph)
            args.update({argument: rest} if any(item != _PLACE for item in rest) else {})
        else:
            args[argument] = value
    rest = tuple(args.pop(name) for name in list(args) if name.isdecimal())
    if graphs and rest:
        args["operands"] = rest
    return Bodies(graphs, args if graphs else dict(named))


def _body_name(argument: str) -> str:
    return _BODIES.get(argument) or clean(argument.removesuffix("_fn").removesuffix("_graph"))


def _without(
    value: Sequence[Any], argument: str, graphs: dict[str, Any], is_graph: Callable[[Any], bool]
) -> tuple[Any, ...]:
    found = [item for item in value if is_graph(item)]
    name = _body_name(argument)
    names = [f"{name.removesuffix('es')}_{i}" for i in range(len(found))]  # branches
    graphs.update(zip(names if len(found) > 1 else [name], found, strict=True))
    return tuple(_PLACE if is_graph(item) else item for item in value)


# -- what goes into a body ---------------------------------------------------------------------

_SCORE = ("score", "b", "h", "q_idx", "kv_idx")
_ELEMENTS = frozenset({*_SCORE, "grad_score"})
"""Inputs of flex attention's functions, which are no argument of the op."""

_SLICED = {"left": "xs", "right": "xs", "xs": "xs"}
"""Inputs that are one slice of an argument, and the argument."""

_CARRIED = frozenset({"carried_inputs", "init"})
"""Arguments that a body gets in its first run only."""

_LOOP: dict[str, tuple[str, ...]] = {"": ("carried_inputs", "additional_inputs")}
_SCORE_MOD = (*_SCORE, "score_mod_other_buffers")
_MASK_MOD = (*_SCORE[1:], "mask_mod_other_buffers")

_INPUTS: dict[str, dict[str, tuple[str, ...]]] = {
    "associative_scan": {"": ("left", "right", "additional_inputs")},
    "cond": {"": ("operands",)},
    "flex_attention": {"score_mod": _SCORE_MOD, "mask_mod": _MASK_MOD},
    "flex_attention_backward": {
        "fw": _SCORE_MOD,
        "joint": (*_SCORE, "grad_score", "score_mod_other_buffers"),
        "mask_mod": _MASK_MOD,
    },
    "hints_wrapper": {"": ("args",)},
    "map_impl": {"": ("xs", "pos_args")},
    "scan": {"": ("init", "xs", "additional_inputs")},
    "switch": {"": ("operands",)},
    "while_loop": _LOOP,
    "while_loop_stack_output": _LOOP,
}
"""Op, and body ("" for every one), to the arguments that its inputs stand for, in order."""


How = Literal["whole", "slice", "carried", "element"]


class Input(NamedTuple):
    """An input of a body.

    `name` is the path of the argument that it stands for, if any, and `given` what stands there.
    `how` says what the body gets of it: the ``whole``, one ``slice``, or with ``carried`` another
    value in every run, of which it is the first.
    """

    name: str
    given: Any = None
    how: How = "element"


def body_inputs(
    op: str, body: str, args: Mapping[str, RecordArg], count: int | None = None
) -> list[Input]:
    """Return what the inputs of a body of `op` stand for; `count` tells how many there are.

    >>> args = {"init": (Value("h"),), "xs": (Value("x"),), "additional_inputs": (Value("w"),)}
    >>> [(i.name, i.how) for i in body_inputs("higher_order.scan", "combine", args, 3)]
    [('init/0', 'carried'), ('xs/0', 'slice'), ('additional_inputs/0', 'whole')]
    """
    found = [item for group in _groups(op, body) for item in _items(group, args)]
    last, known = last_argument(op, body), len(found)
    if count is None:
        return found
    if known > count or (known == 0 and last not in args):  # an op that nobody knows
        return [Input(f"input/{i}") for i in range(count)]
    # Tensors that the body takes from around it come after the operands.
    more = len([item for item in found if item.name.partition("/")[0] == last])
    return [*found, *(Input(f"{last}/{more + i}") for i in range(count - known))]


def _groups(op: str, body: str) -> tuple[str, ...]:
    forms = _INPUTS.get(op_leaf(op), {}) if op.startswith("higher_order.") else {}
    return forms.get(body) or forms.get("", ("operands",))


def last_argument(op: str, body: str) -> str:
    """Return the argument of `op` to which the tensors belong that a body takes from around it."""
    return _groups(op, body)[-1]


def _items(group: str, args: Mapping[str, RecordArg]) -> Iterator[Input]:
    if group in _ELEMENTS:
        yield Input(group)
        return
    how: How = "carried" if group in _CARRIED else "slice" if group in _SLICED else "whole"
    for path, leaf in _leaves(args.get(_SLICED.get(group, group), ()), group):
        yield Input(path, leaf, how)


def _leaves(arg: RecordArg, path: str) -> Iterator[tuple[str, RecordArg]]:
    if isinstance(arg, list | tuple) and not isinstance(arg, Value):
        for i, item in enumerate(arg):
            yield from _leaves(item, f"{path}/{i}")
    elif isinstance(arg, Mapping):
        for key, item in arg.items():
            yield from _leaves(item, f"{path}/{key}")
    else:
        yield path, arg


# -- how often a body runs ---------------------------------------------------------------------


def trips(
    op: str, args: Mapping[str, RecordArg], meta: Callable[[Value], TensorMeta | None]
) -> Dim | None:
    """Return how often `op` runs its bodies, None where the values of tensors decide.

    Of n items an associative scan combines neighbours n - 1 times, as the shortest way does; the
    parallel algorithm, which takes fewer steps one after the other, may do up to twice as much.

    >>> x = TensorMeta((5, 8))
    >>> [trips(f"higher_order.{op}", {"xs": (Value("x"),)}, lambda value: x)
    ...  for op in ("scan", "associative_scan", "while_loop", "cond")]
    [5, 4, None, 1]
    """
    leaf = op_leaf(op)
    if not op.startswith("higher_order.") or leaf not in _COUNTED:
        return 1
    if leaf.startswith("while_loop"):
        return None
    first = next((value for _, value in values(args.get("xs"), "xs")), None)
    scanned = None if first is None else meta(first)
    if scanned is None or not scanned.shape:
        return None
    steps = scanned.shape[0]
    return steps - 1 if leaf == "associative_scan" else steps


_COUNTED = frozenset(
    {"associative_scan", "map_impl", "scan", "while_loop", "while_loop_stack_output"}
)


# -- what a body writes ------------------------------------------------------------------------


def written(bodies: Mapping[str, Sequence[OpRecord]]) -> tuple[str, ...]:
    """Return the paths of the arguments whose memory one of the `bodies` writes in place."""
    found: dict[str, None] = {}
    for records in bodies.values():
        inputs = {
            storage: record.target.replace("/", ".")
            for record in records
            if record.kind == "input"
            for storage in record.storages
            if storage is not None
        }
        behind = {
            Value(record.key, i): storage
            for record in records
            for i, storage in enumerate(record.storages)
        }
        for record in records:
            for value in _written_values(record):
                name = inputs.get(behind.get(value))
                if name is not None:
                    found[name] = None
    return tuple(found)


def _written_values(record: OpRecord) -> Iterator[Value]:
    for name, arg in record.args.items() if record.writes else ():
        for path, value in values(arg, name):
            if path in record.writes or name in record.writes:
                yield value
