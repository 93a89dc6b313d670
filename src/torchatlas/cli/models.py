"""What a command works on: a model that it captures, or a file that it reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError

if TYPE_CHECKING:
    from ..graph import ModelGraph


def is_file(model: str, trust: bool, places: Sequence[str] = ()) -> bool:
    """Say whether a command's MODEL is a file to read, rather than a model to make."""
    from ..reading import SUFFIXES

    found = model.lower().endswith(SUFFIXES)
    if found and places:
        raise UsageError(
            "what is in a file keeps its devices", hint="give --device with a model to capture"
        )
    if trust and not found:
        raise UsageError("--trust is for .pt2 files", hint="leave it out")
    return found


def loaded(file: Path | str, trust: bool) -> ModelGraph:
    """Return the graph in a file."""
    from ..reading import load

    return load(file, trust=trust)


def captured(
    model: str,
    inputs: list[str],
    arguments: list[str],
    frontend: str,
    train: bool,
    fake: bool,
    include_source: bool = False,
    dynamic: Sequence[str] = (),
    mode: Any = "forward",
    device: Sequence[str] = (),
) -> ModelGraph:
    """Return the graph of a model that options describe, and say what takes long meanwhile."""
    from ..text import progress

    with progress(f"loading {model}"):
        from ..api import capture as capture_graph
        from ..frontends.loading import (
            load_model,
            make_example,
            parse_argument,
            parse_dynamic,
            parse_input,
        )
        from ..frontends.placing import parse_places

        places = parse_places(device)
        made = dict(map(parse_argument, arguments))
        symbols = parse_dynamic(dynamic)
        for text in inputs:
            parse_input(text)
        module = load_model(model, made, fake=fake).train(train)
        example = make_example(inputs, module)
    return capture_graph(
        module,
        example,
        mode=mode,
        frontend=frontend,
        include_source=include_source,
        dynamic=symbols,
        device=places,
    )
