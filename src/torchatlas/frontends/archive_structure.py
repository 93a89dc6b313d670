"""What a `.pt2` archive says of a model's structure: modules, and what it takes and returns."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import msgspec

from ..schema import Module
from . import archive_format as form

Path = tuple[str, ...]
"""The keys that lead to one leaf of what a model takes or returns."""


# -- modules -----------------------------------------------------------------------------------

_ENTRY = re.compile(r";(?=L__self__|L\['self'\])")
_SELF = re.compile(r"^L\['self'\]|^L__self__")
_BRACKETS = re.compile(r"\._modules\['([^']*)'\]")


@lru_cache(maxsize=65536)
def stack_of_text(text: str) -> tuple[Module, ...]:
    """Return the modules around a node, from the root inwards.

    Each is written ``key,path,class``, where a path in a hostile model may hold commas too: the
    key has as many.

    >>> stack_of_text("L__self__,,app.Net;L__self__layers_0,layers.0,torch.nn.Linear")
    (Module(path='', type='app.Net'), Module(path='layers.0', type='torch.nn.Linear'))
    """
    return tuple(map(_module, _ENTRY.split(text))) if text else ()


def stack_inside(text: str, outside: tuple[Module, ...]) -> tuple[Module, ...]:
    """Return the modules around a node of a control flow operator's body, from the root inwards.

    `outside` are those around the operator. Torch's compiler has modules in bodies by numbers,
    and leaves out most of them.
    """
    found = list(outside)
    for entry in text.split(";") if text else ():
        module = _module(entry)
        if module not in found and not module.path.startswith("L["):
            found.append(module)
    return tuple(found)


def _module(entry: str) -> Module:
    names, _, kind = entry.rpartition(",")
    parts = names.split(",")
    path = ",".join(parts[(len(parts) + 1) // 2 :])
    plain = _BRACKETS.sub(r".\1", "." + _SELF.sub("", path)).strip(".")
    plain = plain.removeprefix("_export_root").removeprefix(".")
    return Module(plain.partition("@")[0], kind)


def stack_of(target: str, types: Mapping[str, str]) -> tuple[Module, ...]:
    """Return the modules around the parameter `target`, from the root inwards.

    >>> [module.path for module in stack_of("a.b.weight", {})]
    ['', 'a', 'a.b']
    """
    parts = target.split(".")[:-1]
    paths = ["", *(".".join(parts[: i + 1]) for i in range(len(parts)))]
    return tuple(Module(path, types.get(path, "")) for path in paths)


# -- what goes in and out ----------------------------------------------------------------------


def input_names(
    placeholders: Sequence[str],
    signature: form.CallSignature | None,
    module: form.GraphModule,
) -> dict[str, str]:
    """Return the names of a model's inputs: the argument, and the keys that lead into it."""
    if signature is None:
        return {}
    paths = _paths(signature.in_spec, module)
    if len(paths) != len(placeholders) or not all(len(path) > 1 for path in paths):
        return {}
    positional = signature.forward_arg_names or []
    return {
        name: _input_name(name, path, positional)
        for name, path in zip(placeholders, paths, strict=True)
    }


def _input_name(placeholder: str, path: Path, positional: Sequence[str]) -> str:
    """Name an input; `path` begins with 0 and the position, or with 1 and the name."""
    nested = path[2:]
    if path[0] == "1":
        argument = path[1]
    elif path[1].isdecimal() and int(path[1]) < len(positional):
        argument = positional[int(path[1])]
    else:
        argument = placeholder.removesuffix("_" + "_".join(nested)) if nested else placeholder
    return "/".join([argument, *(part.replace("/", "%2F") for part in nested)])


def output_paths(
    count: int, signature: form.CallSignature | None, module: form.GraphModule
) -> list[Path]:
    """Return the keys that lead to each of the `count` leaves of what a model returns."""
    paths = _paths(signature.out_spec, module) if signature is not None else []
    if len(paths) != count:
        return [()] if count == 1 else [(str(i),) for i in range(count)]
    return paths


def _paths(text: str, module: form.GraphModule) -> list[Path]:
    """Return the keys that lead to each leaf of a structure; none where it cannot be read."""
    try:
        _, spec = msgspec.json.decode(text, type=tuple[int, form.TreeSpec])
        return list(_leaves(spec, (), module))
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return []


def _leaves(spec: form.TreeSpec, before: Path, module: form.GraphModule) -> Iterator[Path]:
    if spec.type is None:
        yield before
        return
    for key, child in zip(_keys(spec, module), spec.children_spec, strict=True):
        yield from _leaves(child, (*before, key), module)


def _keys(spec: form.TreeSpec, module: form.GraphModule) -> list[str]:
    """Return the keys of a container's children: names, where it says any, or else positions."""
    count = len(spec.children_spec)
    names = _context(spec.context, module)
    if isinstance(names, list) and names and isinstance(names[0], list):
        names = names[0]  # a dataclass: the fields that have values, then those that have none
    if isinstance(names, list) and len(names) == count:
        return [str(name) for name in names]
    return [str(i) for i in range(count)]


def _context(context: Any, module: form.GraphModule) -> Any:
    """Return what a container says of itself; a text may be JSON once more."""
    if isinstance(context, Mapping):
        return context.get("dict_context")
    if not isinstance(context, str):
        return context
    if context in module.treespec_namedtuple_fields:
        return module.treespec_namedtuple_fields[context].field_names
    try:
        return json.loads(context)
    except ValueError:
        return None
