r"""Compare what `torchatlas.estimate` says of a device with what compiled models take there.

First the device is calibrated (or `--limits FILE` gives its limits), then each model is captured
with random weights, estimated, and only then run: eager and under `torch.compile`, by
torch.utils.benchmark. `ratio` is the estimate over the compiled time; no number of a model that was
measured goes into an estimate. `unfused` is the estimate with every op as a kernel of its own. On a
CPU, one thread is timed by the processor's time that it takes, so that what else the machine does
weighs less. On a GPU there are also the predicted peak of memory beside that of an eager run, by
`torch.cuda.max_memory_allocated`, and the kernels of an eager run added up over the whole, from
`torchatlas.measure`.

    python benchmarks/estimates.py --small --markdown benchmarks/results/estimates.md
    python benchmarks/estimates.py --device cuda --results /tmp/estimates.json \
        --markdown benchmarks/results/estimates_cuda.md

`--results` keeps what is done in a file, so that a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from torch import nn
from torch.utils.benchmark import Timer
from torch.utils.benchmark.utils.timer import timer as timeit_clock

import torchatlas as ta
from torchatlas import devices
from torchatlas.measurements.calibration import calibrate

LIMIT = 0.25
"""How far an estimate may be off to count as near."""


_REFERENCE = 512
"""Rows of the square matrices whose product says how fast the machine is meanwhile."""


class UNet(nn.Module):
    """Three levels of convolutions down and up again, as in segmentation and diffusion."""

    def __init__(self, width: int) -> None:
        super().__init__()
        sizes = [width, 2 * width, 4 * width]
        self.first = self._block(3, width)
        self.down = nn.ModuleList(self._block(a, 2 * a) for a in sizes)
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * a, a, 2, 2) for a in reversed(sizes))
        self.join = nn.ModuleList(self._block(2 * a, a) for a in reversed(sizes))
        self.last = nn.Conv2d(width, 3, 1)

    @staticmethod
    def _block(given: int, made: int) -> nn.Module:
        parts = [nn.Conv2d(given, made, 3, padding=1), nn.GroupNorm(8, made), nn.SiLU()]
        return nn.Sequential(*parts, nn.Conv2d(made, made, 3, padding=1), nn.SiLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return an image of the size of `x`."""
        kept = [self.first(x)]
        for block in self.down:
            kept.append(block(nn.functional.max_pool2d(kept[-1], 2)))
        x = kept.pop()
        for up, join in zip(self.up, self.join, strict=True):
            x = join(torch.cat([up(x), kept.pop()], 1))
        return self.last(x)


def _vision(name: str, batch: int) -> tuple[nn.Module, torch.Tensor]:
    from torchvision import models

    return models.get_model(name), torch.zeros(batch, 3, 224, 224)


def _mixer(batch: int) -> tuple[nn.Module, torch.Tensor]:
    import timm

    return timm.create_model("mixer_b16_224"), torch.zeros(batch, 3, 224, 224)


def _text(kind: str, shape: tuple[int, int], **sizes: int) -> tuple[nn.Module, torch.Tensor]:
    import transformers

    config = getattr(transformers, f"{kind.removesuffix('Encoder')}Config")(**sizes)
    config.use_cache = False
    name = {"Bert": "BertModel", "GPT2": "GPT2LMHeadModel", "Llama": "LlamaForCausalLM"}
    model = getattr(transformers, name.get(kind, "T5EncoderModel"))(config)
    return model, torch.zeros(shape, dtype=torch.long)


_LLAMA = {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16}
_LLAMA |= {"num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256}
_SHORT_LLAMA = {**_LLAMA, "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 4}
_SHORT_LLAMA |= {"num_attention_heads": 16, "vocab_size": 32000}
_T5 = {"d_model": 512, "d_ff": 2048, "num_layers": 6, "num_heads": 8}

Build = Callable[[bool], tuple[nn.Module, torch.Tensor]]
MODELS: dict[str, tuple[str, str, Build]] = {
    "resnet50": ("64", "1", lambda s: _vision("resnet50", 1 if s else 64)),
    "vit_b_16": ("32", "1", lambda s: _vision("vit_b_16", 1 if s else 32)),
    "convnext_tiny": ("32", "1", lambda s: _vision("convnext_tiny", 1 if s else 32)),
    "efficientnet_b0": ("64", "1", lambda s: _vision("efficientnet_b0", 1 if s else 64)),
    "mixer_b16": ("32", "1", lambda s: _mixer(1 if s else 32)),
    "unet": ("8x512²", "1x128²", lambda s: _unet(s)),
    "bert_base": ("16x512", "1x128", lambda s: _text("Bert", (1, 128) if s else (16, 512))),
    "gpt2": ("8x1024", "1x128", lambda s: _text("GPT2", (1, 128) if s else (8, 1024))),
    "llama_1b": (
        "1x2048",
        "1x128, 4 layers",
        lambda s: _text("Llama", (1, 128 if s else 2048), **(_SHORT_LLAMA if s else _LLAMA)),
    ),
    "t5_small": (
        "32x512",
        "1x128",
        lambda s: _text("T5Encoder", (1, 128) if s else (32, 512), **_T5),
    ),
}
"""Name to its size, its size if small, and what makes model and input."""


def _unet(small: bool) -> tuple[nn.Module, torch.Tensor]:
    shape = (1, 3, 128, 128) if small else (8, 3, 512, 512)
    return UNet(32 if small else 64), torch.zeros(shape)


@dataclass
class Row:
    """One model: microseconds and bytes."""

    model: str
    size: str
    dtype: str
    estimate: float
    unfused: float
    bound: str
    eager: float
    compiled: float
    kernels: float | None = None
    predicted: int | None = None
    peak: int | None = None
    pace: float | None = None
    """What a product reached beside the timing, over what it reached in the calibration."""

    @property
    def ratio(self) -> float:
        """Return the estimate over the compiled time."""
        return self.estimate / self.compiled


def compare(name: str, limits: devices.Device, options: argparse.Namespace) -> Row:
    """Estimate one model, then run it."""
    size, small, build = MODELS[name]
    dtype = getattr(torch, options.dtype)
    torch.manual_seed(0)
    held = torch.cuda.memory_allocated() if options.device == "cuda" else 0
    model, example = build(options.small)
    model = model.eval().to(options.device, dtype)
    example = example.to(options.device)
    if example.is_floating_point():
        example = torch.randn_like(example, dtype=dtype)
    graph = ta.capture(model, example, mode="inference")
    found = ta.estimate(graph, limits, tf32=True)
    total = sum(found.bounds.values()) or 1.0
    row = Row(
        name,
        small if options.small else size,
        options.dtype,
        found.us,
        found.unfused_us,
        ", ".join(f"{bound} {us / total:.0%}" for bound, us in found.bounds.items()),
        eager=_time(model, example, options),
        compiled=0.0,
        predicted=found.peak_bytes,
    )
    if options.device == "cuda":
        row.peak = _peak(model, example) - held
        row.kernels = _kernels(graph)
    del graph
    compiled = torch.compile(model)
    with torch.no_grad():
        compiled(example)
    before = _pace(limits, options)
    row.compiled = _time(compiled, example, options)
    row.pace = None if before is None else (before + (_pace(limits, options) or before)) / 2
    torch.compiler.reset()
    gc.collect()
    return row


def _time(model: Callable[..., Any], example: torch.Tensor, options: argparse.Namespace) -> float:
    """Return the median microseconds of a call, after three that do not count."""
    one_thread = options.device == "cpu" and torch.get_num_threads() == 1
    timer = Timer(
        "with torch.no_grad(): model(x)",
        "import torch",
        timer=time.process_time if one_thread else timeit_clock,
        num_threads=torch.get_num_threads(),
        globals={"model": model, "x": example},
    )
    timer.timeit(3)
    return timer.blocked_autorange(min_run_time=options.seconds).median * 1e6


def _pace(limits: devices.Device, options: argparse.Namespace) -> float | None:
    """Return how fast a CPU multiplies now, as a share of what the limits say; None on a GPU.

    The processor of a machine that is shared slows down with what its neighbours do.
    """
    if options.device != "cpu":
        return None
    flops = 2.0 * _REFERENCE**3
    known = limits.matrix_rate(options.dtype, flops=flops)
    matrix = torch.rand(_REFERENCE, _REFERENCE).to(getattr(torch, options.dtype))
    time = _time(lambda x: x @ x, matrix, options)
    return None if known is None else flops / (time * 1e-6) / known


def _peak(model: nn.Module, example: torch.Tensor) -> int:
    """Return the most bytes that were allocated at once in an eager run."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    with torch.no_grad():
        model(example)
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated()


def _kernels(graph: ta.ModelGraph) -> float | None:
    """Return the part of an eager run that its kernels take; None where measuring fails."""
    try:
        whole = ta.measure(graph, device="cuda", steps=20).graph["measured"]
    except ta.AtlasError as error:
        print(f"  not measured: {error}", flush=True)
        return None
    return whole.sum_us / whole.median_us


_READING = (
    "An estimate comes from limits that were measured first: a ratio under 1 says how much slower "
    "the model ran than they allow. On a CPU nearly all of it are products and convolutions. Those "
    "run at the rate of measured ones of the same class, as thin and with as many operations; the "
    "grid of those is geometric and was not chosen by these models (docs/roofline.md). Other work "
    "on the machine slows the measured times, by some tenths where it is much, and hardly the "
    "limits, which are those of the fastest of many runs: `pace` is the median rate of a product "
    "of 512 x 512, just before and after the compiled model was timed, over that in the limits."
)


def markdown(rows: list[Row], limits: devices.Device, cuda: bool) -> str:
    """Return the rows as a page."""
    near = sum(abs(row.ratio - 1) <= LIMIT for row in rows)
    rates = ", ".join(f"{kind} {rate / 1e12:.4g}" for kind, rate in limits.matrix.items())
    cache = (
        f", {limits.cache / 2**20:.4g} MiB of cache at {limits.cache_bandwidth / 1e9:.4g} GB/s"
        if limits.cache and limits.cache_bandwidth
        else ""
    )
    head = ["model", "size", "type", "estimate", "eager", "compiled", "ratio", "unfused", "bound"]
    head += [] if cuda else ["pace"]
    head += ["predicted peak", "measured peak", "kernels / whole"] if cuda else []
    lines = [
        "# Estimates beside compiled models",
        "",
        f"torch {torch.__version__}, Python {platform.python_version()}, {limits.name}"
        + ("" if cuda else f", {torch.get_num_threads()} of {os.cpu_count()} threads")
        + f", {datetime.now(UTC):%Y-%m-%d}. Milliseconds. What each column is stands in "
        "`benchmarks/estimates.py`.",
        "",
        f"Limits: {rates} TFLOP/s, {limits.bandwidth / 1e9:.4g} GB/s{cache}, "
        f"{limits.launch_us:.3g} µs a launch ({limits.source}).",
        "",
        *(() if cuda else (_READING, "")),
        f"**{near} of {len(rows)} estimates are within {LIMIT:.0%} of the compiled time.**"
        + ("" if cuda else _paced(rows)),
        "",
        f"| {' | '.join(head)} |",
        f"|---|---|---|{'--:|' * 5}---|{'--:|' * (3 if cuda else 1)}",
        *(_line(row, cuda) for row in rows),
        "",
    ]
    return "\n".join(lines)


def _paced(rows: list[Row]) -> str:
    """Say what is left of the differences where the machine's own pace is taken out."""
    near = sum(abs(row.ratio / row.pace - 1) <= LIMIT for row in rows if row.pace)
    return f" Of ratio / pace, {near} are within {LIMIT:.0%} of 1."


def _line(row: Row, cuda: bool) -> str:
    cells = [row.model, row.size, row.dtype]
    cells += [f"{us / 1e3:.3g}" for us in (row.estimate, row.eager, row.compiled)]
    cells += [f"{row.ratio:.2f}", f"{row.unfused / 1e3:.3g}", row.bound]
    if not cuda:
        cells.append("?" if row.pace is None else f"{row.pace:.2f}")
    if cuda:
        ratio = "" if not row.peak or not row.predicted else f" ({row.predicted / row.peak:.3f})"
        cells += [f"{(n or 0) / 1e9:.3f} GB" for n in (row.predicted, row.peak)]
        cells[-1] += ratio
        cells.append("?" if row.kernels is None else f"{row.kernels:.3f}")
    return f"| {' | '.join(cells)} |"


def _known(path: Path | None) -> dict[str, Row]:
    if path is None or not path.exists():
        return {}
    return {row["model"]: Row(**row) for row in json.loads(path.read_text())}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--small", action="store_true", help="sizes for a CPU")
    parser.add_argument("--dtype", help="of weights; bfloat16 on cuda, float32 on cpu by default")
    parser.add_argument("--limits", type=Path, help="a file of `torchatlas calibrate`")
    parser.add_argument("--threads", type=int, default=1, help="of torch, on a CPU")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each timing")
    parser.add_argument("--results", type=Path, help="keep rows here, and go on from them")
    parser.add_argument("--markdown", type=Path, help="write the table here")
    options = parser.parse_args()
    options.dtype = options.dtype or ("bfloat16" if options.device == "cuda" else "float32")
    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads)
    torch.set_float32_matmul_precision("high")
    limits = devices.load(options.limits) if options.limits else calibrate(options.device)
    done = _known(options.results)
    for name in options.models:
        if name not in done:
            done[name] = compare(name, limits, options)
        row = done[name]
        print(f"{name:16} {row.estimate / 1e3:9.3f} ms, compiled {row.compiled / 1e3:9.3f} ms, "
              f"eager {row.eager / 1e3:9.3f} ms, ratio {row.ratio:.2f}", flush=True)  # fmt: skip
        if options.results:
            options.results.write_text(json.dumps([asdict(row) for row in done.values()]))
        rows = [done[known] for known in options.models if known in done]
        page = markdown(rows, limits, options.device == "cuda")
        if options.markdown:
            options.markdown.write_text(page)
    sys.stdout.write(f"\n{page}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
