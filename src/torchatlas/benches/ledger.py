"""The results of a zoo run: a line of JSON for each, safe on disk as soon as it is there."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from ..errors import FormatError, UsageError
from .result import SCHEMA, Benchmark

FORMAT = "torchatlas zoo"
_BEGIN = b'{"format":"torchatlas zoo"'
"""How each line begins."""

Status = Literal["ok", "failed", "killed", "timeout"]


@dataclass(frozen=True, slots=True)
class ZooResult:
    """What became of one model of a zoo."""

    zoo: str
    name: str
    status: Status
    seconds: float
    """Wall-clock time of all: starting the process, making the model, measuring it."""
    benchmark: Benchmark | None = None
    """None unless the status is ``ok``."""
    error: str = ""
    """The kind and the first line of what was raised; the signal; the time limit."""
    hint: str = ""
    node: str | None = None
    output: str = ""
    """The last lines that a failed model printed."""
    finished: str = ""
    """When, as ISO 8601 in UTC."""

    @property
    def key(self) -> tuple[str, str]:
        """The zoo and the name."""
        return self.zoo, self.name


def label(zoo: str, name: str) -> str:
    """Return what a model is called where there are models of several zoos.

    >>> label("timm", "resnet18"), label("some/where/mine.py:zoo", "small")
    ('timm:resnet18', 'mine:small')
    """
    place = zoo.rpartition(":")[0] or zoo
    return f"{Path(place).stem if place.endswith('.py') else place}:{name}"


Settings = Mapping[str, Any]
"""What a result depends on, as JSON has it: results with other settings are other results."""


def settings_of(**parts: Any) -> Settings:
    """Return settings as they come back from a file.

    >>> settings_of(device="cpu", compare=("compile",))["compare"]
    ['compile']
    """
    told: Settings = msgspec.json.decode(msgspec.json.encode({**parts, "schema": SCHEMA}))
    return told


class Ledger:
    """A file of results that one run writes at a time; without a path, none is written.

    A last line that was cut off when an earlier run was killed is taken away first.

    Raises UsageError where another run writes the file, and FormatError where it cannot be
    written or holds something else.
    """

    def __init__(self, path: Path | None) -> None:
        self._path, self._file = path, -1
        self._lines: list[dict[str, Any]] = []
        if path is None:
            return
        try:
            self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
            self._lock(path)
            self._lines = self._read(path)
        except OSError as error:
            self.close()
            raise _unwritten(path, error) from error
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file, and let others write it."""
        if self._file >= 0:
            os.close(self._file)
        self._file = -1

    def results(self, settings: Settings) -> dict[tuple[str, str], ZooResult]:
        """Return the results with these settings, the latest of each model.

        Raises FormatError where one lacks what a result has.
        """
        found = {}
        for line in self._lines:
            if line["settings"] == settings:
                result = self._converted(line["result"])
                found[result.key] = result
        return found

    def append(self, result: ZooResult, settings: Settings) -> None:
        """Add a result, and return when it is on the disk; raises FormatError where it is not."""
        told = {"format": FORMAT, "settings": settings, "result": asdict(result)}
        line = msgspec.json.encode(told) + b"\n"
        if self._path is None:
            return
        try:
            while line:
                line = line[os.write(self._file, line) :]
            os.fsync(self._file)
        except OSError as error:
            raise _unwritten(self._path, error) from error

    def _lock(self, path: Path) -> None:
        """Keep other runs from writing the file while this one lives, where the system can."""
        try:
            import fcntl
        except ImportError:
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(
                f"another run is writing {str(path)!r}",
                hint="wait until it is through, or write to another file",
            ) from error
        except OSError:  # a file system without locks
            return

    def _read(self, path: Path) -> list[dict[str, Any]]:
        content = path.read_bytes()
        whole, _, rest = content.rpartition(b"\n")
        lines = list(_decoded(path, whole))
        if not rest:
            return lines
        try:
            last = _checked(path, len(lines) + 1, msgspec.json.decode(rest))
        except (msgspec.DecodeError, RecursionError) as error:
            if not _BEGIN.startswith(rest[: len(_BEGIN)]):
                raise _foreign(path, len(lines) + 1) from error
            os.ftruncate(self._file, len(content) - len(rest))
            return lines
        os.write(self._file, b"\n")
        return [*lines, last]

    def _converted(self, told: Any) -> ZooResult:
        try:
            return msgspec.convert(told, ZooResult)
        except msgspec.ValidationError as error:
            raise FormatError(
                f"{str(self._path)!r} has a result that is none: {error}",
                hint="write to another file",
            ) from error


def _decoded(path: Path, content: bytes) -> Iterator[dict[str, Any]]:
    for count, line in enumerate(content.splitlines(), 1):
        try:
            told = msgspec.json.decode(line)
        except (msgspec.DecodeError, RecursionError) as error:
            raise _foreign(path, count) from error
        yield _checked(path, count, told)


def _checked(path: Path, count: int, told: Any) -> dict[str, Any]:
    if not isinstance(told, dict) or told.get("format") != FORMAT:
        raise _foreign(path, count)
    if not {"settings", "result"} <= told.keys():
        raise _foreign(path, count)
    return told


def _foreign(path: Path, count: int) -> FormatError:
    return FormatError(
        f"line {count} of {str(path)!r} is no result of a zoo run",
        hint="give a new file, or one that such a run wrote",
    )


def _unwritten(path: Path, error: OSError) -> FormatError:
    reason = error.strerror or str(error)
    return FormatError(
        f"cannot write {str(path)!r}: {reason}",
        hint="create the folder, or choose a file that you may write to",
    )
