"""Opens `.pt2` archives: says what a file is that is none, and reads only the texts of one."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..errors import FormatError

MAX_TEXT = 1 << 28
"""Bytes that a JSON text inside an archive may have; those of a model of 9,000 ops have 2**24."""

MAX_RATIO = 200
"""How many times larger than on disk a compressed text may be; JSON deflates to a tenth or so."""

_HEAD = 512
_SAVE_AGAIN = "save the program with torch.export.save, of torch 2.8 or later"
_PICKLES = tuple(b"\x80" + bytes([protocol]) for protocol in range(2, 6))


@dataclass(frozen=True, slots=True)
class Texts:
    """The JSON texts of an archive that describe its one model."""

    program: bytes
    weights: bytes | None
    constants: bytes | None
    empty: frozenset[str]
    """Names of stored tensors, as ``weights/weight_0``, that have no values in the archive."""


def identify(head: bytes) -> str | None:
    """Say what a file that begins with `head` is, where that is no model that can be read.

    >>> identify(b"version https://git-lfs.github.com/spec/v1")
    'a git-lfs pointer, not the file that it stands for'
    >>> identify(b"PK")
    """
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not head:
        return "an empty file"
    if start.startswith(b"version https://git-lfs"):
        return "a git-lfs pointer, not the file that it stands for"
    if start.startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        return "a web page, not the file that it should lead to"
    if head.startswith(_PICKLES):
        return "a pickle, which is a program and no model that can be read safely"
    return None


def read_head(path: Path) -> bytes:
    """Return the first bytes of a file. Raises FormatError where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(_HEAD)
    except OSError as error:
        reason = "it is a folder" if path.is_dir() else error.strerror or str(error)
        raise FormatError(f"cannot read {str(path)!r}: {reason}", hint="check the path") from error


def read_texts(path: Path) -> Texts:
    """Read the texts that describe the model of an archive, and nothing else of it.

    Raises FormatError for what is no archive of `torch.export.save`, and says what it is.
    """
    _check_head(path)
    with _opened(path) as archive:
        members = _members(archive, path)
        name = _model(members, path)
        return Texts(
            program=_read(archive, members[f"models/{name}.json"], path),
            weights=_optional(archive, members, f"data/weights/{name}_weights_config.json", path),
            constants=_optional(
                archive, members, f"data/constants/{name}_constants_config.json", path
            ),
            empty=frozenset(
                inside.removeprefix("data/")
                for inside, info in members.items()
                if info.file_size == 0
            ),
        )


def _check_head(path: Path) -> None:
    head = read_head(path)
    if not head.startswith(b"PK"):
        found = identify(head) or "no zip archive"
        raise FormatError(f"{str(path)!r} is {found}", hint=_SAVE_AGAIN)


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open a zip archive; damage is a FormatError, also where it shows later on."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError) as error:
        raise FormatError(
            f"{str(path)!r} is a zip archive that is cut short or damaged: {str(error)[:200]}",
            hint="copy or download it again",
        ) from error
    except (OSError, RuntimeError) as error:
        raise FormatError(f"cannot read {str(path)!r}: {str(error)[:200]}", hint="check it") from (
            error
        )


def _members(archive: zipfile.ZipFile, path: Path) -> dict[str, zipfile.ZipInfo]:
    """Return what is in the archive by its name below the one folder at the top."""
    found: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        inside = info.filename.replace("\\", "/").partition("/")[2] or info.filename
        if inside in found:
            raise FormatError(
                f"{str(path)!r} holds {inside[:80]!r} twice",
                hint="readers would disagree about which one counts",
            )
        found[inside] = info
    return found


_OTHERS = (
    ("data/aotinductor/", "a package of AOTInductor: compiled code, without a graph"),
    ("serialized_exported_program.json", "a program that torch before 2.8 exported"),
    ("constants.pkl", "a TorchScript model"),
    ("data.pkl", "a pickle of torch.save: weights or a whole module"),
    (".data/extern_modules", "a torch.package"),
)
"""What stands in archives that are no exported program, and what they are."""


def _model(members: dict[str, zipfile.ZipInfo], path: Path) -> str:
    models = [
        inside.removeprefix("models/").removesuffix(".json")
        for inside in members
        if inside.startswith("models/") and inside.endswith(".json")
    ]
    if len(models) > 1:
        names = ", ".join(map(repr, sorted(models)[:5]))
        raise FormatError(
            f"{str(path)!r} holds {len(models)} models: {names[:200]}", hint="save each on its own"
        )
    if models:
        return models[0]
    for mark, meaning in _OTHERS:
        if any(inside.startswith(mark) for inside in members):
            raise FormatError(f"{str(path)!r} is {meaning}", hint=_SAVE_AGAIN)
    raise FormatError(f"{str(path)!r} is a zip archive without a model", hint=_SAVE_AGAIN)


def _optional(
    archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], name: str, path: Path
) -> bytes | None:
    info = members.get(name)
    return None if info is None else _read(archive, info, path)


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> bytes:
    """Return one member; its sizes are checked before anything is inflated."""
    ratio = info.file_size / max(info.compress_size, 1)
    if info.file_size > MAX_TEXT or ratio > MAX_RATIO:
        raise FormatError(
            f"{info.filename[:80]!r} in {str(path)!r} would inflate from {info.compress_size} "
            f"to {info.file_size} bytes",
            hint=f"texts may have {MAX_TEXT} bytes, and {MAX_RATIO} times what is on disk",
        )
    return archive.read(info)
