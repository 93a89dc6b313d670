"""`.pt2` archives: the same graph as from the program in memory, and nothing in the file runs."""

from __future__ import annotations

import collections
import copy
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

import models
import symbolic_models
import torchatlas as ta
from torchatlas.errors import AtlasError, FormatError
from torchatlas.expressions import symbol
from torchatlas.frontends import archive_ops, archive_sizes, archive_strides, fx_graph, metadata

# -- the same graph as from the program ----------------------------------------------------------

ABSENT = {"module_type", "module_stack"}
"""Keys with classes of modules; a file only has those of modules in which an op runs."""

MEMORY = {"storages", "tags", "cost_source", "first_use", "last_use", "live_bytes"}
"""Keys that follow from who shares memory. Torch 2.11 thinks of a dropout outside training as a
copy, which it is not, and the file does not say: a reader knows better."""


def assert_same(read, expected, leave=frozenset()):
    assert ta.to_text(read) == ta.to_text(expected)
    assert list(read) == list(expected)
    for name, node in expected.nodes(data=True):
        found = read.nodes[name]
        assert found.keys() - leave == node.keys() - leave, name
        for key in node.keys() - leave - ABSENT - {"subgraphs"}:
            assert found[key] == node[key], (name, key)
        assert_same_modules(found["module_stack"], node["module_stack"])
        for body, inner in node.get("subgraphs", {}).items():
            assert_same(found["subgraphs"][body], inner, leave)
    edges = {(u, v): edge for u, v, edge in expected.edges(data=True)}
    assert {(u, v): edge for u, v, edge in read.edges(data=True)} == edges
    for key in ("name", "dropped", "symbols", "constraints", "torch"):
        assert read.graph.get(key) == expected.graph.get(key), key


def assert_same_modules(found, expected):
    assert [module.path for module in found] == [module.path for module in expected]
    for module, other in zip(found, expected, strict=True):
        assert module.type in (other.type, "")


def read(program, path):
    torch.export.save(program, path)
    graph = ta.load(path)
    ta.validate(graph)
    assert graph.graph["frontend"] == "pt2" and graph.source is None
    return graph


LEFT_OUT = {
    "dataclasses": "torch cannot export a dataclass that it does not know",
    # Compared by hand; they have no op that the others lack, and weights of 90 to 350 MB.
    "resnet50": "slow",
    "vit_b_16": "slow",
    "convnextv2_tiny": "slow",
    "tf_efficientnetv2_s": "slow",
    "mobilenet_v3_large": "slow",
    "swin_t": "slow: a smaller one is below",
}
NAMES = [name for name in models.ALL if name not in LEFT_OUT]


@pytest.mark.parametrize("name", NAMES)
def test_same_graph_as_capture_of_the_model(name, tmp_path):
    model, data = models.make(name)
    expected = ta.capture(model, data, frontend="export")
    found = read(expected.source.program, tmp_path / "model.pt2")
    dropout = any("dropout" in node["op"] for _, node in expected.nodes(data=True))
    leave = MEMORY if models.OLD_TORCH and dropout else frozenset()
    assert_same(found, expected, leave)
    if not leave:
        assert ta.totals(found) == ta.totals(expected)
    known = {path: kind for path, kind in found.graph["modules"].items() if kind}
    assert known.items() <= expected.graph["modules"].items()


DYNAMIC = {
    "mlp": {0: {0}},
    "unet": {0: {0, 2, 3}},
    "positions": {0: {0, 1}},
    "attention": {0: {0, 1}},
    "bags": {0: {0, 1}, 1: {0}},
    "swin": {0: {0}},
}


@pytest.mark.parametrize("name", DYNAMIC)
def test_same_symbolic_graph_as_capture_of_the_program(name, tmp_path):
    model, data = symbolic_models.CASES[name].make()
    args = data if isinstance(data, tuple) else (data,)
    args = tuple(
        x.repeat(2, *[1] * (x.dim() - 1)) if 0 in DYNAMIC[name][i] else x
        for i, x in enumerate(args)
    )
    shapes = tuple(
        dict.fromkeys(DYNAMIC[name].get(i, ()), torch.export.Dim.AUTO) for i in range(len(args))
    )
    program = torch.export.export(model, args, dynamic_shapes=shapes)
    expected = ta.capture(program)
    found = read(program, tmp_path / "model.pt2")
    assert expected.graph["symbols"]
    dropout = any("dropout" in node["op"] for _, node in expected.nodes(data=True))
    assert_same(found, expected, MEMORY if models.OLD_TORCH and dropout else frozenset())


class Training(nn.Module):
    """Statistics, an input and a buffer written in place, a buffer that nothing reads."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.register_buffer("unused", torch.zeros(3))
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x):
        self.count.add_(1)
        x.mul_(2)
        return self.norm(x)


class Arguments(nn.Module):
    def forward(self, x, mask=None, *rest, k=3, flag=True, mode="a", **named):
        return x * k + rest[0], named["z"][0], None, k


Pair = collections.namedtuple("Pair", "left right")
torch.utils._pytree._register_namedtuple(Pair, serialized_type_name="test_archive.Pair")


class Structures(nn.Module):
    def forward(self, x):
        ordered = collections.OrderedDict(last=x + 2)
        return {"pair": Pair(x + 1, x * 2), "list": [x, (x - 1,)], "ordered": ordered}


class Values(nn.Module):
    """Sizes and numbers that depend on the values of tensors."""

    def forward(self, x):
        places = x.nonzero()
        count = places.shape[0]
        torch._check(count >= 1)
        return places.reshape(count * 2), places[:, :1].expand(count, 3), x.sum().item()


class Sizes(nn.Module):
    """Views that exist, or not, for symbolic sizes, and numbers computed from sizes."""

    def forward(self, x, n):
        b = x.shape[0]
        views = x.reshape(b * 2, -1), x.t().reshape(-1), x.t().contiguous().view(-1), x[: b // 2]
        return views, torch.full((n, b), 1.0), x.sum() * b / 2, max(b, 4), (b + 1) % 3


class Shared(nn.Module):
    """Buffers on the memory of a parameter, and one tensor under two names."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 4))
        self.register_buffer("part", self.weight.data[:3])
        self.constant = torch.ones(4)
        self.again = self.constant

    def forward(self, x):
        self.part.add_(1)
        return x @ self.weight.t(), self.constant.sum(), self.again.mean()


class Literals(nn.Module):
    def forward(self, x):
        spectrum = torch.fft.rfft(x) * (1 + 2j)
        halves = torch.full_like(x, float("inf"), dtype=torch.float16, device="cpu")
        return torch.view_as_real(spectrum), halves, x.clamp(min=float("-inf"))


class Nested(nn.Module):
    """Regions inside regions, with operators in place."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        with torch.no_grad():
            y = self.layer(x)
            with torch.autocast("cpu", torch.bfloat16):
                z = self.layer(y)
                z.add_(1)
            y.mul_(2)
        return y.view(-1), z


class Branches(nn.Module):
    """A branch and a loop, whose bodies use parameters."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        y = torch.cond(x.sum() > 0, lambda x: self.layer(x), lambda x: x.sin(), (x,))
        loop = torch._higher_order_ops.while_loop
        return loop(lambda i, y: i < 3, lambda i, y: (i + 1, self.layer(y)), (torch.tensor(0), y))


@torch.library.custom_op("test_archive::twice", mutates_args={"into"})
def twice(x: torch.Tensor, into: torch.Tensor) -> torch.Tensor:
    into.add_(x)
    return x * 2


@twice.register_fake
def _(x, into):
    return torch.empty_like(x)


class Custom(nn.Module):
    def forward(self, x):
        into = torch.zeros_like(x)
        return into + torch.ops.test_archive.twice(x, into)


AUTO = torch.export.Dim.AUTO
SPECIAL = {
    "training": lambda: torch.export.export(Training().train(), (torch.randn(3, 4),)),
    "functional": lambda: torch.export.export(
        Training().train(), (torch.randn(3, 4),)
    ).run_decompositions({}),
    "arguments": lambda: torch.export.export(
        Arguments(), (torch.ones(3), None, torch.ones(3)), {"k": 4, "z": [torch.ones(3)]}
    ),
    "structures": lambda: torch.export.export(Structures(), (torch.ones(3),)),
    "values": lambda: torch.export.export(Values(), (torch.ones(3, 4, dtype=torch.int64),)),
    "sizes": lambda: torch.export.export(
        Sizes(), (torch.randn(6, 4), 5), dynamic_shapes=({0: AUTO, 1: AUTO}, AUTO)
    ),
    "shared": lambda: torch.export.export(Shared(), (torch.randn(2, 4),)),
    "literals": lambda: torch.export.export(Literals(), (torch.randn(3, 8),)),
    "nested": lambda: torch.export.export(Nested(), (torch.randn(3, 4),)),
    "branches": lambda: torch.export.export(Branches(), (torch.randn(3, 4),)),
    "custom": lambda: torch.export.export(Custom(), (torch.randn(3),)),
}


@pytest.mark.parametrize("name", SPECIAL)
def test_same_graph_as_capture_of_special_programs(name, tmp_path):
    program = SPECIAL[name]()
    expected = ta.capture(program)
    found = read(program, tmp_path / "model.pt2")
    assert_same(found, expected)
    assert ta.totals(found) == ta.totals(expected)


def test_inputs_have_the_names_of_arguments(tmp_path):
    graph = read(SPECIAL["arguments"](), tmp_path / "model.pt2")
    inputs = [name for name, node in graph.nodes(data=True) if node["kind"] == "input"]
    assert inputs == ["x", "rest_0", "k", "z/0"]


def test_tied_weights_without_values_are_unknown_and_not_invented(tmp_path):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.other = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.other(self.one(x))

    with torch.device("meta"):
        program = torch.export.export(Two(), (torch.ones(2, 4),))
    graph = read(program, tmp_path / "model.pt2")
    assert ta.totals(graph).params == 2 * (4 * 4 + 4)


def test_source_lines_on_request_only_and_without_folders(tmp_path):
    program = torch.export.export(models.Residual(), (torch.ones(3, 4),))
    torch.export.save(program, tmp_path / "model.pt2")
    sources = [
        [node.get("source") for _, node in graph.nodes(data=True) if node["kind"] == "op"]
        for graph in (
            ta.load(tmp_path / "model.pt2"),
            ta.load(tmp_path / "model.pt2", include_source=True),
        )
    ]
    assert sources[0] == [None, None, None]
    assert all(line.startswith("models.py:") for line in sources[1])


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
import torchatlas as ta
for path in sys.argv[1:]:
    print(ta.to_text(ta.load(path)))
    for node in ta.load(path).nodes.values():
        print(node.get("storages"), node.get("writes"), "view" in node.get("tags", ()))
"""


def test_structure_is_read_without_torch(tmp_path):
    paths = []
    for name in ("in_place_views", "regions", "shared_and_tied"):
        model, data = models.make(name)
        paths.append(tmp_path / f"{name}.pt2")
        program = ta.capture(model, data, frontend="export").source.program
        torch.export.save(program, paths[-1])
    for name in ("training", "branches", "sizes", "literals"):
        paths.append(tmp_path / f"{name}.pt2")
        torch.export.save(SPECIAL[name](), paths[-1])
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *map(str, paths)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    expected = ""
    for graph in map(ta.load, paths):
        expected += ta.to_text(graph) + "\n"
        for node in graph.nodes.values():
            view = "view" in node.get("tags", ())
            expected += f"{node.get('storages')} {node.get('writes')} {view}\n"
    assert done.stdout == expected


def test_what_is_known_without_torch_agrees_with_it():
    assert archive_ops.UNDECLARED_WRITES == fx_graph.UNDECLARED_WRITES
    assert archive_strides.RESHAPES == fx_graph.RESHAPES
    for name, arguments in archive_ops.HIGHER_ORDER.items():
        found = metadata.op_info(getattr(torch.ops.higher_order, name)).arguments
        assert found[: len(arguments)] == arguments
    for target in (
        "aten.transpose.int",
        "aten.relu_.default",
        "aten.add.out",
        "aten.chunk.default",
    ):
        registered = archive_ops.operator(f"torch.ops.{target}")
        by_name = archive_ops._by_name(target.split("."))
        assert by_name.writes == registered.writes
        assert by_name.returns == registered.returns


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_strides_of_views_are_those_of_torch(data):
    shape = data.draw(st.lists(st.sampled_from([0, 1, 1, 2, 3, 4]), max_size=4))
    tensor = torch.empty(shape, device="meta").permute(
        data.draw(st.permutations(range(len(shape))))
    )
    for dim in range(tensor.dim()):
        tensor = tensor.narrow(dim, 0, tensor.shape[dim])[:: data.draw(st.sampled_from([1, 1, 2]))]
        tensor = tensor.movedim(0, -1)
    wanted = data.draw(st.lists(st.sampled_from([1, 2, 3, 4, 6, 8]), max_size=4))
    wanted = [*wanted, -1] if tensor.numel() else list(tensor.shape)
    try:
        made = tensor.view(wanted)
    except RuntimeError:
        full = [n if n != -1 else max(tensor.numel(), 1) for n in wanted]
        if torch.Size(full).numel() == tensor.numel():
            assert archive_strides.view_strides(tensor.shape, tensor.stride(), full) is None
    else:
        found = archive_strides.view_strides(tensor.shape, tensor.stride(), made.shape)
        assert found == made.stride()


# -- forged archives -----------------------------------------------------------------------------


def tensor(*sizes, dtype=7):
    made = {"as_int": 1}
    return {
        "dtype": dtype,
        "sizes": [n if isinstance(n, dict) else {"as_int": n} for n in sizes],
        "requires_grad": False,
        "device": {"type": "cpu", "index": None},
        "strides": [made] * len(sizes),
        "storage_offset": {"as_int": 0},
        "layout": 7,
    }


def node(name, target, **inputs):
    return {
        "name": name,
        "target": target,
        "inputs": [{"name": key, "arg": arg, "kind": 1} for key, arg in inputs.items()],
        "outputs": [{"as_tensor": {"name": name}}],
        "metadata": {"nn_module_stack": "L__self__,,app.Net"},
    }


def named(name):
    return {"as_tensor": {"name": name}}


def program(**change):
    """Return the JSON of a program that applies a relu; `change` replaces parts of its graph."""
    graph = {
        "inputs": [named("x")],
        "outputs": [named("relu")],
        "nodes": [node("relu", "torch.ops.aten.relu.default", self=named("x"))],
        "tensor_values": {"x": tensor(4), "relu": tensor(4)},
        "sym_int_values": {},
        "sym_bool_values": {},
        "sym_float_values": {},
        **change,
    }
    return {
        "graph_module": {
            "graph": graph,
            "signature": {
                "input_specs": [{"user_input": {"arg": named("x")}}],
                "output_specs": [{"user_output": {"arg": output}} for output in graph["outputs"]],
            },
            "module_call_graph": [],
        },
        "range_constraints": {},
        "schema_version": {"major": 8, "minor": 20},
        "torch_version": "2.15.0",
        "guards_code": [],
    }


def write(path, content=None, members=(), name="models/model.json", compress=zipfile.ZIP_STORED):
    content = program() if content is None else content
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    with zipfile.ZipFile(path, "w", compress) as file:
        file.writestr(f"net/{name}", text)
        file.writestr("net/archive_format", "pt2")
        for inside, data in dict(members).items():
            file.writestr(f"net/{inside}", data)
    return path


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.pt2"


def test_the_smallest_program_is_read(path):
    graph = ta.load(write(path))
    assert ta.to_text(graph) == (
        "x = input() -> float32[4]\n"
        "relu = aten.relu(self=x) -> float32[4]\n"
        "output = output(value=relu)\n"
    )
    assert graph.graph["name"] == "Net"


class Plant:
    """Unpickling it makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def test_pickles_are_never_opened(path, tmp_path):
    import pickle

    marker = tmp_path / "marker"
    plant = pickle.dumps(Plant(marker))
    payload = {"path_name": "weight_0", "is_param": True, "use_pickle": True, "tensor_meta": None}
    members = {
        "data/sample_inputs/model.pt": plant,
        "data/constants/custom_obj_0": plant,
        "data/weights/weight_0": plant,
        "data/weights/model_weights_config.json": json.dumps({"config": {"w": payload}}),
        "data.pkl": plant,
    }
    assert list(ta.load(write(path, members=members))) == ["x", "relu", "output"]
    assert not marker.exists()
    pickle.loads(plant)
    assert marker.exists()  # so it would have run


def code(marker):
    return f"__import__('pathlib').Path({str(marker)!r}).touch()"


def test_sizes_are_never_evaluated(path, tmp_path):
    marker = tmp_path / "marker"
    size = {"as_expr": {"expr_str": code(marker), "hint": {"as_int": 4}}}
    write(path, program(tensor_values={"x": tensor(size), "relu": tensor(4)}))
    with pytest.raises(FormatError, match=r"the tensor 'x': .* is no size that torch writes"):
        ta.load(path)
    assert not marker.exists()
    eval(code(marker))
    assert marker.exists()


def test_guards_are_never_run(path, tmp_path):
    marker = tmp_path / "marker"
    size = {"as_expr": {"expr_str": "Symbol('s0', integer=True)"}}
    content = program(tensor_values={"x": tensor(size), "relu": tensor(size)})
    content["guards_code"] = [code(marker), f"{code(marker)} or True", "L['x'].size()[0] <= 9"]
    graph = ta.load(write(path, content))
    assert graph.nodes["relu"]["outputs"][0].shape == (symbol("s0"),)
    assert not marker.exists()
    assert graph.graph["symbols"]["s0"].max == 9  # the one condition that is a condition


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "torch.ops.load_library.default",
        "torch.ops.__class__.mro",
        "torch.hub.load",
        "torch.ops.aten.relu.default.__globals__",
        "_operator.methodcaller",
        "#evil:op",
        "",
        "." * 10_000,
        "torch.ops..",
        "\ud83d\ude00\x1b[31m",
    ],
)
def test_targets_are_only_names(target, path):
    content = program(nodes=[node("relu", target, self=named("x"))])
    graph = ta.load(write(path, content))
    ta.validate(graph)
    assert len(graph) == 3
    (op,) = (n["op"] for n in graph.nodes.values() if n["kind"] == "op")
    assert op.isprintable() and len(op) < 500


EXPRESSIONS = [
    "__import__('os').system('true')",
    "().__class__.__bases__[0].__subclasses__()",
    "Symbol('s0', integer=True).__class__",
    "Symbol('__import__(1)', integer=True)",
    "Symbol('s0', integer=print(1))",
    "Function('f')(s0)",
    "lambda: 1",
    "[s0 for s0 in (1,)]",
    "s0 if s0 else 1",
    "Integer(9)**Integer(9)**Integer(9)",
    "((9**64)**64)**64",
    "((2*s0)**64)**64",
    "Float('1e999999999', precision=53)",
    "Integer(-3)",
    "1/0",
    "Rational(1, 2)",
    "True",
    "'s0'",
    "batch",
    "s0 s1",
    "(" * 10_000 + "s0" + ")" * 10_000,
    "-" * 50_000 + "1",
    "s0 + " * 30_000 + "s0",
    "Add(" * 2_000 + "1" + ")" * 2_000,
    "9" * 10_000,
    "",
    "\x00",
    "Max()",
    "Mod(s0)",
    "f'{s0}'",
    "s0.is_integer",
    "s0 := 1",
    "*s0",
    "ToFloat(s0, s0)",
    "FloorDiv(s0)",
]


@pytest.mark.parametrize("text", EXPRESSIONS, ids=range(len(EXPRESSIONS)))
def test_the_grammar_refuses(text):
    for read in (archive_sizes.size, archive_sizes.truth):
        with pytest.raises(FormatError, match="that torch writes"):
            read(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Symbol('s0', positive=True, integer=True)", "s0"),
        ("Mul(Integer(2), Symbol('s77', integer=True), Symbol('u1', integer=True))", "2*s77*u1"),
        (
            "Add(FloorDiv(Add(Symbol('s0'), Integer(-1)), Integer(2)), Integer(1))",
            "floor((s0 - 1)/2) + 1",
        ),
        ("Pow(Symbol('s0'), Integer(2))", "s0**2"),
        ("PowByNatural(s0, 2)", "s0**2"),
        ("Max(Integer(1), Symbol('s0'), Min(s1, 4))", "Max(1, s0, Min(s1, 4))"),
        ("Mod(PythonMod(s0, 8), 3)", "Mod(Mod(s0, 8), 3)"),
        ("CleanDiv(s0, 2)", "floor(s0/2)"),
        ("TruncToInt(IntTrueDiv(s0, 2))", "floor(s0/2)"),
        ("CeilToInt(FloatTrueDiv(ToFloat(s0), 2))", "ceiling(s0/2)"),
        ("FloorToInt(Mul(Float('0.5', precision=53), s0))", "floor(s0/2)"),
        ("Mul(Rational(1, 2), s0, Integer(2))", "s0"),
        ("Identity(zuf3 + u10)", "zuf3 + u10"),
        ("2*s0 + s1//3 - s2 % 4 + -1", "2*s0 + floor(s1/3) - Mod(s2, 4) - 1"),
    ],
)
def test_the_grammar_reads_what_torch_writes(text, expected):
    from torchatlas.expressions import parse

    assert archive_sizes.size(text) == parse(expected)


WORDS = [
    "s0",
    "u1",
    "1",
    "2",
    "-",
    "+",
    "*",
    "**",
    "//",
    "%",
    "(",
    ")",
    ",",
    "Max",
    "Integer",
    "Symbol",
    "'s0'",
    "integer=True",
    "__import__",
    ".",
    "[",
    "]",
    "L",
    "==",
    "and",
    "not",
    "lambda",
    ":",
    "if",
    "Float",
    "'1e5'",
    "{",
    "}",
    "None",
    "True",
    "\n",
    ";",
    "import os",
]


@given(st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join) | st.text(max_size=40))
@settings(max_examples=300, deadline=None)
@example("Symbol('s0', **s0)")
@example("Max(*s0)")
def test_the_grammar_gives_a_size_or_says_no(text):
    for read in (archive_sizes.size, archive_sizes.truth):
        try:
            found = read(text)
        except FormatError:
            continue
        names = {s.name for s in getattr(found, "free_symbols", ())}
        assert names <= {"s0", "u1"} or all(name.isascii() and name.isalnum() for name in names)


def bomb(path):
    write(path, b" " * (1 << 26), compress=zipfile.ZIP_DEFLATED)


def lying(path):
    write(path)
    data = bytearray(path.read_bytes())
    place = data.index(b"PK\x01\x02") + 24  # the size in the central directory
    data[place : place + 4] = (1 << 30).to_bytes(4, "little")
    path.write_bytes(bytes(data))


def twice_in_zip(path):
    write(path)
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(path, "a") as file:
        file.writestr("net/models/model.json", json.dumps(program()))


def encrypted(path):
    write(path)
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (bomb, "would inflate from"),
        (lying, "would inflate from"),
        (twice_in_zip, "holds 'models/model.json' twice"),
        (encrypted, "encrypted"),
        (lambda p: p.write_bytes(write(p).read_bytes()[:-40]), "cut short or damaged"),
        (lambda p: p.write_bytes(write(p).read_bytes()[:200]), "cut short or damaged"),
        (
            lambda p: write(p, members={"models/other.json": "{}"}),
            "holds 2 models: 'model', 'other'",
        ),
        (lambda p: write(p, name="data/aotinductor/model/x.so"), "AOTInductor"),
        (lambda p: write(p, name="serialized_exported_program.json"), "torch before 2.8"),
        (lambda p: write(p, name="constants.pkl"), "a TorchScript model"),
        (lambda p: write(p, name="data.pkl"), "a pickle of torch.save"),
        (lambda p: write(p, name=".data/extern_modules"), "a torch.package"),
        (lambda p: write(p, name="readme.txt"), "a zip archive without a model"),
        (lambda p: p.write_bytes(b"MZ\x90"), "no zip archive"),
    ],
)
def test_archives_that_are_none_are_named(make, message, path):
    make(path)
    with pytest.raises(FormatError, match=message) as caught:
        ta.load(path)
    assert len(str(caught.value)) < 700


def without(key):
    content = program()
    del content["graph_module"]["graph"][key]
    return content


def deep(field):
    text = json.dumps(program())
    return text.replace(f'"{field}": ', f'"{field}": ' + "[" * 100_000, 1).encode()


def nested(depth):
    inner = program()["graph_module"]["graph"]
    for i in range(depth):
        region = {"as_graph": {"name": f"g{i}", "graph": inner}}
        call = node("relu", "torch.ops.higher_order.wrap_with_set_grad_enabled")
        call["inputs"] = [
            {"name": "", "arg": arg, "kind": 1} for arg in ({"as_bool": False}, region, named("x"))
        ]
        inner = program(nodes=[call])["graph_module"]["graph"]
    return program(nodes=inner["nodes"])


RELU = node("relu", "torch.ops.aten.relu.default", self=named("x"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "truncated"),
        (b"{}", "missing required field `graph_module`"),
        (b"\xff\xfe", "malformed|decode"),
        (b"[" * 100_000, "nested too deeply|Expected"),
        (deep("nodes"), "nested too deeply|Expected"),
        (deep("torch_version"), "nested too deeply|Expected"),
        (deep("requires_grad"), "nested too deeply"),
        (nested(33), "nested more than 32 graphs deep|nested too deeply"),
        (json.dumps(program()).replace('"major": 8', '"major": NaN').encode(), "malformed"),
        (json.dumps(program()).replace('"major": 8', '"major": 1e999').encode(), "range"),
        (json.dumps(program()).replace('"major": 8', '"major": ' + "9" * 401).encode(), "<="),
        (json.dumps(program()).replace('"minor": 20', '"minor": 1, "minor": 1').encode(), "twice"),
        (without("nodes"), "missing required field `nodes`"),
        (program(nodes=3), r"\$\.graph_module\.graph\.nodes"),
        (program(nodes=[{**RELU, "target": 3}]), r"nodes\[0\]\.target"),
        (program(nodes=[{**RELU, "metadata": {"stack_trace": 1}}]), "metadata"),
        (program(tensor_values={"x": tensor(2**63)}), r"as_int"),
        (program(tensor_values={"x": tensor(-1), "relu": tensor(4)}), "'x' is -1"),
        (program(tensor_values={"x": tensor(4, dtype=99), "relu": tensor(4)}), "unknown number 99"),
        (program(tensor_values={"x": tensor(4)}), "nothing is known of the tensor 'relu'"),
        (program(tensor_values={"relu": tensor(4)}), "nothing is known of the tensor 'x'"),
        (program(nodes=[]), "reads 'relu', which nothing before it produces"),
        (program(nodes=[RELU, RELU]), "two nodes are called 'relu'"),
        (program(nodes=[{**RELU, "name": "x"}]), "two nodes are called 'x'"),
        (program(nodes=[{**RELU, "outputs": [named("x")]}]), "the name 'x' is given twice"),
        (
            program(
                nodes=[
                    node("a", "torch.ops.aten.relu.default", self=named("relu")),
                    node("relu", "torch.ops.aten.relu.default", self=named("a")),
                ],
                tensor_values={n: tensor(4) for n in ("x", "a", "relu")},
            ),
            "the node 'a'.* reads 'relu', which nothing before it produces",
        ),
        (
            program(nodes=[node("relu", "torch.ops.aten.relu.default", self={"as_new": 1})]),
            "the node 'relu' has 0 kinds of value that are known",
        ),
        (
            program(
                nodes=[
                    node("relu", "torch.ops.aten.relu.default", self={**named("x"), "as_int": 1})
                ]
            ),
            "the node 'relu' has 2 kinds of value",
        ),
        (program(inputs=[]), "the graph has 0 inputs, but 1 are described"),
        (program(inputs=[named("y")]), "input 0 of the graph is 'y', and described as 'x'"),
        ({**program(), "schema_version": {"major": 9, "minor": 0}}, "version 9 of torch's schema"),
    ],
    ids=range(31),
)
def test_texts_that_torch_does_not_write_are_refused_by_name(content, message, path):
    with pytest.raises(FormatError, match=message) as caught:
        ta.load(write(path, content))
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 700


def test_unknown_fields_are_tolerated(path):
    content = program(nodes=[{**RELU, "colour": "red"}], shades=[[1], {"a": None}])
    content["new_in_torch_3"] = {"x": 1}
    assert len(ta.load(write(path, content))) == 3


def test_paths_in_an_archive_lead_nowhere(path, tmp_path):
    payload = {"path_name": "../../../etc/passwd", "tensor_meta": tensor(4)}
    members = {
        "../../evil.txt": "x",
        "data/weights/model_weights_config.json": json.dumps({"config": {"w": payload}}),
    }
    before = sorted(tmp_path.parent.rglob("*"))
    write(path, members=members)
    ta.load(path)
    assert sorted(tmp_path.parent.rglob("*")) == sorted([*before, path])


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """The texts of an archive that torch wrote: symbols, a region, a branch, tied weights."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.other = nn.Linear(4, 4), nn.Linear(4, 4)
            self.other.weight = self.one.weight

        def forward(self, x):
            with torch.no_grad():
                y = self.other(self.one(x)).view(-1)
            a, _ = y.chunk(2)
            y = torch.cond(y.sum() > 0, lambda y: y.sin(), lambda y: y + 1, (y,))
            return {"y": y.mul_(2), "n": [x.shape[0] * 2, a]}

    made = torch.export.export(Net(), (torch.ones(6, 4),), dynamic_shapes=({0: AUTO},))
    path = tmp_path_factory.mktemp("real") / "net.pt2"
    torch.export.save(made, path)
    with zipfile.ZipFile(path) as file:
        found = {name.partition("/")[2]: file.read(name) for name in file.namelist()}
    for item in (content := json.loads(found["models/model.json"]))["graph_module"]["graph"][
        "nodes"
    ]:
        item["metadata"].pop("stack_trace", None)
    return path.with_name("forged.pt2"), content, found["data/weights/model_weights_config.json"]


def places(value, before=()):
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        yield (*before, key)
        if isinstance(item, dict | list):
            yield from places(item, (*before, key))


JUNK = st.sampled_from(
    [
        None,
        True,
        -1,
        0,
        1,
        3,
        2**62,
        2**64,
        0.5,
        "",
        "x",
        "s0",
        "as_tensor",
        "L['x']",
        [],
        [[]],
        {},
        {"as_int": 2},
        {"as_none": True},
        {"as_expr": {"expr_str": "Integer(7)"}},
        named("x"),
        "torch.ops.aten.conv2d.default",
        "torch.ops.higher_order.cond",
        "Add(",
        "\x00",
        "\ud800",
    ]
)


def test_any_change_gives_a_graph_or_a_named_error(real):
    path, content, weights = real
    everywhere = sorted(places(content), key=str)
    graphs = errors = 0

    @given(st.lists(st.tuples(st.sampled_from(everywhere), JUNK | st.just("gone")), max_size=2))
    @settings(max_examples=250, deadline=None, database=None)
    def check(changes):
        nonlocal graphs, errors
        changed = copy.deepcopy(content)
        for (*outer, last), value in changes:
            target = changed
            try:
                for key in outer:
                    target = target[key]
                if value == "gone":
                    del target[last]
                else:
                    target[last] = value
            except (KeyError, IndexError, TypeError):
                continue  # an earlier change took the place away
        members = {"data/weights/model_weights_config.json": weights}
        write(path, json.dumps(changed).encode("utf-8", "surrogatepass"), members=members)
        try:
            graph = ta.load(path)
        except AtlasError:
            errors += 1
        else:
            graphs += 1
            ta.validate(graph)
            assert ta.to_text(graph)

    check()
    assert graphs > 20 and errors > 20
