"""The `trace` front end: one run on tensors without values, each call written down as it is made.

It sees the operators that the model calls before autograd and autocast take them apart, so that
``aten.linear`` stays whole, as `torch.export` does; and it costs little more than the run.
"""

from __future__ import annotations

import torch
from torch import nn

from . import torch_api
from .capture import Capture
from .example import Args, mode_for
from .recording import Recording


def capture(model: nn.Module, args: Args) -> Capture:
    """Run `model` on fake tensors and turn the operators that it calls into records."""
    mode = mode_for(model, args)
    run = Recording(model, mode, hold=True)
    with mode:
        run.prepare(args)
        # As torch.export has it: which library computes is not part of the model.
        cudnn = torch.backends.cudnn.flags(enabled=False)
        with torch_api.before_dispatch(run.tracer.call), run.tracer.modules(), cudnn:
            outputs = run.forward()
        run.return_outputs(outputs)
    return run.read()
