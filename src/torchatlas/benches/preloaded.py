"""What the server process of a zoo run imports once, so that no worker has to.

Importing it anywhere else does nothing.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import os
import sys
from contextlib import suppress

MODULES = (
    "torch._dynamo",  # fake tensors need it, and it takes longest
    "torchatlas.benches.worker",
    "torchatlas.api",
    "torchatlas.frontends.exported",
    "torchatlas.frontends.traced",
    "torchatlas.measurements.latency",
)


def prepare() -> None:
    """Make this process, of which others are forked, ready for that."""
    # What asks for a GPU while it is imported must not initialise CUDA: no fork could use it.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    for name in MODULES:
        # What cannot be imported is the worker's to tell; the server has to be there for it.
        with suppress(Exception):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # else the first collection in each worker copies all of it
    # It has nothing to tidy up, and taking all modules down would go on for seconds.
    atexit.register(os._exit, 0)


if any("multiprocessing.forkserver" in part for part in sys.orig_argv):
    prepare()
