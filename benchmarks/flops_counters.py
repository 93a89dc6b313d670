"""The counters that `flops_accuracy.py` compares, and how the number of each becomes FLOPs.

Each function runs one on a model and gives the FLOPs of contractions, as far as it can tell them
apart, and the total that the counter itself gives.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import torchatlas

Counts = tuple[int, int]


def count_ours(model: nn.Module, args: tuple[Tensor, ...]) -> Counts:
    total = torchatlas.totals(torchatlas.capture(model, args))
    return total.flops, total.flops


def _flop_counter(model: nn.Module, args: tuple[Tensor, ...]) -> Counts:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        model(*args)
    return (counter.get_total_flops(),) * 2


def _flop_counter_inference(model: nn.Module, args: tuple[Tensor, ...]) -> Counts:
    with torch.no_grad():
        return _flop_counter(model.eval(), args)


def _profiler(model: nn.Module, args: tuple[Tensor, ...]) -> Counts:
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], with_flops=True) as found:
        model(*args)
    flops = {event.key: event.flops for event in found.key_averages() if event.flops}
    elementwise = sum(flops.get(key, 0) for key in ("aten::add", "aten::mul"))
    return sum(flops.values()) - elementwise, sum(flops.values())


CONTRACTIONS_OF_FVCORE = ("addmm", "bmm", "conv", "einsum", "linear", "matmul", "mm")


def _fvcore(model: nn.Module, args: tuple[Tensor, ...]) -> Counts:
    from fvcore.nn import FlopCountAnalysis

    found = FlopCountAnalysis(model, args)
    by_operator = found.by_operator()
    contractions = sum(by_operator[name] for name in CONTRACTIONS_OF_FVCORE)
    return 2 * int(contractions), 2 * int(found.total())


def _ptflops(model: nn.Module, args: tuple[Tensor, ...], backend: str) -> Counts:
    from ptflops import get_model_complexity_info

    class Keywords(nn.Module):
        """Takes its inputs by name, so that nothing is divided by a batch size."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, **inputs: Tensor) -> Any:
            return self.model(*inputs.values())

    inputs = {f"input_{i}": arg for i, arg in enumerate(args)}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        macs, _ = get_model_complexity_info(
            Keywords(), (1,), input_constructor=lambda _: inputs, backend=backend,
            as_strings=False, print_per_layer_stat=False,
        )  # fmt: skip
    if macs is None:
        raise RuntimeError(printed.getvalue().partition("exception: \n")[2] or "no result")
    return 2 * int(macs), 2 * int(macs)


def _thop(model: nn.Module, args: tuple[Tensor, ...]) -> Counts:
    from thop import profile

    macs, _ = profile(model, inputs=args, verbose=False)
    return 2 * int(macs), 2 * int(macs)


def _calflops(model: nn.Module, args: tuple[Tensor, ...]) -> Counts:
    from calflops import calculate_flops

    flops, macs, _ = calculate_flops(
        model, args=list(args), print_results=False, output_as_string=False
    )
    return 2 * int(macs), int(flops)


def _deepspeed(model: nn.Module, args: tuple[Tensor, ...]) -> Counts:
    from deepspeed.profiling.flops_profiler import get_model_profile

    flops, macs, _ = get_model_profile(
        model, args=list(args), print_profile=False, detailed=False, warm_up=0, as_string=False
    )
    return 2 * int(macs), int(flops)


def _torchinfo(model: nn.Module, args: tuple[Tensor, ...]) -> Counts:
    from torchinfo import summary

    macs = summary(model, input_data=args, verbose=0).total_mult_adds
    return 2 * int(macs), 2 * int(macs)


@dataclass(frozen=True)
class Peer:
    """A counter: its name in the tables, how it runs, its module, and how it was converted."""

    name: str
    run: Callable[[nn.Module, tuple[Tensor, ...]], Counts]
    package: str
    doc: str


PEERS = {
    peer.name: peer
    for peer in (
        Peer("torchatlas", count_ours, "torchatlas", "`totals(capture(...)).flops`, as it is"),
        Peer(
            "FlopCounterMode",
            _flop_counter,
            "torch",
            "around the plain call, in the mode that the case says; `get_total_flops()`, as it is",
        ),
        Peer(
            "FCM, no_grad",
            _flop_counter_inference,
            "torch",
            "FlopCounterMode again, around `eval()` under `no_grad()`",
        ),
        Peer(
            "torch.profiler",
            _profiler,
            "torch",
            "`with_flops=True`; the FLOPs of all events but `aten::add` and `aten::mul`, which "
            "are elementwise (its own total has them)",
        ),
        Peer(
            "fvcore",
            _fvcore,
            "fvcore",
            "`FlopCountAnalysis`, whose flop is a multiply-add: twice its `by_operator()` of "
            f"{', '.join(CONTRACTIONS_OF_FVCORE)} (its own total has norms and pooling too)",
        ),
        Peer(
            "ptflops",
            lambda model, args: _ptflops(model, args, "pytorch"),
            "ptflops",
            "`backend='pytorch'`, multiply-adds: twice its total, which has biases, norms, "
            "activations and pooling in it and cannot be taken apart; inputs by name, since it "
            "divides by the batch of positional ones",
        ),
        Peer(
            "ptflops, aten",
            lambda model, args: _ptflops(model, args, "aten"),
            "ptflops",
            "`backend='aten'`, likewise",
        ),
        Peer(
            "thop",
            _thop,
            "thop",
            "`profile`, multiply-adds: twice its total, which has norms and pooling in it",
        ),
        Peer(
            "calflops",
            _calflops,
            "calflops",
            "`calculate_flops`: the nearer of twice its MACs, which are of contractions but 0 "
            "where it knows only FLOPs, and its FLOPs (its own total), which are of everything",
        ),
        Peer(
            "DeepSpeed",
            _deepspeed,
            "deepspeed",
            "`get_model_profile`, without its warm-up; likewise",
        ),
        Peer("torchinfo", _torchinfo, "torchinfo", "`summary`: twice its `total_mult_adds`"),
    )
}


def passes_by_torch(model: nn.Module, args: tuple[Tensor, ...]) -> Counts:
    """Return the FLOPs of the forward and of the backward pass, by FlopCounterMode."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as forward:
        loss = model(*args).sum()
    with FlopCounterMode(display=False) as backward:
        loss.backward()
    return forward.get_total_flops(), backward.get_total_flops()


def passes_by_us(model: nn.Module, args: tuple[Tensor, ...]) -> Counts:
    """Return the FLOPs of the forward and of the backward pass, by torchatlas."""
    graph = torchatlas.capture(model, args, mode="training")
    flops = {"forward": 0, "backward": 0}
    for _, node in graph.nodes(data=True):
        flops[node["phase"]] += node.get("flops") or 0
    return flops["forward"], flops["backward"]
