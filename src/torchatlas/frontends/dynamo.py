"""The `dynamo` front end: what `torch.compile` makes of code, one graph for each compilation.

Watches compilations of any backend as they happen, in `watching`. What is found keeps nothing
of the model but names and shapes; its graphs are read when somebody asks for them.
"""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import PurePath
from types import CodeType
from typing import Any, NamedTuple, Protocol

import torch
from torch import fx

from ..names import clean
from . import metadata, pullback, rerun, torch_api
from .capture import Capture, Source
from .guards import describe_symbols
from .lifted import Lifted, lift
from .torch_api import CompiledFrame


@dataclass(frozen=True, slots=True)
class Break:
    """A place in the code at which `torch.compile` had to end a graph."""

    source: str
    """``file:line`` of the model's code, relative to where it is imported."""
    function: str
    reason: str
    """Why, in a few words."""
    detail: str = field(repr=False)
    """Why, in all of torch's words, with its hints."""
    compile_id: str = ""
    """The number of the compilation that it ended."""
    skipped: str = ""
    """The function of which the rest is not compiled at all because of it."""

    @property
    def explanation(self) -> str:
        """Why, in a sentence; empty where torch has none."""
        found = _EXPLANATION.search(self.detail)
        return found[1] if found else ""

    @property
    def file(self) -> str:
        """The file that the break is in."""
        return self.source.rpartition(":")[0]

    @property
    def line(self) -> int:
        """The line that the break is in."""
        return int(self.source.rpartition(":")[2])


class Again(NamedTuple):
    """The start of a compilation of code that was compiled before."""

    source: str
    function: str
    guards: tuple[str, ...]
    """The guard that failed of each earlier graph, the last one's first."""
    compile_id: str


@dataclass(frozen=True, slots=True)
class Compilation:
    """One graph that `torch.compile` handed to a backend."""

    compile_id: str
    """torch's number for it, ``frame/attempt``: ``0/1`` is the second graph of the first call."""
    source: str
    """``file:line`` at which the compiled code begins."""
    function: str
    ended: Break | None
    """The break that ends it, as far as the graph itself says."""
    lifted: Lifted = field(repr=False)


_OTHER_BACKEND = "BACKEND_MATCH"
"""The guard that says that code was compiled before, but for another backend."""


class Listener(Protocol):
    """Is handed what `torch.compile` does."""

    def compiled(self, found: Compilation) -> None:
        """Take a graph."""

    def broke(self, found: Break) -> None:
        """Take a graph break; one place may come several times."""

    def recompiled(self, found: Again) -> None:
        """Take a recompilation, before its graph."""


@contextmanager
def watching(listener: Listener) -> Iterator[None]:
    """Hand `listener` what `torch.compile` does inside the block, in this thread."""
    with torch_api.watching_compiles(_Watcher(listener)):
        yield


is_watched = torch_api.is_watched


@dataclass(frozen=True, slots=True)
class _Watcher:
    """Turns what torch says into plain words; never raises, for it runs inside of a compilation."""

    listener: Listener

    def compiling(self, program: fx.GraphModule) -> Callable[[], None]:
        with _harmless():
            found = describe(program)
            return lambda: self.listener.compiled(found)
        return lambda: None

    def broke(self, error: Exception, frame: CompiledFrame, skipped: bool) -> None:
        with _harmless():
            self.listener.broke(_break(torch_api.ending(error), frame, skipped))

    def recompiling(self, guards: list[str], frame: CompiledFrame) -> None:
        with _harmless():
            plain = tuple(_guard(g) for g in guards if _OTHER_BACKEND not in g)
            if plain or not guards:
                number = torch_api.compile_id()
                self.listener.recompiled(Again(_begin(frame), _function(frame), plain, number))


@contextmanager
def _harmless() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        warnings.warn(
            f"torchatlas could not record a step of torch.compile: {type(error).__name__}: {error}",
            RuntimeWarning,
            stacklevel=2,
        )


def note(listener: Listener, program: fx.GraphModule) -> None:
    """Hand `listener` a graph, and what it says of its end; for a backend nobody watches."""
    with _harmless():
        found = describe(program)
        listener.compiled(found)
        if found.ended is not None:
            listener.broke(found.ended)


def describe(program: fx.GraphModule) -> Compilation:
    """Describe the graph that `torch.compile` hands to its backend; only inside of one."""
    frame = torch_api.compiled_frame()
    end = torch_api.ending_of(program)
    return Compilation(
        compile_id=torch_api.compile_id(),
        source=_begin(frame),
        function=_function(frame),
        ended=None if end is None else _break(end, frame),
        lifted=lift(program, frame, _function(frame)),
    )


Read = tuple[Capture, Source]


def read_forward(found: Compilation) -> Read:
    """Return the records of a compiled graph.

    They are the operators that it calls; or, where it cannot be run on tensors without values,
    the functions that it calls, whose costs nobody knows.
    """
    attempts: tuple[str, ...] = ()
    with found.lifted.aside():
        try:
            capture = rerun.operators(found.lifted)
        except Exception as error:
            attempts = (clean(f"operators: {reason(error)}"),)
            capture = rerun.functions(found.lifted)
    return _said(capture, found.lifted, attempts)


def read_backward(found: Compilation) -> Read | None:
    """Return the records of its backward pass, None where nothing asks for a gradient.

    Raises whatever keeps the graph from being differentiated.
    """
    with found.lifted.aside():
        capture = pullback.gradients(found.lifted)
    return None if capture is None else _said(capture, found.lifted, ())


def _said(found: Capture, lifted: Lifted, attempts: tuple[str, ...]) -> Read:
    if lifted.environment is not None:
        guards = torch_api.shape_guards(found.program)
        plain = [(metadata.plain(expr), place) for expr, place in guards]
        describe_symbols(found, plain, torch_api.size_ranges(lifted.environment))
    found.attrs.update(
        name=clean(lifted.name),
        frontend="dynamo",
        attempts=attempts,
        torch=torch.__version__.partition("+")[0],
        dropped={op: n for op, n in sorted(found.attrs["dropped"].items()) if n},
        modules=dict(lifted.types),
    )
    return found, Source("dynamo", found.program, found.placeholders)


def reason(error: Exception) -> str:
    """Return in a line what went wrong."""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {_ADDRESS.sub('', first)}"


def run(function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """Call `function` under `torch.compile`, with eager torch as backend; return its result.

    What is compiled on the way is dropped again. What other backends made of the same code stays
    where `torch.compile` keeps the two apart, by ``isolate_recompiles``; older ones drop it too.
    """

    def eager(program: fx.GraphModule, inputs: Any) -> Any:
        return program.forward

    isolated = "isolate_recompiles" in inspect.signature(torch.compile).parameters
    # What others compiled the code to neither counts against our limit nor ours against theirs.
    options: Any = {"isolate_recompiles": True} if isolated else {}
    codes = _Codes()
    with torch_api.watching_compiles(codes), torch_api.as_written(function) as plain:
        try:
            made: Any = torch.compile(plain, backend=eager, **options)
            return made(*args, **kwargs)
        finally:
            torch_api.forget_compiled(codes.seen.values(), eager, alone=isolated)


class _Codes:
    """Remembers what was compiled."""

    def __init__(self) -> None:
        self.seen: dict[int, CodeType] = {}

    def compiling(self, program: fx.GraphModule) -> Callable[[], None]:
        code = torch_api.compiled_frame().code
        self.seen[id(code)] = code
        return lambda: None

    def broke(self, error: Exception, frame: CompiledFrame, skipped: bool) -> None:
        self.seen[id(frame.code)] = frame.code

    def recompiling(self, guards: list[str], frame: CompiledFrame) -> None:
        self.seen[id(frame.code)] = frame.code


# -- plain words ---------------------------------------------------------------------------

_RESUMED = re.compile(r"torch_dynamo_resume_in_(.*)_at_(\d+)")


def _function(frame: CompiledFrame) -> str:
    """Return the name of a function; what runs after a break is called by its line."""
    resumed = _RESUMED.fullmatch(frame.code.co_name)
    if resumed is not None:
        return clean(f"{resumed[1]}, from line {resumed[2]}")
    return clean(_code(frame).co_qualname)


def _begin(frame: CompiledFrame) -> str:
    code = _code(frame)
    return _place(code.co_filename, code.co_firstlineno)


def _code(frame: CompiledFrame) -> CodeType:
    forward = None if frame.module is None else getattr(type(frame.module), "forward", None)
    code: CodeType = getattr(forward, "__code__", frame.code)
    return code


def _place(file: str, line: int) -> str:
    """Return ``file:line``, relative to where the file is imported; the name alone in torch."""
    found = metadata.source_line(f'File "{file}", line {line}')
    return found or f"{clean(PurePath(file).name)}:{line}"


def _break(end: torch_api.Ending, frame: CompiledFrame, skipped: bool = False) -> Break:
    outside = [f for f in end.stack if metadata.source_line(f'File "{f[0]}", line {f[1]}')]
    code = _code(frame)
    here = (code.co_filename, code.co_firstlineno, code.co_name)
    file, line, name = [here, *end.stack[-1:], *outside][-1]
    resumed = _RESUMED.fullmatch(name)
    return Break(
        source=_place(file, line),
        function=clean(resumed[1] if resumed else name),
        reason=clean(end.reason.partition("\n")[0]),
        detail=_text(end.reason),
        compile_id=torch_api.compile_id(),
        skipped=_function(frame) if skipped else "",
    )


_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_FRAME = re.compile(r'File "([^"]+)", line (\d+)')
_EXPLANATION = re.compile(r"^\s*Explanation: (.*)$", re.MULTILINE)
_NUMBER = re.compile(r"^\d+/\d+(?:_\d+)?: ")


def _text(detail: str) -> str:
    """Return torch's words line by line, without control characters or absolute paths."""
    plain = _FRAME.sub(lambda found: _place(found[1], int(found[2])), detail)
    return "\n".join(clean(line.rstrip()) for line in plain.strip().splitlines())


def _guard(reason: str) -> str:
    """Return the guard that failed, and the line of the model's code that asked for it.

    >>> _guard("0/0: tensor 'x' size mismatch at index 0. expected 2, actual 3")
    "tensor 'x' size mismatch at index 0. expected 2, actual 3"
    >>> _guard("0/1: flag == True      # if flag: return y  # dir/net.py:25 in forward")
    'flag == True (if flag: return y)'
    """
    first = _NUMBER.sub("", reason.partition("\n")[0])
    guard, _, rest = first.partition("  # ")
    code = rest.rpartition("  # ")[0].strip()
    at = metadata.source_line(reason)
    told = ", at ".join(part for part in (code, at) if part)
    return clean(f"{guard.strip()} ({told})" if told else guard.strip())
