"""The inference front end: the operators that kernels run when no gradient is asked for.

The model runs once on tensors without values, as under `torch.no_grad`, and every operator that
runs below autograd is written down in eager order, with the memory that is given back after it.
"""

from __future__ import annotations

import torch
from torch import nn

from . import torch_api
from .capture import Capture
from .example import Args, mode_for
from .watched import WatchedRecording


def capture(model: nn.Module, args: Args, *, on_values: bool = False) -> Capture:
    """Run `model` on fake tensors without gradients and turn what it calls into records.

    With `on_values` it runs on the example and its own weights, for a model that looks at the
    values of tensors; what it saw is kept in the capture's ``decisions``.
    """
    run = WatchedRecording(model, None if on_values else mode_for(model, args))
    with run.tensors():
        run.prepare(args)
        recorded = torch_api.below_autograd(run.tracer.call)
        with torch.no_grad(), recorded, run.tracer.modules():
            outputs = run.forward()
        run.return_outputs(outputs)
        run.tracer.stop()
    return run.read()
