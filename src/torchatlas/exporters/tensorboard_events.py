"""Write a graph as an event file of TensorBoard, or add it to the log of a running writer.

An event file is a row of records; `render` writes the graph as one, and after it what colours the
graph as others, each under a tag of its own. Time stamps are fixed, so equal graphs give equal
files. The framing of records and the messages are those of the package ``tensorboard``;
TensorFlow is not needed.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

from ..errors import MissingExtraError, UsageError
from ..graph import ModelGraph
from .nesting import flat
from .tensorboard_names import Names
from .tensorboard_nodes import graph_def
from .tensorboard_stats import run_metadata

__all__ = ["add_graph", "render"]

VERSION = "brain.Event:2"
"""What the first record of an event file says, or nobody reads the rest."""


def render(graph: ModelGraph, *, parameters: bool = True, include_source: bool = False) -> bytes:
    """Return `graph` as an event file, as TensorBoard finds it under ``*.tfevents*``.

    ``parameters=False`` leaves out the nodes of parameters, buffers and constants.
    `include_source` adds the lines of code. Raises MissingExtraError without TensorBoard.
    """
    proto = _proto()
    try:
        from tensorboard.summary.writer.record_writer import RecordWriter
    except ImportError as error:
        raise MissingExtraError("tensorboard", extra="tensorboard") from error

    file = io.BytesIO()
    writer = RecordWriter(file)
    writer.write(proto.Event(wall_time=0, file_version=VERSION).SerializeToString())
    for event in _events(graph, parameters, include_source):
        writer.write(event.SerializeToString(deterministic=True))
    return file.getvalue()


def add_graph(
    writer: Any, graph: ModelGraph, *, parameters: bool = True, include_source: bool = False
) -> None:
    """Add `graph` to what a `SummaryWriter` logs, with the options of `render`.

    `writer` may also be a logger that holds one as its `experiment`, as Lightning's does, or the
    `FileWriter` inside. Unlike the writer's own `add_graph` this neither runs nor traces the
    model. Raises UsageError for anything else, and for a writer of another library whose events
    are not TensorBoard's.
    """
    target = _event_writer(writer)
    for event in _events(graph, parameters, include_source):
        try:
            target.add_event(event, step=event.step)
        except TypeError as error:
            raise UsageError(
                f"{type(writer).__name__} does not take TensorBoard's events: {error}",
                hint="write graph.export('events.tfevents') into the folder of the log",
            ) from error
    if hasattr(target, "flush"):
        target.flush()


def _event_writer(writer: Any) -> Any:
    """Return what takes events: `writer` or what is inside it."""
    for inner in ("experiment", "file_writer"):
        writer = getattr(writer, inner, None) or writer
    if not callable(getattr(writer, "add_event", None)):
        raise UsageError(
            f"{type(writer).__name__} is no writer of events, or a closed one",
            hint="give a torch.utils.tensorboard.SummaryWriter",
        )
    return writer


def _events(graph: ModelGraph, parameters: bool, include_source: bool) -> Iterator[Any]:
    """Yield the events that show `graph`, with no time of their own."""
    proto = _proto()
    graph = flat(graph)
    names = Names(graph, parameters=parameters)
    content = graph_def(graph, names, include_source).SerializeToString(deterministic=True)
    yield proto.Event(wall_time=0, graph_def=content)
    for step, (tag, metadata) in enumerate(run_metadata(graph, names)):
        tagged = proto.TaggedRunMetadata(
            tag=tag, run_metadata=metadata.SerializeToString(deterministic=True)
        )
        yield proto.Event(wall_time=0, step=step, tagged_run_metadata=tagged)


def _proto() -> Any:
    try:
        from tensorboard.compat.proto import event_pb2
    except ImportError as error:
        raise MissingExtraError("tensorboard", extra="tensorboard") from error
    return event_pb2
