"""The constant tensors of an ONNX graph: which are parameters, and which only say how."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import FormatError
from ..names import clean
from ..schema import Arg, Kind
from .onnx_functions import Call, captured, domain, free_names
from .onnx_operators import role, says_how
from .onnx_proto import MAX_LITERAL, dtype, facts, graphs, literal, values
from .onnx_scopes import join, path_in_name

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto, TensorProto

_DOTTED = re.compile(r"\w+(\.\w+)*\.[A-Za-z_]\w*", re.ASCII)
_KINDS: dict[str, Kind] = {"parameter": "parameter", "buffer": "buffer", "constant": "constant"}


@dataclass(slots=True)
class Tensor:
    """A constant tensor: an initializer, or what a Constant node makes.

    `call` is that node. `roles` says what the ops that read it take it for (`role`), and `reader`
    is the first of them; `needed` that one of them takes it as a tensor, and not as a literal.
    """

    name: str
    dims: tuple[int, ...]
    dtype: str
    told: dict[str, str]
    literal: Arg = None
    call: Call | None = None
    nnz: int | None = None
    roles: set[str] = field(default_factory=set)
    reader: Call | None = None
    needed: bool = False

    @property
    def kind(self) -> Kind | None:
        """What the tensor is; None for one that nothing reads and that is no weight."""
        if (kind := _KINDS.get(self.told.get("kind", ""))) is not None:
            return kind
        is_learned = self.dtype.startswith(("float", "bfloat", "complex")) or "weight" in self.roles
        if self.call is not None or not self.dims or 0 in self.dims or "state" in self.roles:
            is_learned = False
        if is_learned:
            return "buffer" if self.roles == {"statistic"} else "parameter"
        if not self.needed:
            return None
        return "buffer" if self.roles == {"statistic"} and self.dims else "constant"

    @property
    def path(self) -> str | None:
        """The module in the tensor's own name, None where that has none."""
        if "/" in self.name:
            return path_in_name(self.name)
        return self.name.rpartition(".")[0] if _DOTTED.fullmatch(self.name) else None

    @property
    def target(self) -> str:
        """The tensor's name in the model, with dots."""
        if "/" not in self.name:
            return self.name
        return join(path_in_name(self.name), self.name.rpartition("/")[2])


class Constants:
    """The constants of one graph by name, in the order of the file, and the nodes beside them."""

    def __init__(self, graph: GraphProto, calls: Sequence[Call]) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.rest: list[Call] = []
        for proto in graph.initializer:
            self._add(_dense(proto))
        for sparse in graph.sparse_initializer:
            self._add(_sparse(sparse))
        for call in calls:
            if _is_constant(call.node):
                self._add(_of_node(call))
            else:
                self.rest.append(call)
        for info in graph.output:
            if info.name in self.tensors:
                self.tensors[info.name].needed = True

    def _add(self, tensor: Tensor) -> None:
        if tensor.name in self.tensors:
            raise FormatError(
                f"the value {clean(tensor.name)!r} is given twice",
                hint="every value of a graph has a name of its own",
            )
        self.tensors[tensor.name] = tensor

    def find_uses(
        self, calls: Iterable[Call], operands: Callable[[NodeProto], Iterable[tuple[str, str]]]
    ) -> None:
        """Note who reads each constant, and as what; `operands` names the operands of a node."""
        for call in calls:
            op = short_name(call.node)
            for operand, name in operands(call.node):
                tensor = self.tensors.get(name)
                if tensor is not None:
                    tensor.reader = tensor.reader or call
                    if self.as_literal(op, operand, name) is None:
                        tensor.needed = True
                        tensor.roles.add(role(op, operand))
            for name in captured(call.node):
                if name in self.tensors:
                    self.tensors[name].needed = True
                    self.tensors[name].reader = self.tensors[name].reader or call

    def as_literal(self, op: str, operand: str, name: str) -> Arg:
        """Return the value of a constant that an op takes as a literal, None for a tensor."""
        tensor = self.tensors.get(name)
        if tensor is None or tensor.literal is None or "id" in tensor.told:
            return None
        return tensor.literal if not tensor.dims or says_how(op, operand) else None


def hand_down(
    graph: GraphProto, nodes: Iterable[NodeProto], around: Mapping[str, TensorProto] | None = None
) -> None:
    """Give the bodies among `nodes` the small constants that they read of the graphs around them.

    Inference does not look for values outside of a body, and what says how an op works should
    be a literal there too.
    """
    known = {**(around or {}), **{t.name: t for t in graph.initializer if _has_data(t)}}
    for node in nodes:
        if _is_constant(node):
            held = next(
                (a.t for a in node.attribute if a.name == "value" and a.HasField("t")), None
            )
            if held is not None and _has_data(held):
                known[node.output[0]] = held
        for attribute in node.attribute:
            for body in graphs(attribute):
                for name in free_names(body):
                    if name in known:
                        copy = body.initializer.add()
                        copy.CopyFrom(known[name])
                        copy.name = name
                hand_down(body, body.node, known)


def _has_data(tensor: TensorProto) -> bool:
    return values(tensor) is not None


def short_name(node: NodeProto) -> str:
    """Return an operator with its domain, unless that is ONNX's own.

    >>> from onnx import NodeProto
    >>> short_name(NodeProto(op_type="Relu")), short_name(NodeProto(op_type="F", domain="a.b"))
    ('Relu', 'a.b.F')
    """
    return f"{domain(node.domain)}.{node.op_type}".lstrip(".")


def _is_constant(node: NodeProto) -> bool:
    return node.op_type == "Constant" and not domain(node.domain) and len(node.output) == 1


def _dense(proto: TensorProto) -> Tensor:
    return Tensor(
        proto.name, tuple(proto.dims), dtype(proto.data_type), facts(proto), values(proto)
    )


def _sparse(proto: Any) -> Tensor:
    """Return a sparse tensor; torchatlas writes an empty one for a weight without its values."""
    stored = proto.values.dims[0] if len(proto.values.dims) == 1 else None
    told = facts(proto.values)
    nnz = None if "id" in told or stored is None or stored < 0 else stored
    name = proto.values.name
    return Tensor(name, tuple(proto.dims), dtype(proto.values.data_type), told, nnz=nnz)


_SINGLE = {"value_float": "float32", "value_int": "int64", "value_string": "string"}


def _of_node(call: Call) -> Tensor:
    node = call.node
    name, told = node.output[0], {k: v for k, v in facts(node).items() if k != "id"}
    for attribute in node.attribute:
        if attribute.name == "value" and attribute.HasField("t"):
            found = _dense(attribute.t)
            return Tensor(name, found.dims, found.dtype, told, found.literal, call)
        if attribute.name == "sparse_value":
            sparse = _sparse(attribute.sparse_tensor)
            return Tensor(name, sparse.dims, sparse.dtype, told, None, call, sparse.nnz)
        if attribute.name in _SINGLE:
            return Tensor(name, (), _SINGLE[attribute.name], told, literal(attribute), call)
        if (kind := _SINGLE.get(attribute.name.removesuffix("s"))) is not None:
            items = len(attribute.floats) or len(attribute.ints) or len(attribute.strings)
            value = literal(attribute) if items <= MAX_LITERAL else None
            return Tensor(name, (items,), kind, told, value, call)
    return Tensor(name, (0,), "unknown", told, None, call)
