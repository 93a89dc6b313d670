"""The private parts of torch that the adapter uses, and on which versions they were seen."""

from __future__ import annotations

import ast
from pathlib import Path

import torch
from torch._functorch import vmap

from torchatlas.frontends import noise, torch_api
from torchatlas.frontends.metadata import op_info


def test_version_is_one_that_was_tested():
    version = ".".join(torch.__version__.split(".")[:2])
    oldest, newest = torch_api.TESTED_VERSIONS
    assert tuple(map(int, version.split("."))) >= tuple(map(int, oldest.split(".")))
    assert version in torch_api.TESTED_VERSIONS, f"run the tests on {version}, then name it"
    assert newest == max(torch_api.TESTED_VERSIONS, key=lambda v: tuple(map(int, v.split("."))))


def test_private_modules_stand_behind_the_adapter():
    source = Path(torch_api.__file__).parents[1]
    for path in source.rglob("*.py"):
        if path.name == "torch_api.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = (
                [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else ([alias.name for alias in node.names] if isinstance(node, ast.Import) else [])
            )
            for name in names:
                private = name.startswith("torch.") and any(
                    p.startswith("_") for p in name.split(".")
                )
                assert not private, f"{path.name} imports {name}"


def test_views_share_storage_and_copies_do_not():
    x = torch.zeros(4, 4)
    assert torch_api.storage_of(x) == torch_api.storage_of(x[0]) == torch_api.storage_of(x.t())
    assert torch_api.storage_of(x) != torch_api.storage_of(x.clone())
    assert torch_api.storage_of(torch.zeros(2, 2).to_sparse()) is None


def test_regions_are_recognised():
    program = torch.export.export(Region(), (torch.ones(2),), strict=False)
    found = [
        torch_api.region(node.target) for node in program.graph.nodes if node.op == "call_function"
    ]
    positions = [item[0] for item in found if item is not None]
    assert sorted(positions) == [1, 4]


class Region(torch.nn.Module):
    def forward(self, x):
        with torch.no_grad():
            x = x * 2
        with torch.autocast("cpu"):
            return x @ x


def test_noise_ops_exist():
    names = noise.ASSERTIONS | noise.IDENTITIES | noise.CONVERSIONS | noise.SLICES | noise.VMAP
    for op in names:
        namespace, _, name = op.partition(".")
        if namespace == "torch":  # functions of torch._C._functorch, seen under vmap
            functions = (getattr(torch._C._functorch, name, None), getattr(vmap, name, None))
            assert any(functions), op
            continue
        packet = getattr(torch.ops.aten, name)
        assert op_info(packet.default if hasattr(packet, "default") else packet).op


def test_quiet_restores_the_loggers():
    import logging

    logger = logging.getLogger("torch.export")
    with torch_api.quiet():
        assert logger.disabled
    assert not logger.disabled


class Halves(torch.nn.Module):
    def forward(self, x):
        return x.view(2, -1) if x.shape[0] > 3 else x


def test_guards_are_relations_over_the_symbols_of_the_inputs():
    program = torch.export.export(
        Halves(), (torch.zeros(8),), dynamic_shapes=({0: torch_api.AUTO},), strict=False
    )
    guards = torch_api.shape_guards(program)
    symbols = set(program.range_constraints)
    assert all(expr.free_symbols <= symbols for expr, _ in guards)
    texts = [str(expr) for expr, _ in guards]
    assert any("Mod(" in text for text in texts) and any("> 3" in text for text in texts)
    assert any("test_torch_api.py" in place for _, place in guards)


def test_recurrent_layers_run_whole_only_inside_the_block():
    layer = torch.nn.LSTM(3, 4, batch_first=True)
    x = torch.zeros(2, 5, 3, device="meta")
    meta = torch.nn.LSTM(3, 4, batch_first=True, device="meta")
    kernels = dict(torch.ops.aten.lstm.input.py_kernels)
    with torch_api.whole_recurrent():
        out, (hidden, _) = meta(x)
        assert torch.ops.aten.lstm.input.py_kernels != kernels
    assert torch.ops.aten.lstm.input.py_kernels == kernels
    real, (real_hidden, _) = layer(torch.zeros(2, 5, 3))
    assert (out.shape, out.stride()) == (real.shape, real.stride())
    assert hidden.shape == real_hidden.shape


def _called(where, function, *args):
    names = []

    def handle(func, args, kwargs):
        names.append(func.__name__)
        return func(*args, **kwargs)

    with where(handle):
        function(*args)
    return [name.partition(".")[0] for name in names]


def test_composites_are_whole_before_dispatch_and_apart_below_autograd():
    layer, x = torch.nn.Linear(3, 4), torch.zeros(2, 3)
    with torch_api.FakeTensorMode(allow_non_fake_inputs=True):
        assert _called(torch_api.before_dispatch, layer, x) == ["linear"]
        below = _called(torch_api.below_autograd, layer, x)
    assert "addmm" in below and "linear" not in below
    # Nothing is left switched on.
    with torch_api.FakeTensorMode(allow_non_fake_inputs=True):
        assert _called(torch_api.below_autograd, layer, x) == below


def test_backward_operators_know_what_they_differentiate():
    x = torch.zeros(2, 3, requires_grad=True)
    steps = {}

    def handle(func, args, kwargs):
        backward = torch_api.backward_step()
        steps[func.__name__] = torch_api.forward_step() if backward is None else backward[0]
        return func(*args, **kwargs)

    assert torch_api.backward_step() is None
    with torch_api.below_autograd(handle):
        torch.tanh(x).sum().backward()
    assert steps["tanh_backward.default"] == steps["tanh.default"]


def test_fake_copies_are_like_their_tensors():
    mode = torch_api.FakeTensorMode()
    tensors = [
        torch.nn.Parameter(torch.zeros(2, 3)),
        torch.zeros(2, 3, dtype=torch.int8),
        torch.zeros(4, 3).t(),
        torch.zeros(8, 3)[2:4],
        torch.zeros(()),
        torch.zeros(2, device="meta"),
        torch.eye(3).to_sparse(),
    ]
    for tensor in tensors:
        made = torch_api.fake_like(mode, tensor)
        assert isinstance(made, torch_api.FakeTensor)
        assert (made.shape, made.dtype, made.device) == (tensor.shape, tensor.dtype, tensor.device)
        assert made.layout == tensor.layout and made.requires_grad == tensor.requires_grad
        if tensor.layout is torch.strided:
            assert made.stride() == tensor.stride()


def test_composites_can_be_taken_apart():
    assert torch_api.is_composite(torch.ops.aten.linear.default)
    assert not torch_api.is_composite(torch.ops.aten.mm.default)
    with torch_api.FakeTensorMode():
        program = torch_api.trace_decomposed(
            torch.ops.aten.trapezoid.dx, (torch.zeros(4, 5),), {"dx": 2.0}
        )
    names = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert "aten.trapezoid.dx" not in names and names
