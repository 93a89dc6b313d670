"""Examples of every kind: objects that torch cannot take apart, and what is no input at all."""

from __future__ import annotations

import collections
import enum

import pytest
import torch
from torch import nn

import torchatlas as ta
from extras import BOTH, ids, package
from torchatlas.errors import CaptureError, InputError
from torchatlas.frontends import opaque, torch_api
from torchatlas.graph import op_nodes


class Memory:
    """A cache as anybody might write it, with a module and a list inside."""

    __slots__ = ("entries", "last", "owner", "seen")

    def __init__(self, *entries: torch.Tensor) -> None:
        self.entries = dict(enumerate(entries))
        self.owner, self.seen, self.last = nn.Linear(2, 2), [], None


class Remembers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x, memory):
        memory.seen.append(len(memory.entries))
        memory.entries[len(memory.entries)] = x
        memory.last = self.inner(sum(memory.entries.values()))
        return memory.last, memory


X = torch.randn(2, 4)


@BOTH
def test_any_object_with_tensors_inside(frontend):
    memory = Memory(torch.randn(2, 4), torch.randn(2, 4))
    graph = ta.capture(Remembers(), (X, memory), frontend=frontend)
    assert ids(graph, "input") == ["x", "memory/entries/0", "memory/entries/1"]
    assert ids(graph, "output") == [
        "output/0",
        *(f"output/1/entries/{i}" for i in range(3)),
        "output/1/last",
    ]
    assert memory.seen == [] and memory.last is None and len(memory.entries) == 2
    empty = Memory()
    assert ids(ta.capture(Remembers(), (X, empty), frontend=frontend), "input") == ["x"]
    assert (empty.seen, empty.entries) == ([], {})


def test_packing_and_back():
    memory = Memory(X)
    pair = collections.namedtuple("pair", "left right")
    tree = {"a": [memory, 1], "b": pair(collections.UserDict(y=X + 1), None), "c": (X,)}
    plain, way = opaque.pack(tree)
    assert plain["a"][0] == {"entries": {"0": X}} and plain["c"] is tree["c"]
    assert plain["b"] == {"left": {"y": plain["b"]["left"]["y"]}, "right": None}
    back = opaque.unpack(plain, way)
    assert back["a"][0] is not memory and back["a"][0].entries[0] is X
    assert back["a"][0].owner is memory.owner  # a module is not copied
    assert type(back["b"]) is pair and list(back["b"].left) == ["y"]
    assert opaque.pack([X, {"k": 1}]) == ([X, {"k": 1}], None)


def test_objects_that_contain_themselves():
    memory = Memory(X)
    memory.last = [memory]
    plain, way = opaque.pack(memory)
    back = opaque.unpack(plain, way)
    assert back.last[0] is back and back is not memory


class Locked(Memory):
    def __deepcopy__(self, memo):
        raise TypeError("not today")


@pytest.mark.parametrize(
    ("example", "message"),
    [
        ((X, Locked(X)), r"a Locked with tensors inside cannot be copied(.|\n)*not today"),
        ((X, {X}), "the tensors of a set have no order"),
        ((X, (tensor for tensor in [X])), "a generator (.*), which can be read only once"),
    ],
)
def test_objects_that_are_refused(example, message):
    with pytest.raises(InputError, match=message):
        ta.capture(Remembers(), example)


class Kind(enum.Enum):
    ONE = 1


class Takes(nn.Module):
    def forward(self, x, other):
        return other(x) if callable(other) else x + 1


@BOTH
@pytest.mark.parametrize(
    "other",
    [
        torch.float64,
        torch.device("cpu"),
        Kind.ONE,
        torch.Size([2]),
        slice(2),
        nn.Linear(4, 2),
        None,
    ],
    ids=str,
)
def test_arguments_that_hold_no_tensor(frontend, other):
    graph = ta.capture(Takes(), (X, other), frontend=frontend)
    assert len(list(op_nodes(graph))) == 1


@BOTH
def test_a_named_tuple_is_one_argument(frontend):
    pair = collections.namedtuple("pair", "left right")

    def forward(both):
        return pair(both.left + both.right, both.left)

    graph = ta.capture(forward, pair(X, X + 1), frontend=frontend)
    assert ids(graph, "input", "output") == [
        *("both/left", "both/right"),
        *("output/left", "output/right"),
    ]
    assert ids(ta.capture(torch.add, pair(X, X), frontend=frontend), "op") == ["add"]


# -- odd inputs --------------------------------------------------------------------------------


def picture():
    return package("PIL.Image").new("RGB", (4, 4))


@pytest.mark.parametrize(
    ("example", "hint"),
    [
        (lambda: X.numpy(), "'input' is a numpy.ndarray, no tensor: pass torch.from_numpy"),
        (picture, "'input' is a PIL.Image, no tensor: pass what the model's preprocessing"),
        (lambda: [1.0, 2.0], "the example holds no tensor: pass torch.tensor"),
        (lambda: "text", "the example holds no tensor"),
        (lambda: X.to("meta"), "the example lies on meta and the model on cpu: move one"),
        (lambda: None, r"it takes forward\(input\)"),
    ],
    ids=["numpy", "picture", "numbers", "text", "device", "nothing"],
)
def test_examples_that_are_no_input(example, hint):
    for frontend in ("trace", "export"):
        with pytest.raises(InputError, match=f"hint: (.|\n)*{hint}"):
            ta.capture(nn.Linear(4, 5), example(), frontend=frontend)


@BOTH
def test_nothing_to_compute_with(frontend):
    graph = ta.capture(nn.Conv2d(3, 4, 3), torch.zeros(0, 3, 8, 8), frontend=frontend)
    assert ta.totals(graph).macs == 0
    assert graph.nodes["conv2d"]["outputs"][0].shape == (0, 4, 6, 6)


def test_a_model_that_leaves_torch():
    class Leaves(nn.Module):
        def forward(self, x):
            return torch.from_numpy(x.numpy())

    with pytest.raises(CaptureError, match="hint: the model leaves torch for numpy") as caught:
        ta.capture(Leaves(), torch_api.fake_mode().from_tensor(X), frontend="trace")
    assert not isinstance(caught.value, InputError)
