"""Every error that torchatlas raises on purpose: the problem, the place, and what to do."""

from __future__ import annotations


class AtlasError(Exception):
    """Say what went wrong, at which node, and what to do about it.

    The original exception, where there is one, stays in ``__cause__``.

    >>> print(AtlasError("no rule", hint="add one", node="fc/linear"))
    no rule
      at node 'fc/linear'
      hint: add one
    """

    def __init__(self, problem: str, *, hint: str, node: str | None = None) -> None:
        self.problem, self.hint, self.node = problem, hint, node
        where = f"\n  at node {node!r}" if node is not None else ""
        super().__init__(f"{problem}{where}\n  hint: {hint}")

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.problem, self.hint, self.node)


class UsageError(AtlasError):
    """The request itself is wrong: an unknown name, format or option (CLI exit code 2)."""


class CaptureError(AtlasError):
    """No front end could turn the model into a graph."""


class InputError(CaptureError):
    """The model itself raises when it is run on the example."""


class GraphError(AtlasError):
    """A graph breaks the schema, or lacks a key that was asked for."""


class MeasurementError(AtlasError):
    """A run on a device makes something other than what the graph says, or cannot be made."""


class FormatError(AtlasError):
    """A file is not what it should be, or a graph cannot be written in that format."""


class MissingExtraError(AtlasError):
    """An optional package is not installed."""

    def __init__(self, package: str, *, extra: str) -> None:
        self.package, self.extra = package, extra
        super().__init__(
            f"this needs the package {package!r}, which is not installed",
            hint=f"pip install 'torchatlas[{extra}]'",
        )

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild_missing, (self.package, self.extra)


def _rebuild(kind: type[AtlasError], problem: str, hint: str, node: str | None) -> AtlasError:
    return kind(problem, hint=hint, node=node)


def _rebuild_missing(package: str, extra: str) -> MissingExtraError:
    return MissingExtraError(package, extra=extra)
