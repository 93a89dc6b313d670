"""Which module a node of an ONNX file belongs to, by what its exporter wrote."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..graph import clean_path
from ..names import clean
from ..schema import Module
from .onnx_proto import facts

if TYPE_CHECKING:
    from .onnx_functions import Call, Frame

MAX_DEPTH = 64
"""Modules in each other that a path may have; a longer one counts as none."""

_MAX_TEXT = 20_000
_SCOPES = "pkg.torch.onnx.name_scopes"
_CLASSES = "pkg.torch.onnx.class_hierarchy"


@dataclass
class Scopes:
    """Gives nodes their modules, and collects the class of every module by its path.

    `own` says that torchatlas wrote the file: each node then has its module in its metadata.
    Other files say it in one of three ways: ``torch.onnx`` in the metadata of each node
    (`pkg.torch.onnx.name_scopes`, `class_hierarchy`); its predecessor and most other exporters
    in the node's name, ``/layer1/layer1.0/conv1/Conv``; and some by functions, whose calls are
    modules.
    """

    own: bool
    types: dict[str, str] = field(default_factory=dict)
    _stacks: dict[str, tuple[Module, ...]] = field(default_factory=dict)

    def path(self, call: Call) -> str:
        """Return the module that a node belongs to, and note the classes on the way."""
        outside = ""
        for frame in call.frames:
            outside = join(self._path(frame.node, outside), clean(_leaf(frame)))
            self.types.setdefault(outside, clean(frame.function))
        path = self._path(call.node, outside)
        return path if path.count(".") < MAX_DEPTH else ""

    def _path(self, node: Any, outside: str) -> str:
        found = facts(node)
        if self.own and "id" in found:
            return self.told(found)
        if _SCOPES in found:
            return self._of_torch(found)
        name = node.name or next((output for output in node.output if "/" in output), "")
        return join(outside, "" if self.own else path_in_name(name))

    def told(self, found: Mapping[str, str]) -> str:
        """Return the module in the metadata that torchatlas writes."""
        path = found.get("module", "")
        if path.count(".") >= MAX_DEPTH:
            return ""
        self.types[clean_path(path)] = clean(found.get("module_type", ""))
        return path

    def _of_torch(self, found: Mapping[str, str]) -> str:
        """Return the module in the metadata that `torch.onnx` writes; the last entry is the op."""
        paths, classes = texts(found[_SCOPES]), texts(found.get(_CLASSES, "[]"))
        if any(path.count(".") >= MAX_DEPTH for path in paths[:-1]) or len(paths) > MAX_DEPTH:
            return ""
        for path, kind in zip(paths[:-1], classes[:-1], strict=False):
            self.types.setdefault(clean_path(path), clean(kind))
        return paths[-2] if len(paths) > 1 else ""

    def stack(self, path: str) -> tuple[Module, ...]:
        """Return the modules from the root to `path`; ask when all nodes' paths were asked for."""
        if path not in self._stacks:
            self._stacks[path] = self._stack(path)
        return self._stacks[path]

    def _stack(self, path: str) -> tuple[Module, ...]:
        parts = path.split(".") if path else []
        paths = ["", *(".".join(parts[: i + 1]) for i in range(len(parts)))]
        return tuple(Module(path, self.types.get(clean_path(path), "")) for path in paths)


def _leaf(frame: Frame) -> str:
    return frame.name.rpartition("/")[2].replace(".", "_") or "function"


def join(path: str, inner: str) -> str:
    """Join two dotted paths.

    >>> join("", "a.b"), join("a", "b"), join("a", "")
    ('a.b', 'a.b', 'a')
    """
    return f"{path}.{inner}" if path and inner else path or inner


def path_in_name(name: str) -> str:
    """Return the module path in a name with slashes; its last part is what stands there.

    TorchScript's exporter repeats the path of a container in front of the index of its child.

    >>> path_in_name("/layer1/layer1.0/conv1/Conv"), path_in_name("model/dense/MatMul")
    ('layer1.0.conv1', 'model.dense')
    >>> path_in_name("/encoder/layers.0/Add"), path_in_name("Conv_12")
    ('encoder.layers.0', '')
    """
    path, before = "", ""
    parts = [part for part in name.split("/")[:-1] if part]
    if len(parts) > MAX_DEPTH:
        return ""
    for part in parts:
        own = part.removeprefix(f"{before}.") if before else part
        before = part
        path = join(path, ".".join(filter(None, own.split("."))))
    return path if path.count(".") < MAX_DEPTH else ""


def texts(text: str) -> list[str]:
    """Return the list of strings that a metadata entry spells out; empty for anything else.

    >>> texts("['', 'layer1']"), texts("__import__('os').system('true')")
    (['', 'layer1'], [])
    """
    if len(text) > _MAX_TEXT:
        return []
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return []
    is_list = isinstance(found, list) and all(isinstance(item, str) for item in found)
    return found if is_list else []
