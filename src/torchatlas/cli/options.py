"""Arguments and options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

Model = Annotated[
    str,
    typer.Argument(
        help="module:NAME, path/to/file.py:NAME, timm:NAME, or hf:TYPE (random weights)."
    ),
]
Input = Annotated[
    list[str],
    typer.Option("--input", help="Input as [name=]SHAPE[:DTYPE]: 1x3x224x224, ids=1x128:int64."),
]
Arguments = Annotated[
    list[str], typer.Option("--arg", help="Argument of the model's constructor, name=value.")
]
Train = Annotated[bool, typer.Option("--train", help="Training mode in place of eval mode.")]
Frontend = Annotated[str, typer.Option(help="auto, trace, export or fx.")]
Mode = Annotated[
    str,
    typer.Option(
        help="forward, inference (without gradients) or training (forward, loss and backward)."
    ),
]
Fake = Annotated[
    bool, typer.Option("--fake", help="Make no weights: for models larger than the memory.")
]
Places = Annotated[
    list[str],
    typer.Option(
        "--device",
        help="Place the model on a device that need not exist, cuda or cuda:1, or parts of it: "
        "PATH=DEVICE for each, =DEVICE for the rest.",
    ),
]
Depth = Annotated[int, typer.Option(min=0, help="Levels of modules in the summary.")]
Dynamic = Annotated[
    list[str],
    typer.Option(
        "--dynamic",
        help="Symbolic sizes: x=batch,_,height,width, or batch,seq for the leading dimensions "
        "of every input that has as many.",
    ),
]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust", help="Let torch load a .pt2 file, which can run any code planted in it."
    ),
]
Weights = Annotated[str, typer.Option(help="Weights in ONNX files: include, external or none.")]
Functions = Annotated[
    bool,
    typer.Option("--functions", help="Modules as functions in ONNX files, which open in Netron."),
]
