"""What `torch.compile` makes of a program: its graphs, the breaks between them, recompilations."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from .annotations import annotate
from .graph import ModelGraph, build
from .names import clean
from .records import with_bodies
from .sums import totals
from .text import Summary, number

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from .frontends.capture import Capture, Source
    from .frontends.dynamo import Again, Break, Compilation

_P = ParamSpec("_P")
_R = TypeVar("_R")

KEPT = 64
"""Compilations that `recorded` keeps; older ones are dropped."""


class CompiledGraph:
    """One graph that `torch.compile` made, and the backward pass of it.

    The graphs are read when they are first asked for, and then kept.
    """

    def __init__(self, found: Compilation, include_source: bool) -> None:
        self.compile_id: str = found.compile_id
        """torch's number for the compilation, ``frame/attempt``, as its logs have it."""
        self.source: str = found.source
        """``file:line`` at which the compiled code begins."""
        self.function: str = found.function
        self.failure: str = ""
        """Why there is no backward graph, where there should be one."""
        self._found = found
        self._include_source = include_source
        self._forward: ModelGraph | None = None
        self._backward: ModelGraph | None = None
        self._tried = False

    @property
    def forward(self) -> ModelGraph:
        """The operators that the graph calls, with the names that they have in the model."""
        if self._forward is None:
            from .frontends import dynamo

            self._forward = _graph(*dynamo.read_forward(self._found), self._include_source)
        return self._forward

    @property
    def backward(self) -> ModelGraph | None:
        """What runs where the results are differentiated; None where nothing asks for it."""
        if not self._tried:
            from .frontends import dynamo

            self._tried = True
            try:
                found = dynamo.read_backward(self._found)
            except Exception as error:
                self.failure = clean(dynamo.reason(error))
            else:
                self._backward = found and _graph(*found, self._include_source)
        return self._backward

    @property
    def graphs(self) -> tuple[ModelGraph, ...]:
        """The forward graph, and the backward graph where there is one."""
        return (self.forward, *filter(None, [self.backward]))

    def __repr__(self) -> str:
        return f"CompiledGraph({self.compile_id}: {self.function}, {self.source})"


def _graph(found: Capture, source: Source, include_source: bool) -> ModelGraph:
    if not include_source:
        for op in with_bodies(found.records):
            op.source = ""
    graph, source.ids = build(found.records, **found.attrs)
    graph.source = source
    return annotate(graph)


@dataclass(slots=True)
class Recompilation:
    """A compilation of code that was compiled before, because no earlier graph could serve."""

    source: str
    """``file:line`` at which the function begins."""
    function: str
    guards: tuple[str, ...]
    """What changed: the guard that failed of each earlier graph, the last one's first."""
    compile_id: str
    """torch's number for the compilation."""
    compiled: CompiledGraph | None = field(default=None, repr=False)
    """What it led to; None where nothing was compiled: often, torch's limit was reached."""

    @property
    def reason(self) -> str:
        """What changed against the last graph: the guard that failed."""
        return self.guards[0] if self.guards else "unknown"

    @property
    def graph(self) -> ModelGraph | None:
        """The graph that it led to."""
        return None if self.compiled is None else self.compiled.forward


class Recorded:
    """What was recorded: `graphs`, `breaks` and `recompilations`; prints as a table."""

    def __init__(self, *, include_source: bool = True, limit: int | None = None) -> None:
        self._include_source = include_source
        self._compilations: deque[CompiledGraph] = deque(maxlen=limit)
        self._breaks: deque[Break] = deque(maxlen=limit)
        self._recompilations: deque[Recompilation] = deque(maxlen=limit)

    @property
    def graphs(self) -> tuple[ModelGraph, ...]:
        """Every compiled graph, forward and backward, in the order of compilation."""
        return tuple(graph for one in self._compilations for graph in one.graphs)

    @property
    def compilations(self) -> tuple[CompiledGraph, ...]:
        """Every compilation that made a graph."""
        return tuple(self._compilations)

    @property
    def breaks(self) -> tuple[Break, ...]:
        """The places in the code that end a graph; each reason at a place counts once."""
        return tuple(self._breaks)

    @property
    def recompilations(self) -> tuple[Recompilation, ...]:
        """The compilations of code that was compiled before, and why."""
        return tuple(self._recompilations)

    def run(self, function: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
        """Call `function` under `torch.compile`, record what that makes, and return the result.

        `function` may be a model that was compiled before: it is compiled anew. Eager torch runs
        the graphs, and afterwards they are dropped from torch's cache; what other backends made
        of the same code stays there, unless torch is too old to keep the two apart.
        """
        from .frontends import dynamo

        with dynamo.watching(self):
            result: _R = dynamo.run(function, args, kwargs)
            return result

    def clear(self) -> None:
        """Drop what was recorded so far."""
        for kept in (self._compilations, self._breaks, self._recompilations):
            kept.clear()

    # -- what a front end hands over -------------------------------------------------------

    def compiled(self, found: Compilation) -> None:
        """Take a graph."""
        made = CompiledGraph(found, self._include_source)
        self._compilations.append(made)
        for one in self._recompilations:
            if one.compile_id == found.compile_id and one.compiled is None:
                one.compiled = made

    def broke(self, found: Break) -> None:
        """Take a graph break, unless it is known."""
        for i, known in enumerate(self._breaks):
            if (known.source, known.reason) == (found.source, found.reason):
                self._breaks[i] = replace(known, skipped=known.skipped or found.skipped)
                return
        self._breaks.append(found)

    def recompiled(self, found: Again) -> None:
        """Take a recompilation, before its graph."""
        self._recompilations.append(Recompilation(*found))

    # -- display ---------------------------------------------------------------------------

    def summary(self) -> Summary:
        """Return the graphs as a table, and below it the breaks and recompilations in words."""
        index = {id(graph): i for i, graph in enumerate(self.graphs)}
        parts = [
            _listed("breaks", (line for b in self.breaks for line in _explained(b))),
            _listed(
                "recompilations, and the guard that failed",
                (_told(one, index) for one in self.recompilations),
            ),
            _listed(
                "backward graphs that are missing",
                (
                    f"of {c.compile_id} {c.function}: {c.failure}"
                    for c in self.compilations
                    if c.failure
                ),
            ),
        ]
        foot = "\n".join(filter(None, parts))
        return Summary(
            _table(self.compilations, index), f"\n{foot}" if foot else "", self._counts()
        )

    def __str__(self) -> str:
        return str(self.summary())

    def __rich__(self) -> RenderableType:
        return self.summary().__rich__()

    def __repr__(self) -> str:
        return f"<Recorded: {self._counts()}>"

    def _counts(self) -> str:
        counts = {
            "compiled graph": len(self._compilations),
            "break": len(self._breaks),
            "recompilation": len(self._recompilations),
        }
        return ", ".join(f"{n} {word}{'' if n == 1 else 's'}" for word, n in counts.items())


def _listed(title: str, lines: Iterable[str]) -> str:
    found = [f"  {line}" for line in lines]
    return "\n".join([f"{title}:", *found]) if found else ""


def _explained(found: Break) -> Iterator[str]:
    yield f"{found.source} in {found.function}: {found.reason}"
    if found.explanation:
        yield f"  {found.explanation}"
    if found.skipped:
        yield f"  so {found.skipped} is not compiled any further"


def _told(one: Recompilation, index: dict[int, int]) -> str:
    place = index.get(id(one.compiled.forward)) if one.compiled is not None else None
    led = "no graph" if place is None else f"graph {place}"
    return f"{one.source} in {one.function}: {one.reason} -> {led}"


def _table(compilations: Iterable[CompiledGraph], index: dict[int, int]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("graph", "compile id", "code", "phase", "ops", "params", "FLOPs", "bytes"):
        left = name in ("compile id", "code", "phase")
        table.add_column(name, justify="left" if left else "right", no_wrap=True)
    for one in compilations:
        for graph, phase in zip(one.graphs, ("forward", "backward"), strict=False):
            found = totals(graph)
            mark = " +?" if found.unknown else ""
            moved = found.bytes_read + found.bytes_written
            cells = (
                str(index[id(graph)]),
                one.compile_id,
                f"{one.function} ({one.source})",
                phase,
                str(found.ops),
                number(found.params),
                number(found.flops) + mark,
                number(moved, "B"),
            )
            table.add_row(*map(Text, cells))
    return table


# -- what users call -----------------------------------------------------------------------


@contextmanager
def recording(*, include_source: bool = True) -> Iterator[Recorded]:
    """Record what `torch.compile` compiles inside the block, in this thread.

    Gives a `Recorded`. It sees every graph that goes to a backend, whichever that is, the breaks
    and the recompilations; a plain model is recorded by ``rec.run(model, *args)``. What was
    compiled before the block and serves again is not compiled, and so not seen: use ``rec.run``,
    or `torch.compiler.reset` before it. Blocks may be nested: the outer one records too.

    With `include_source` each op keeps the line of code that called it (``file:line``,
    relative).
    """
    from .frontends import dynamo

    found = Recorded(include_source=include_source)
    with dynamo.watching(found):
        yield found


_kept = Recorded(limit=KEPT)


def recorded() -> Recorded:
    """Return what ``torch.compile(model, backend="torchatlas")`` made outside of `recording`.

    The last `KEPT` compilations are kept until ``recorded().clear()``; why a graph ends is
    known, but not why code was compiled again.
    """
    return _kept


def backend(program: Any, example_inputs: Any, **options: Any) -> Callable[..., Any]:
    """Keep the graph that `torch.compile` hands over, and let eager torch run it.

    This is what ``torch.compile(model, backend="torchatlas")`` calls; results are those of
    eager torch, bit for bit. Options, which are made for other backends, change nothing.
    """
    from .frontends import dynamo

    if not dynamo.is_watched():
        dynamo.note(_kept, program)
    forward: Callable[..., Any] = program.forward
    return forward
