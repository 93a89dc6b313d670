"""The texts inside a `.pt2` archive, typed: schema 8 of torch's export, written by torch 2.8 on.

Fields that nothing here needs are skipped, as those that a later torch adds; wrong types are
refused by name.
"""

from __future__ import annotations

import json
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from ..errors import FormatError
from .archive_file import Texts

NEWEST_SCHEMA = 8
"""The newest major version of torch's schema that is known."""

Int = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Float = float | str
"""Infinities and NaN stand as text."""


# -- sizes and tensors -------------------------------------------------------------------------


class Hint(Struct):
    """The value that a symbolic number had in the example."""

    as_int: Int | UnsetType = UNSET


class Expression(Struct):
    """A symbolic number, as text."""

    expr_str: str
    hint: Hint | None = None


class SymNumber(Struct):
    """An integer, float or bool, symbolic or not."""

    as_expr: Expression | UnsetType = UNSET
    as_int: Int | UnsetType = UNSET
    as_float: Float | UnsetType = UNSET
    as_bool: bool | UnsetType = UNSET


class Device(Struct):
    """Where a tensor lies."""

    type: str
    index: Int | None = None


class Tensor(Struct):
    """A tensor without its values; `dtype` and `layout` are numbers of torch's enumerations."""

    dtype: Int
    sizes: list[SymNumber]
    device: Device
    strides: list[SymNumber]
    storage_offset: SymNumber
    layout: Int


# -- arguments ---------------------------------------------------------------------------------


class Name(Struct):
    """Refers to a tensor, a token or an object by its name."""

    name: str


class SymArgument(Struct):
    """A number: by the name of the node that computes it, or itself."""

    as_name: str | UnsetType = UNSET
    as_int: Int | UnsetType = UNSET
    as_float: Float | UnsetType = UNSET
    as_bool: bool | UnsetType = UNSET


class OptionalTensor(Struct):
    """A tensor or nothing."""

    as_tensor: Name | UnsetType = UNSET
    as_none: bool | UnsetType = UNSET


class Complex(Struct):
    """A complex number."""

    real: Float
    imag: Float


class Subgraph(Struct):
    """A graph that is an argument of a control flow operator, or of a region."""

    name: str
    graph: Graph


class Argument(Struct):
    """One value in one of the kinds that torch has; exactly one field is set."""

    as_none: bool | UnsetType = UNSET
    as_tensor: Name | UnsetType = UNSET
    as_tensors: list[Name] | UnsetType = UNSET
    as_int: Int | UnsetType = UNSET
    as_ints: list[Int] | UnsetType = UNSET
    as_float: Float | UnsetType = UNSET
    as_floats: list[Float] | UnsetType = UNSET
    as_string: str | UnsetType = UNSET
    as_strings: list[str] | UnsetType = UNSET
    as_sym_int: SymArgument | UnsetType = UNSET
    as_sym_ints: list[SymArgument] | UnsetType = UNSET
    as_scalar_type: Int | UnsetType = UNSET
    as_memory_format: Int | UnsetType = UNSET
    as_layout: Int | UnsetType = UNSET
    as_device: Device | UnsetType = UNSET
    as_bool: bool | UnsetType = UNSET
    as_bools: list[bool] | UnsetType = UNSET
    as_sym_bool: SymArgument | UnsetType = UNSET
    as_sym_bools: list[SymArgument] | UnsetType = UNSET
    as_graph: Subgraph | UnsetType = UNSET
    as_optional_tensors: list[OptionalTensor] | UnsetType = UNSET
    as_custom_obj: Name | UnsetType = UNSET
    as_operator: str | UnsetType = UNSET
    as_sym_float: SymArgument | UnsetType = UNSET
    as_sym_floats: list[SymArgument] | UnsetType = UNSET
    as_optional_tensor: OptionalTensor | UnsetType = UNSET
    as_complex: Complex | UnsetType = UNSET
    as_nested_tensors: list[list[Name]] | UnsetType = UNSET
    as_int_lists: list[list[Int]] | UnsetType = UNSET
    as_string_to_argument: dict[str, Argument] | UnsetType = UNSET
    as_float_lists: list[list[Float]] | UnsetType = UNSET


POSITIONAL = 1  # the kind of an argument that is given by position


class NamedArgument(Struct):
    """An argument of a call, by its name in the operator's schema where that has one."""

    name: str
    arg: Argument
    kind: Int | None = None


# -- graphs ------------------------------------------------------------------------------------


class Node(Struct):
    """A call; outputs are the names of what it produces."""

    target: str
    inputs: list[NamedArgument]
    outputs: list[Argument]
    metadata: dict[str, str]
    name: str | None = None


class Graph(Struct):
    """Nodes in the order of execution, and what is known of the values they produce."""

    inputs: list[Argument]
    outputs: list[Argument]
    nodes: list[Node]
    tensor_values: dict[str, Tensor]
    sym_int_values: dict[str, SymNumber]
    sym_bool_values: dict[str, SymNumber]
    sym_float_values: dict[str, SymNumber] = {}


class UserInput(Struct):
    """An argument of the model."""

    arg: Argument


class ConstantInput(Struct):
    """An argument of the model that was no tensor; `value` has the kind that it had."""

    name: str
    value: Argument


class Parameter(Struct):
    """A parameter, by its name in the graph and its path in the model."""

    arg: Name
    parameter_name: str


class Buffer(Struct):
    """A buffer."""

    arg: Name
    buffer_name: str


class TensorConstant(Struct):
    """A tensor that the model made of a literal, or holds as a plain attribute."""

    arg: Name
    tensor_constant_name: str


class CustomObject(Struct):
    """An object that is no tensor."""

    arg: Name
    custom_obj_name: str


class Token(Struct):
    """Orders calls that have effects."""

    arg: Name


class InputSpec(Struct):
    """What an input of the graph stands for; exactly one field is set."""

    user_input: UserInput | UnsetType = UNSET
    parameter: Parameter | UnsetType = UNSET
    buffer: Buffer | UnsetType = UNSET
    tensor_constant: TensorConstant | UnsetType = UNSET
    custom_obj: CustomObject | UnsetType = UNSET
    token: Token | UnsetType = UNSET
    constant_input: ConstantInput | UnsetType = UNSET


class Mutation(Struct):
    """An output that is the new value, or the gradient, of something that has a name."""

    parameter_name: str = ""
    buffer_name: str = ""
    user_input_name: str = ""


class OutputSpec(Struct):
    """What an output of the graph stands for; exactly one field is set."""

    user_output: UserInput | UnsetType = UNSET
    loss_output: Mutation | UnsetType = UNSET
    buffer_mutation: Mutation | UnsetType = UNSET
    gradient_to_parameter: Mutation | UnsetType = UNSET
    gradient_to_user_input: Mutation | UnsetType = UNSET
    user_input_mutation: Mutation | UnsetType = UNSET
    token: Mutation | UnsetType = UNSET
    parameter_mutation: Mutation | UnsetType = UNSET


class Signature(Struct):
    """What the inputs and outputs of the graph stand for, one after the other."""

    input_specs: list[InputSpec]
    output_specs: list[OutputSpec]


class CallSignature(Struct):
    """The structure of what a module takes and returns, each as JSON inside the JSON."""

    in_spec: str
    out_spec: str
    forward_arg_names: list[str] | None = None


class Call(Struct):
    """A module; only the root, whose path is empty, has a signature."""

    fqn: str
    signature: CallSignature | None = None


class NamedTuple(Struct):
    """The fields of a named tuple."""

    field_names: list[str]


class GraphModule(Struct):
    """A graph with what its inputs and outputs stand for."""

    graph: Graph
    signature: Signature
    module_call_graph: list[Call]
    treespec_namedtuple_fields: dict[str, NamedTuple] = {}


class Range(Struct):
    """The least and the largest value of a symbol."""

    min_val: Int | None
    max_val: Int | None


class Version(Struct):
    """The version of torch's schema."""

    major: Int


class Program(Struct):
    """An exported program."""

    graph_module: GraphModule
    range_constraints: dict[str, Range]
    schema_version: Version
    torch_version: str = ""
    guards_code: list[str] = []


class Payload(Struct):
    """Where the values of a tensor are stored."""

    path_name: str
    tensor_meta: Tensor | None = None


class Payloads(Struct):
    """Where the values of each tensor are stored, by its path in the model."""

    config: dict[str, Payload]


class TreeSpec(Struct):
    """The structure of a value: the type of a container, what it says of itself, its children."""

    type: str | None
    context: Any
    children_spec: list[TreeSpec]


# -- reading -----------------------------------------------------------------------------------

_HINT = "the file is damaged or forged, or made by another version of torch than 2.8 to 2.15"


def decode(texts: Texts, name: str) -> tuple[Program, dict[str, Payload], dict[str, Payload]]:
    """Return the program, and where the values of its state and of its constants are stored.

    Raises FormatError, which names the field, for anything that torch does not write.
    """
    program = _decode(texts.program, Program, name, "model")
    major = program.schema_version.major
    if major > NEWEST_SCHEMA:
        raise FormatError(
            f"{name} has version {major} of torch's schema; {NEWEST_SCHEMA} is the newest known",
            hint="trust=True reads it with the torch that is installed, if you trust the file",
        )
    weights = _payloads(texts.weights, name, "weights")
    constants = _payloads(texts.constants, name, "constants")
    return program, weights, constants


def _payloads(content: bytes | None, name: str, what: str) -> dict[str, Payload]:
    return {} if content is None else _decode(content, Payloads, name, what).config


def _decode(content: bytes, kind: Any, name: str, what: str) -> Any:
    try:
        found = msgspec.json.decode(content, type=kind)
        json.loads(content, object_pairs_hook=_refuse_duplicates)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise FormatError(
            f"{name}: its {what} is no text of torch's schema: {reason[:300]}", hint=_HINT
        ) from error
    return found


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> None:
    if len({key for key, _ in pairs}) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice[:80]!r} stands twice in one object")


def only(union: Struct, where: str) -> tuple[str, Any]:
    """Return the one field of `union` that is set, and its value.

    Raises FormatError where none is, or several: a kind that a later torch added, or a forgery.
    """
    given = [
        (key, value)
        for key in union.__struct_fields__
        if (value := getattr(union, key)) is not UNSET
    ]
    if len(given) != 1:
        raise FormatError(
            f"{where} has {len(given)} kinds of value that are known, not one",
            hint="a later torch may have written it: trust=True reads it with the one installed",
        )
    return given[0]
