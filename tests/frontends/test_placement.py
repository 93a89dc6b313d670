"""A model is captured on devices that this machine does not have."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise

import onnx
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import models
import torchatlas as ta
from torchatlas.errors import CaptureError, InputError, UsageError
from torchatlas.frontends.torch_api import FakeTensor, FakeTensorMode
from torchatlas.graph import op_nodes
from torchatlas.schema import TensorMeta


def _mobilenet():
    import torchvision

    return torchvision.models.mobilenet_v3_small(num_classes=4).eval(), torch.randn(1, 3, 64, 64)


def _made(name):
    model, example = _mobilenet() if name == "mobilenet_v3_small" else models.make(name)
    # T5's mask is learnt: where gradients are asked for, the fused attention of the CPU does not
    # take it, and that of CUDA does, which lays its result out otherwise.
    return model.requires_grad_(name != "t5"), example


CALL = nn.Module.__call__
SIX = ["resnet18", "mobilenet_v3_small", "bert", "llama", "t5", "lstm"]


def devices(graph):
    return {out.device for _, node in graph.nodes(data=True) for out in node["outputs"] if out}


def _elsewhere(value):
    """Return `value` as it would be if the CPU were CUDA device 0."""
    if isinstance(value, TensorMeta):
        return replace(value, device=value.device.replace("cpu", "cuda:0"))
    if isinstance(value, tuple):
        return tuple(map(_elsewhere, value))
    if isinstance(value, dict):
        return {key: _elsewhere(item) for key, item in value.items()}
    return "cuda:0" if value == "cpu" else value


def assert_same_but_for_devices(placed, graph):
    assert list(placed) == list(graph) and set(placed.edges) == set(graph.edges)
    for name, node in graph.nodes(data=True):
        # A kernel of another device may lay its result out otherwise; none of these does.
        assert placed.nodes[name] == {key: _elsewhere(value) for key, value in node.items()}, name
    for source, target, edge in graph.edges(data=True):
        assert placed.edges[source, target] == edge


@pytest.mark.parametrize("name", models.params(SIX))
def test_every_tensor_lies_on_the_device(name):
    model, example = _made(name)
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    graph = ta.capture(model, example, device="cuda")
    ta.validate(graph)
    assert devices(graph) == {"cuda:0"} == {node["device"] for _, node in op_nodes(graph)}
    assert_same_but_for_devices(graph, ta.capture(model, example))
    whole = ta.capture(model, example, device="cuda", replay=False)
    assert ta.to_text(whole) == ta.to_text(graph)
    assert not ta.transfers(graph)
    for key, tensor in model.state_dict().items():
        assert not isinstance(tensor, FakeTensor) and torch.equal(tensor, state[key])


def test_model_and_example_stay_as_they_are():
    model, example = models.make("shared_and_tied")
    held = dict(model.named_parameters(remove_duplicate=False))
    attributes = dict(vars(model))
    batch, bias = example[0][0], example[1]["bias"]
    before = dict(batch)
    graph = ta.capture(model, example, device="cuda:3")
    assert devices(graph) == {"cuda:3"}
    assert graph.nodes["embed/weight"]["aliases"] == ("head.weight",)
    for name, tensor in model.named_parameters(remove_duplicate=False):
        assert tensor is held[name] and type(tensor) is nn.Parameter
    assert vars(model) == attributes and batch == before
    assert bias.device.type == "cpu"
    # What was captured is still known by its values.
    assert all(not isinstance(value, FakeTensor) for value in graph.source.placeholders.values())


@pytest.mark.parametrize("name", ["in_place_views", "residual", "attention", "dataclasses"])
def test_small_models_look_the_same_there(name):
    model, example = models.make(name)
    assert_same_but_for_devices(
        ta.capture(model, example, device="cuda"), ta.capture(model, example)
    )


class Views(nn.Module):
    """Buffers on one memory, one of them conjugate."""

    def __init__(self):
        super().__init__()
        self.register_buffer("rows", torch.arange(12.0)[::2].reshape(2, 3))
        self.register_buffer("columns", self.rows.t())
        self.register_buffer("turned", torch.ones(3, dtype=torch.complex64).conj())

    def forward(self, x):
        self.rows.add_(x)  # which the other one sees
        return self.columns.sum() + self.turned.real.sum()


def test_buffers_on_one_memory():
    model = Views()
    placed = ta.capture(model, torch.ones(3), device="cuda")
    assert devices(placed) == {"cuda:0"}
    assert ta.to_text(placed) == ta.to_text(ta.capture(Views(), torch.ones(3)))
    assert placed.has_edge("add", "sum") and float(model.rows.sum()) == 30.0


def test_what_cannot_be_placed_is_named(capfd):
    model = nn.Module()
    model.register_buffer("table", torch.eye(3).to_sparse())
    model.forward = lambda x: model.table @ x
    with pytest.raises(CaptureError, match="'table', a Tensor, cannot be placed on cuda:0"):
        ta.capture(model, torch.ones(3), device="cuda")
    assert capfd.readouterr().err == "" and model.table.is_sparse


def test_model_gets_its_tensors_back_where_the_capture_fails():
    class Fails(nn.Linear):
        def forward(self, x):
            raise ValueError("no")

    model = Fails(2, 2)
    held = dict(model.named_parameters())
    with pytest.raises(InputError):
        ta.capture(model, torch.ones(1, 2), device="cuda")
    assert all(tensor is held[name] for name, tensor in model.named_parameters())
    assert nn.Module.__call__ is CALL


@pytest.mark.parametrize("kind", ["meta", "fake"])
def test_weights_need_not_exist(kind):
    with torch.device("meta") if kind == "meta" else FakeTensorMode():
        model, _ = models.SMALL["tiny"]()
    example = models.make("tiny")[1]
    graph = ta.capture(model.eval(), example, device="cuda")
    assert devices(graph) == {"cuda:0"}
    assert_same_but_for_devices(graph, ta.capture(models.make("tiny")[0], example))
    assert all(tensor.is_meta or isinstance(tensor, FakeTensor) for tensor in model.parameters())


@pytest.mark.parametrize("frontend", ["export", "fx"])
def test_other_front_ends(frontend):
    model, example = models.make("tiny")
    graph = ta.capture(model, example, frontend=frontend, device="cuda")
    assert graph.graph["frontend"] == frontend and devices(graph) == {"cuda:0"}
    assert_same_but_for_devices(graph, ta.capture(model, example, frontend=frontend))


def test_onnx_file_has_the_weights_of_the_model(tmp_path):
    model, example = models.make("tiny")
    for frontend in ("export", "auto"):
        graph = ta.capture(model, example, frontend=frontend, device="cuda")
        ta.export(graph, tmp_path / "placed.onnx")
        stored = onnx.load(tmp_path / "placed.onnx").graph.initializer
        found = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in stored}
        assert (found["head.weight"] == model.head.weight.detach().numpy()).all()


@pytest.mark.parametrize("frontend", ["trace", "export", "fx"])
def test_a_placed_graph_does_not_run_elsewhere(frontend):
    model, example = models.make("tiny")
    graph = ta.capture(model, example, frontend=frontend, device="cuda")
    with pytest.raises(CaptureError, match="was placed on cuda:0, and its values lie on cpu"):
        graph.source.run()
    there = ta.capture(model, example, frontend=frontend, device="cpu")
    assert torch.allclose(there.source.run()["output"], model(example))


def test_symbolic_sizes():
    model, example = models.make("tiny")
    graph = ta.capture(model, example, dynamic=["batch"], device="cuda")
    assert devices(graph) == {"cuda:0"}
    bound = ta.bind(graph, batch=3)
    larger = ta.capture(model, torch.zeros(3, *example.shape[1:]), device="cuda")
    assert ta.totals(bound).flops == ta.totals(larger).flops > 0


@pytest.mark.parametrize("name", ["tiny", "attention", "lstm"])
def test_inference(name):
    model, example = models.make(name)
    graph = ta.capture(model, example, mode="inference", device="cuda")
    assert devices(graph) == {"cuda:0"}
    macs = ta.totals(ta.capture(model, example, mode="inference")).macs
    assert ta.totals(graph).macs == macs > 0
    assert ta.totals(graph).peak.nbytes > 0


class Cast(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        with torch.autocast(x.device.type, dtype=torch.bfloat16):
            return self.fc(x)


def test_autocast_of_the_device_casts():
    common, supported = torch.cuda.amp.common, torch.cuda.is_bf16_supported
    asked = common.amp_definitely_not_available
    graph = ta.capture(Cast(), torch.ones(2, 4), device="cuda")
    assert graph.nodes["fc/linear"]["outputs"][0].dtype == "bfloat16"
    assert common.amp_definitely_not_available is asked
    assert torch.cuda.is_bf16_supported is supported


class Asks(nn.Module):
    """What models do with the device of their input."""

    def forward(self, x):
        positions = torch.arange(x.shape[0], device=x.device)
        noise = torch.randn(x.shape, device="cuda") + torch.rand_like(x)
        literal = torch.tensor([1.0, 2.0], device=x.device)
        x = x + noise * x.new_zeros(()) + literal
        if x.is_cuda and x.device.index == 0 and x.get_device() == 0:
            x = x * 2
        mask = torch.zeros(x.shape[0], dtype=torch.bool)  # on the CPU, which may index
        return x.cuda()[positions] + torch.tensor(3.0), x.cpu(), mask


def test_a_model_sees_the_device_that_it_is_on():
    graph = ta.capture(Asks(), torch.ones(3, 2), device="cuda")
    found = {name: node["device"] for name, node in op_nodes(graph)}
    assert {name for name, where in found.items() if where == "cpu"} == {"to_1", "zeros"}
    assert found["arange"] == found["randn"] == found["rand_like"] == "cuda:0"
    assert "mul_1" in found  # the branch on the device
    crossing = {(t.from_device, t.to_device) for t in ta.transfers(graph)}
    assert crossing == {("cuda:0", "cpu"), ("cpu", "cuda:0")}


@pytest.mark.cuda
@pytest.mark.parametrize("name", models.params(SIX))
def test_a_placed_model_is_like_one_that_was_moved(name):
    model, example = _made(name)
    placed = ta.capture(model, example, device="cuda")
    moved = torch.utils._pytree.tree_map_only(torch.Tensor, lambda x: x.cuda(), example)
    graph = ta.capture(model.cuda(), moved)
    assert list(placed.nodes(data=True)) == list(graph.nodes(data=True))


# -- attention, whose kernel depends on the device ----------------------------------------------


class Attends(nn.Module):
    def forward(self, q, k, v, mask=None):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)


def heads(dtype=torch.float32, *, width=8, shared=4):
    q = torch.randn(2, 4, 16, width, dtype=dtype)
    return q, torch.randn(2, shared, 16, width, dtype=dtype), q.new_zeros(2, shared, 16, width)


@pytest.mark.parametrize(
    ("example", "kernel"),
    [
        (heads(torch.bfloat16), "aten._scaled_dot_product_flash_attention"),
        (heads(torch.float16, shared=2), "aten._scaled_dot_product_flash_attention"),
        (heads(), "aten._scaled_dot_product_efficient_attention"),
        (
            (*heads(torch.float16), torch.ones(16, 16).bool()),
            "aten._scaled_dot_product_efficient_attention",
        ),
        (heads(width=6), "aten._safe_softmax"),  # not aligned: two products
        (heads(torch.float64), "aten._safe_softmax"),
    ],
)
def test_attention_takes_the_kernels_of_a_gpu(example, kernel):
    graph = ta.capture(Attends(), example, mode="inference", device="cuda")
    assert kernel in {node["op"] for _, node in op_nodes(graph)}
    [returned] = graph.pred["output"]
    whole = ta.capture(Attends(), example, device="cuda").nodes["scaled_dot_product_attention"]
    assert graph.nodes[returned]["outputs"][0] == whole["outputs"][0]
    # One kernel keeps heads side by side for each token; the others lay out like the query.
    _, head, token, _ = whole["outputs"][0].stride
    assert (head < token) == ("efficient" in kernel)
    op = torch.ops.aten.scaled_dot_product_attention.default
    assert not op.py_kernels


# -- several devices ----------------------------------------------------------------------------


class Stages(nn.Module):
    """Three blocks in a row, and a head."""

    def __init__(self, width=8):
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.ReLU()) for _ in range(4)
        )
        self.head = nn.Linear(width, 2)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def test_a_map_splits_a_model():
    places = {"": "cuda:0", "blocks.2": "cuda:1", "blocks.3": 1, "head": torch.device("cuda:1")}
    model, x = Stages(), torch.ones(3, 8)
    graph = ta.capture(model, x, device=places)
    ta.validate(graph)
    assert graph.graph["frontend"] == "trace"
    where = {name: node["device"] for name, node in graph.nodes(data=True) if "device" in node}
    assert {name for name, device in where.items() if device == "cuda:0"} == {
        "x", *(n for n in where if n.startswith(("blocks/0", "blocks/1")))
    }  # fmt: skip
    assert ta.transfers(graph) == [
        ("blocks/1/1/relu", "blocks/2/to", "cuda:0", "cuda:1", 3 * 8 * 4)
    ]
    assert graph.nodes["blocks/2/to"]["module"] == "blocks.2"
    whole = ta.capture(model, x, device=places, replay=False)
    assert ta.to_text(whole) == ta.to_text(graph)
    assert nn.Module.__call__ is CALL and all(p.device.type == "cpu" for p in model.parameters())


def test_the_longest_path_wins_and_the_rest_stays():
    places = {"blocks": "cuda:1", "blocks.1": "cuda:0", "blocks.10": "cpu", "head": "cpu"}
    model = Stages()
    with pytest.raises(UsageError, match=r"blocks\.10"):
        ta.capture(model, torch.ones(3, 8), device=places)
    del places["blocks.10"]
    graph = ta.capture(model, torch.ones(3, 8), device=places)
    where = {name: node["device"] for name, node in graph.nodes(data=True) if "device" in node}
    assert where["x"] == where["head/weight"] == where["head/linear"] == "cpu"
    assert [where[f"blocks/{i}/1/relu"][-1] for i in range(4)] == ["1", "0", "1", "1"]
    crossing = [(t.from_device, t.to_device, t.bytes) for t in ta.transfers(graph)]
    route = ["cpu", "cuda:1", "cuda:0", "cuda:1", "cpu"]
    assert crossing == [(a, b, 96) for a, b in pairwise(route)]


def test_modules_that_look_alike_but_are_moved_otherwise_are_not_repeated():
    places = {"": 0, "blocks.0": 1, "blocks.0.0": 0, "blocks.1": 0, "blocks.2": 1, "blocks.2.0": 0}
    found = [
        ta.to_text(ta.capture(Stages(), torch.ones(3, 8), device=places, replay=replay))
        for replay in (True, False)
    ]
    assert found[0] == found[1]


class Moves(nn.Module):
    """Moves tensors itself, as a pipeline does."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(8, 16), nn.Linear(16, 2)

    def forward(self, x):
        return self.head(self.body(x).to(self.head.weight.device))


def test_a_model_that_moves_tensors_itself():
    graph = ta.capture(Moves(), torch.ones(4, 8), device={"": "cuda:0", "head": "cuda:1"})
    assert ta.transfers(graph) == [("body/linear", "to", "cuda:0", "cuda:1", 4 * 16 * 4)]


def test_fake_tensors_on_two_devices_need_no_map():
    model, mode = Moves(), FakeTensorMode()
    for name, parameter in list(model.named_parameters()):
        device = "cuda:1" if name.startswith("head") else "cuda:0"
        with mode:
            made = torch.empty(parameter.shape, device=device)
        path, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(path), leaf, nn.Parameter(made))
    with mode:
        x, y = torch.empty(4, 8, device="cuda:0"), torch.empty(4, 16, device="cuda:0")
    graph = ta.capture(model, x)
    assert ta.transfers(graph) == [("body/linear", "to", "cuda:0", "cuda:1", 4 * 16 * 4)]
    with pytest.raises(InputError, match="on cuda:1, given as") as error:
        ta.capture(nn.Sequential(model.head), y)
    assert error.value.node == "0/linear"


def test_a_method_of_a_model():
    class Net(Moves):
        def encode(self, x):
            return self.body(x)

    model = Net()
    graph = ta.capture(model.encode, torch.ones(4, 8), device="cuda")
    assert graph.graph["name"] == "Net.encode" and devices(graph) == {"cuda:0"}


def test_caches_in_the_example_are_placed_and_stay_as_they_are():
    class Cache:
        def __init__(self):
            self.keys = torch.ones(2, 3)

    class Attends(nn.Module):
        def forward(self, x, cache):
            cache.keys = torch.cat([cache.keys, x])
            return cache.keys.sum(0)

    cache = Cache()
    graph = ta.capture(Attends(), (torch.ones(1, 3), cache), device="cuda")
    assert devices(graph) == {"cuda:0"} and "cache/keys" in graph
    assert cache.keys.shape == (2, 3) and cache.keys.device.type == "cpu"


def test_a_map_of_inference():
    places = {"": "cuda:0", "head": "cuda:1"}
    graph = ta.capture(Stages(), torch.ones(4, 8), mode="inference", device=places)
    [crossing] = ta.transfers(graph)
    assert crossing[1:] == ("head/_to_copy".replace("/_", "/"), "cuda:0", "cuda:1", 4 * 8 * 4)


def test_t5_over_two_devices():
    model, example = models.make("t5")
    graph = ta.capture(model, example, device={"": "cuda:0", "decoder.block.1": "cuda:1"})
    inside = [n for n, node in op_nodes(graph) if node["module"].startswith("decoder.block.1")]
    assert {graph.nodes[name]["device"] for name in inside} == {"cuda:1"}
    sent = [t for t in ta.transfers(graph) if t.to_device == "cuda:1"]
    assert all(t.target.startswith("decoder/block/1/") for t in sent)
    hidden = [t for t in sent if t.bytes == 1 * 4 * 32 * 4]
    assert hidden


# -- mix-ups ------------------------------------------------------------------------------------


class Forgets(nn.Module):
    """Makes a mask and forgets where its input is."""

    def __init__(self):
        super().__init__()
        self.fc, self.mask = nn.Linear(4, 4), nn.Module()
        self.mask.forward = lambda x: (x + 1) * 2 + torch.ones(4)

    def forward(self, x):
        return self.mask(self.fc(x))


@pytest.mark.parametrize("mode", ["forward", "inference"])
@pytest.mark.parametrize("replay", [True, False])
def test_a_mix_up_names_the_node_and_the_devices(mode, replay):
    with pytest.raises(InputError) as error:
        ta.capture(Forgets(), torch.ones(2, 4), device="cuda", mode=mode, replay=replay)
    assert error.value.node == "mask/add_1"
    text = str(error.value)
    assert "aten.add gets tensors of different devices in module 'mask' (Module)" in text
    assert "float32[2, 4] on cuda:0, made by aten.mul" in text
    assert "float32[4] on cpu, made by aten.ones" in text
    assert isinstance(error.value.__cause__, RuntimeError)
    # The same model on the CPU has that node.
    assert "mask/add_1" in ta.capture(Forgets(), torch.ones(2, 4), mode=mode)


def test_a_mix_up_over_a_skip_connection():
    class Skips(Stages):
        def forward(self, x):
            return x + self.blocks[0](x)

    with pytest.raises(InputError, match=r"(?s)cuda:0.*cuda:1") as error:
        ta.capture(Skips(), torch.ones(2, 8), device={"": "cuda:0", "blocks.0": "cuda:1"})
    assert error.value.node == "add" and "given as x" in str(error.value)


def test_a_tensor_that_is_no_buffer():
    class Holds(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.ones(4)

        def forward(self, x):
            return x * self.scale

    with pytest.raises(InputError, match="which is no parameter, buffer or input") as error:
        ta.capture(Holds(), torch.ones(2, 4), device="cuda")
    assert error.value.node == "mul" and "register constants as buffers" in str(error.value)


def test_other_front_ends_name_the_devices():
    with pytest.raises(InputError, match=r"add\(float32\[2, 4\] on cuda:0, float32\[4\] on cpu\)"):
        ta.capture(Forgets(), torch.ones(2, 4), device="cuda", frontend="export")


@pytest.mark.skipif(torch.cuda.is_available(), reason="the driver is there")
def test_a_model_that_asks_the_driver():
    def ask(x):
        return x * torch.cuda.current_device()

    with pytest.raises(InputError, match=r"(?s)driver.*leave `device` out"):
        ta.capture(ask, torch.ones(2), device="cuda")


# -- wrong use ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("cudda", "there is no device 'cudda'"),
        ("cuda:x", "there is no device 'cuda:x'"),
        (True, "there is no device True"),
        (-1, "there is no device -1"),
        ("meta", "cannot be placed on 'meta'"),
        ({}, "the map of devices is empty"),
        ({"no.such": "cuda"}, "'no.such', which the model does not have"),
        ({"": "disk"}, "there is no device 'disk'"),
    ],
)
def test_devices_that_do_not_exist(given, told):
    with pytest.raises(UsageError, match=re.escape(told)):
        ta.capture(nn.Linear(2, 2), torch.ones(1, 2), device=given)


@pytest.mark.parametrize(
    "options",
    [
        {"mode": "training"},
        {"device": {"": "cuda"}, "frontend": "export"},
        {"device": {"": "cuda"}, "frontend": "fx"},
        {"device": {"": "cuda"}, "dynamic": ["batch"]},
        {"frontend": "none"},
    ],
)
def test_what_does_not_go_with_a_device(options):
    with pytest.raises(UsageError):
        ta.capture(nn.Linear(2, 2), torch.ones(1, 2), **{"device": "cuda", **options})


def test_a_program_has_its_devices():
    program = torch.export.export(nn.Linear(2, 2), (torch.ones(1, 2),))
    with pytest.raises(UsageError, match="exported program"):
        ta.capture(program, device="cuda")


def test_a_map_must_cover_what_lies_nowhere():
    with torch.device("meta"):
        model = Stages()
    with pytest.raises(UsageError, match="which lies on meta"):
        ta.capture(model, torch.ones(1, 8), device={"head": "cuda"})


def test_values_are_out_of_reach():
    def branches(x):
        return x if x.sum() > 0 else -x

    with pytest.raises(CaptureError):
        ta.capture(branches, torch.ones(2), device="cuda")


# -- the command line ---------------------------------------------------------------------------


def test_command_line(tmp_path, capsys):
    from torchatlas.cli import _run, app

    source = tmp_path / "split.py"
    source.write_text(
        "from torch import nn\n"
        "def net():\n"
        "    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))\n"
    )

    def run(*args):
        return _run(lambda: app([*map(str, args)], standalone_mode=False))

    model, out = f"{source}:net", tmp_path / "out"
    given = ("--input", "4x8", "--format", "json", "--out", out)
    assert run("capture", model, *given, "--device", "=cuda:0", "--device", "2=cuda:1") == 0
    [crossing] = ta.transfers(ta.load(out / "net.json"))
    assert crossing[2:] == ("cuda:0", "cuda:1", 4 * 8 * 4)
    assert run("summary", model, "--input", "4x8", "--device", "cuda") == 0
    assert run("cost", model, "--input", "4x8", "--device", "cuda") == 0
    for wrong in (("--device", "nowhere"), ("--device", "cuda", "--device", "cpu")):
        assert run("summary", model, "--input", "4x8", *wrong) == 2
    assert run("summary", out / "net.json", "--device", "cuda") == 2
    assert "keeps its devices" in capsys.readouterr().err
