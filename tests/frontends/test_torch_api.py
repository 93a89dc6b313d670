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


def test_containers_come_apart_one_level_at_a_time():
    names, items, make = torch_api.take_apart({"a": [1, 2], "b": None})
    assert (names, items, make([3, 4])) == (["a", "b"], [[1, 2], None], {"a": 3, "b": 4})
    size = torch.Size([2])
    assert torch_api.is_registered(size) and torch_api.take_apart(size)[1] == [2]
    assert torch_api.take_apart(torch.zeros(2)) is torch_api.take_apart(None) is None
    assert not torch_api.is_registered(object())


def test_what_was_compiled_is_found():
    def function(x):
        return x

    assert torch_api.uncompiled(torch.compile(function)) is function
    assert torch_api.uncompiled(function) is function


def test_modes_that_ask_no_cache_and_tensors_of_another_mode():
    mode = torch_api.fake_mode(cached=False)
    assert not mode.cache_enabled and torch_api.fake_mode().cache_enabled
    other = torch_api.fake_mode().from_tensor(torch.zeros(2, 3).t())
    moved = torch_api.moved_to(mode, other)
    assert moved.fake_mode is mode and (moved.shape, moved.stride()) == ((3, 2), (1, 3))


def test_tensors_inside_of_others():
    from torch.testing._internal.two_tensor import TwoTensor

    assert torch_api.inner_tensors(TwoTensor(torch.zeros(2), torch.ones(2))) == ["a", "b"]
    assert torch_api.inner_tensors(torch.zeros(2)) == []


def test_errors_that_come_of_fake_tensors():
    assert torch_api.is_fake_limitation(RuntimeError(".numpy() is not for tensor subclasses."))
    propagation = "Unhandled FakeTensor Device Propagation for aten.mm.default, found two devices"
    assert not torch_api.is_fake_limitation(RuntimeError(propagation))


# -- torch.compile -------------------------------------------------------------------------


class Watcher:
    """Writes down what it is told."""

    def __init__(self):
        self.told = []

    def compiling(self, program):
        frame, number = torch_api.compiled_frame(), torch_api.compile_id()
        lifted = [torch_api.lifted_from(n) for n in program.graph.find_nodes(op="placeholder")]
        values = [torch_api.example_value(n) for n in program.graph.nodes]
        found = frame, number, lifted, values, torch_api.ending_of(program)
        return lambda: self.told.append(("graph", *found))

    def broke(self, error, frame, skipped):
        self.told.append(("break", torch_api.ending(error), frame, skipped))

    def recompiling(self, guards, frame):
        self.told.append(("again", guards, frame, torch_api.compile_id()))


class BreaksOnce(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)

    def forward(self, x):
        x = self.layer(x)
        torch._dynamo.graph_break()
        return x + 1


def test_compilations_are_reported_while_they_are_watched():
    torch.compiler.reset()
    model, watcher = BreaksOnce(), Watcher()
    run = torch.compile(model, backend="eager", dynamic=False)
    assert not torch_api.is_watched()
    with torch_api.watching_compiles(watcher), torch_api.watching_compiles(watcher):
        assert torch_api.is_watched()
        run(torch.zeros(2, 2))
        run(torch.zeros(3, 2))
    assert not torch_api.is_watched() and torch_api.compile_id() == ""
    run(torch.zeros(4, 2))
    kinds = [told[0] for told in watcher.told]
    assert kinds == ["break", "graph", "graph", "again", "break", "graph", "again", "graph"]
    _, ending, frame, skipped = watcher.told[0]
    assert ending.reason.startswith("Call to `torch._dynamo.graph_break()`") and not skipped
    assert [name for *_, name in ending.stack] == ["forward"]
    assert frame.code is BreaksOnce.forward.__code__ and frame.module is None
    _, frame, number, lifted, values, ended = watcher.told[1]
    assert frame.locals["self"] is model and number == "0/0"
    sources = dict(lifted)
    assert sources["L['self']._modules['layer']._parameters['weight']"] is model.layer.weight
    assert any(source == "L['x']" for source in sources)
    assert all(isinstance(v, torch_api.FakeTensor) for v in values if v is not None)
    assert ended is not None and ended.reason.splitlines()[0] == ending.reason.splitlines()[0]
    assert watcher.told[2][-1] is None, "the last graph ends with the function"
    _, guards, _, number = watcher.told[3]
    assert number == "0/1" and len(guards) == 1 and "size mismatch at index 0" in guards[0]


def test_who_wraps_the_same_functions_keeps_their_wrapper(monkeypatch):
    from torch._dynamo.output_graph import OutputGraph

    torch.compiler.reset()
    run, seen = torch.compile(torch.nn.ReLU(), backend="eager", dynamic=False), []
    with torch_api.watching_compiles(Watcher()):
        ours = OutputGraph.call_user_compiler

        def theirs(self, *args):
            seen.append(self)
            return ours(self, *args)

        monkeypatch.setattr(OutputGraph, "call_user_compiler", theirs)
    assert OutputGraph.call_user_compiler is theirs
    watcher = Watcher()
    with torch_api.watching_compiles(watcher):
        run(torch.zeros(2))
    assert len(seen) == 1 and [told[0] for told in watcher.told] == ["graph"]


def test_the_wrapper_around_modules_of_torch_is_known():
    torch.compiler.reset()
    watcher, model = Watcher(), torch.nn.Sequential(torch.nn.ReLU())
    with torch_api.watching_compiles(watcher):
        torch.compile(model, backend="eager")(torch.zeros(2))
    assert watcher.told[0][1].module is model


def test_compiled_code_is_forgotten():
    from torch._dynamo.eval_frame import _debug_get_cache_entry_list

    def ours(program, inputs):
        return program.forward

    torch.compiler.reset()
    model, code = BreaksOnce(), BreaksOnce.forward.__code__
    torch.compile(model, backend=ours)(torch.zeros(2, 2))
    torch_api.forget_compiled([code], ours, alone=True)
    assert not _debug_get_cache_entry_list(code)
    for backend in (ours, "eager"):
        torch.compile(model, backend=backend)(torch.zeros(2, 2))
    torch_api.forget_compiled([code], ours, alone=True)
    assert len(_debug_get_cache_entry_list(code)) == 2
    torch_api.forget_compiled([code], ours, alone=False)
    assert not _debug_get_cache_entry_list(code)


def test_what_was_compiled_is_given_as_written():
    model = BreaksOnce()
    with torch_api.as_written(torch.compile(model, backend="eager")) as written:
        assert written is model
    model.compile(backend="eager")
    kept = model._compiled_call_impl
    with torch_api.as_written(model) as written:
        assert written is model and model._compiled_call_impl is None
    assert model._compiled_call_impl is kept is not None
    with torch_api.as_written(torch.compile(test_noise_ops_exist, backend="eager")) as written:
        assert written is test_noise_ops_exist


class Switching(torch.nn.Module):
    def forward(self, x):
        with torch.autocast("cpu"), torch.no_grad():
            x = x @ x
        return torch.utils.checkpoint.checkpoint(torch.relu, x, use_reentrant=False)


def test_switches_of_a_compiled_graph_are_known():
    torch.compiler.reset()
    targets = []

    def backend(program, inputs):
        targets.extend(node.target for node in program.graph.nodes if node.op == "call_function")
        return program.forward

    torch.compile(Switching(), backend=backend)(torch.zeros(2, 2, requires_grad=True))
    switches = list(filter(None, map(torch_api.switch_of, targets)))
    assert switches == ["enter", "gradients", "gradients", "leave"]
    assert sum(map(torch_api.is_checkpoint, targets)) == 1
    mode = torch_api.enter_autocast("cpu", torch.bfloat16, True, True)
    torch_api.switch_gradients(False)
    assert torch.is_autocast_enabled("cpu") and not torch.is_grad_enabled()
    torch_api.leave_autocast(mode)
    torch_api.switch_gradients(True)
    assert not torch.is_autocast_enabled("cpu") and torch.is_grad_enabled()


def test_symbolic_sizes_of_a_compiled_graph_have_bounds():
    torch.compiler.reset()
    found = []

    def backend(program, inputs):
        values = map(torch_api.example_value, program.graph.nodes)
        found.extend(filter(None, map(torch_api.shape_environment, values)))
        return program.forward

    torch.compile(torch.nn.ReLU(), backend=backend, dynamic=True)(torch.zeros(5))
    assert set(torch_api.size_ranges(found[0]).values()) == {(2, None)}
    fake = torch_api.FakeTensorMode(shape_env=found[0])
    with torch_api.without_guards(found[0]), fake:
        before = len(found[0].guards)
        size = next(iter(found[0].var_to_range))
        size = found[0].create_symintnode(size, hint=5)
        assert torch.zeros(size).shape[0] == 5
    assert len(found[0].guards) == before


def test_control_flow_is_whole_below_autograd():
    names = []

    def handle(func, args, kwargs):
        names.append(func.__name__ if hasattr(func, "__name__") else str(func))
        return func(*args, **kwargs)

    def choose(x):
        with torch_api.below_autograd_whole(handle):
            return torch.cond(x.sum() > 0, torch.sin, torch.cos, (x,))

    with torch_api.FakeTensorMode() as mode:
        traced = torch_api.trace_below_autograd(choose, mode.from_tensor(torch.zeros(2)))
    assert "cond" in names
    assert any("cond" in str(node.target) for node in traced.graph.nodes)


def test_what_autograd_keeps_can_be_seen():
    x = torch.ones(3, requires_grad=True)
    held = x.detach() + 1
    result = (x.exp() * held).sin()
    kept = {tensor.data_ptr() for tensor in torch_api.saved_tensors([result])}
    assert len(kept) == 3 and held.data_ptr() in kept
    packed = []

    def unpack(value):
        raise AssertionError("nothing is turned back")

    with torch.autograd.graph.saved_tensors_hooks(packed.append, unpack):
        hidden = x.exp()
    assert len(packed) == 1 and list(torch_api.saved_tensors([hidden])) == []
    assert torch_api.saved_tensors([held]) is not None and not list(torch_api.saved_tensors([held]))
    result.sum().backward()
    assert list(torch_api.saved_tensors([result])) == []


def test_a_twin_has_memory_of_its_own():
    mode = torch_api.FakeTensorMode()
    with mode:
        base = torch.zeros(4, 6, dtype=torch.bfloat16)
        base.requires_grad_()
        view = base.t()[1:]
        twin = torch_api.fake_twin(mode, view)
    assert isinstance(twin, torch_api.FakeTensor) and twin.fake_mode is mode
    assert (twin.shape, twin.stride(), twin.dtype) == (view.shape, view.stride(), view.dtype)
    assert twin.device == view.device and not twin.requires_grad
    assert torch_api.storage_of(twin) != torch_api.storage_of(view)
    real = torch_api.fake_twin(mode, torch.ones(3))
    assert isinstance(real, torch_api.FakeTensor) and real.device.type == "cpu"
    assert torch_api.is_plain(twin) and torch_api.is_plain(torch.nn.Parameter(torch.ones(2)))
    assert not torch_api.is_plain(torch.eye(2).to_sparse()) and not torch_api.is_plain(3)


def test_kernels_see_gradients_although_none_are_followed():
    x = torch.ones(3, requires_grad=True)
    with torch.no_grad(), torch_api.without_autograd(True):
        assert torch.is_grad_enabled()
        y = torch.ops.aten.mul.Tensor(x, 2)
        x.add_(1)  # a leaf that asks for gradients could not be written otherwise
    assert not y.requires_grad and torch.equal(x, torch.full((3,), 2.0))


def test_random_operators_are_known():
    aten = torch.ops.aten
    assert torch_api.is_random(aten.bernoulli_.float)
    assert torch_api.is_random(aten.native_dropout.default)
    assert not torch_api.is_random(aten.mul.Tensor)


def test_backward_steps_know_parameters_and_functions():
    class Twice(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, gradient):
            return gradient * 2

    x, seen = torch.ones(3, requires_grad=True), []

    def handle(func, args, kwargs):
        seen.append((func.__name__, torch_api.backward_step()))
        return func(*args, **kwargs)

    with torch_api.below_autograd(handle):
        Twice.apply(x).backward(torch.ones(3))
    steps = [step for name, step in seen if step is not None and name == "mul.Tensor"]
    assert [(step.custom, step.parameter) for step in steps] == [(True, None)]
    added = [step for _, step in seen if step is not None and step.parameter is not None]
    assert added and all(step.parameter is x and not step.custom for step in added)


def test_operators_are_found_by_name_and_say_whose_memory_they_share():
    find, shared = torch_api.find_operator, torch_api.shared_arguments
    assert find(["aten", "add", "Tensor"]) is torch.ops.aten.add.Tensor
    assert find(["higher_order", "cond"]) is torch.ops.higher_order.cond
    for names in (["aten", "add"], ["aten", "nothing", "x"], ["load_library", "x"], ["__class__"]):
        assert find(names) is None
    aten = torch.ops.aten
    assert shared(aten.transpose.int) == ("self",)
    assert shared(aten.split.Tensor) == ("self",)  # a list of views
    assert shared(aten.add_.Tensor) == ("self",) and shared(aten.add.out) == ("out",)
    assert shared(aten.topk.default) == (None, None)


def test_only_control_flow_compiles():
    compiled = []

    def compile(model, **options):
        return lambda *args: compiled.append(options) or model(*args)

    stand_in = torch_api.only_bodies(compile)
    assert stand_in(len) is len and stand_in(fullgraph=True)(len) is len and not compiled
    # As torch.cond calls it: what matters is the module that the call comes from.
    for name in torch_api._CONTROL_FLOW:
        scope = {"__name__": f"{name}cond" if name.endswith(".") else name, "compile": stand_in}
        exec("result = compile(lambda x: x + 1, backend='eager')(2)", scope)
        assert scope["result"] == 3
    assert compiled == [{"backend": "eager"}] * 2


def test_control_flow_comes_to_the_handler_whole():
    seen = []

    def handle(func, args, kwargs):
        seen.append(getattr(func, "_name", str(func)))
        return func(*args, **kwargs)

    def run():
        branches = lambda x: x + 1, lambda x: x - 1
        return torch.ops.higher_order.cond(torch.tensor(True), *branches, (torch.ones(2),))

    for watch in (torch_api.before_dispatch, torch_api.below_autograd):
        seen.clear()
        with torch_api.FakeTensorMode(allow_non_fake_inputs=True), watch(handle):
            run()
        assert seen[-1] == "cond" and seen.count("cond") == 1


def test_modules_inside_bodies_are_kept_by_an_export():
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = torch.nn.Linear(2, 2)

        def forward(self, x):
            return torch.cond(x.sum() > 0, lambda x: self.fc(x), lambda x: x.clone(), (x,))

    model = Model()
    with torch_api.keeping_body_stacks():
        program = torch.export.export(model, (torch.ones(2, 2),), strict=False)
    (linear,) = program.graph_module.true_graph_0.graph.find_nodes(
        op="call_function", target=torch.ops.aten.linear.default
    )
    # The compiler knows a module by its id.
    assert list(linear.meta["nn_module_stack"]) == [str(id(model.fc))]


def test_tensors_that_vmap_wraps():
    x, seen = torch.zeros(2, 3), []
    torch.vmap(lambda row: seen.append(torch_api.unbatched(row)) or row)(x)
    assert seen[0].shape == (2, 3) and torch_api.unbatched(x) is x


def test_numbers_that_are_computed_index_tensors():
    with torch_api.FakeTensorMode(), torch_api.indexing_by_numbers_that_flow():
        row = torch.zeros(4, 3)[torch.zeros((), dtype=torch.int)]
    assert row.shape == (3,)


def test_what_watches_operators_is_seen():
    from torch.overrides import TorchFunctionMode
    from torch.profiler import profile
    from torch.utils.flop_counter import FlopCounterMode

    assert torch_api.watchers() == []
    with FlopCounterMode(display=False), TorchFunctionMode():
        assert torch_api.watchers() == ["_FlopCounterMode", "TorchFunctionMode"]
    with profile():
        assert torch_api.watchers() == ["a profiler"]
    with torch.device("cpu"):
        assert torch_api.watchers() == []


def test_fake_tensors_on_devices_that_need_not_exist():
    mode, memory = torch_api.FakeTensorMode(), {}
    weight = torch.nn.Parameter(torch.ones(4, 6))
    column, cuda = weight.detach()[:, 1], torch.device("cuda:1")
    whole, view = (torch_api.fake_on(mode, x, cuda, memory) for x in (weight, column))
    assert (whole.device, whole.is_cuda, whole.requires_grad, whole.is_leaf) == (cuda, 1, 1, 1)
    assert (view.shape, view.stride(), view.storage_offset()) == ((4,), (6,), 1)
    assert torch_api.storage_of(whole) == torch_api.storage_of(view)
    elsewhere = torch_api.fake_on(mode, column, torch.device("cuda:0"), memory)
    assert torch_api.storage_of(elsewhere) != torch_api.storage_of(view)
    with mode:
        assert (whole @ whole.new_ones(6)).device == cuda
        assert whole.to("cuda").device == torch.device("cuda:0")
    conjugate = torch_api.fake_on(mode, torch.ones(2, dtype=torch.complex64).conj(), cuda, memory)
    assert conjugate.device == cuda


def test_fake_cuda_tensors_run_without_a_driver():
    mode, cuda = torch_api.FakeTensorMode(), torch.device("cuda:0")
    op = torch.ops.aten.scaled_dot_product_attention.default
    kernels, asked = dict(op.py_kernels), torch.cuda.amp.common.amp_definitely_not_available
    x = torch_api.fake_on(mode, torch.ones(1, 2, 8, 8), cuda, {})
    lstm = torch.nn.LSTM(8, 8)
    state = {n: torch_api.fake_on(mode, p, cuda, {}) for n, p in lstm.named_parameters()}
    called: list[str] = []

    def call(func, args, kwargs):
        called.append(op_info(func).op)
        return func(*args, **kwargs)

    with torch_api.as_if_on_cuda(), mode, torch.no_grad():
        with torch_api.below_autograd(call):
            made = torch.nn.functional.scaled_dot_product_attention(x, x, x)
        with torch.autocast("cuda", dtype=torch.bfloat16):
            assert (x @ x).dtype == torch.bfloat16
        out, _ = torch.func.functional_call(lstm, state, (x[0],))
    if not torch.cuda.is_available():
        assert "aten._scaled_dot_product_efficient_attention" in called
    assert made.device == out.device == cuda
    assert dict(op.py_kernels) == kernels
    assert torch.cuda.amp.common.amp_definitely_not_available is asked


def test_what_the_compiler_remembers():
    """`counters`, `convert_frame.input_codes` and `reset_code`, which `compiling` relies on."""
    from torch._dynamo import convert_frame

    def double(x):
        return x * 2

    def count(module, inputs):
        return module.forward

    original, x = torch.compile, torch.ones(2)
    met = len(convert_frame.input_codes.seen)
    try:
        torch.compile = lambda function, **_: original(function, backend=count)
        with torch_api.compiling(double) as (compiled, done):
            assert torch.equal(compiled(x), double(x)) and (done.graphs, done.left) == (1, 0)
            compiled(x)
            assert done.graphs == 1
            assert len(convert_frame.input_codes.seen) > met
    finally:
        torch.compile = original
    codes = convert_frame.input_codes
    assert len(codes.seen) <= met
    assert codes.seen_ids == {id(place()) for place in codes.seen if place() is not None}


def test_workers_of_the_compiler():
    from torch._inductor import async_compile

    assert isinstance(len(async_compile._pool_set), int)
    assert callable(async_compile.shutdown_compile_workers)


def test_an_error_of_the_compiler_is_one_line():
    from torch._dynamo.exc import BackendCompilerFailed
    from torch._inductor.exc import InvalidCxxCompiler

    missing = BackendCompilerFailed(lambda: None, InvalidCxxCompiler(), None)
    assert torch_api.compiler_error(missing).startswith("there is no C++ compiler")
    other = BackendCompilerFailed(lambda: None, ValueError("\none\ntwo"), None)
    assert torch_api.compiler_error(other) == "ValueError: one"
    assert torch_api.compiler_error(KeyError()) == "KeyError"
