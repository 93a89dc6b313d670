"""A device in a file: numbers that somebody measured, kept as JSON."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from dataclasses import asdict, fields
from pathlib import Path

from ..errors import AtlasError, FormatError
from .limits import Device

_FORMAT = "torchatlas device"


def save(device: Device, path: str | os.PathLike[str]) -> None:
    """Write `device` to `path` as JSON; a write that fails leaves an older file as it was.

    Raises FormatError where the file cannot be written.
    """
    import msgspec

    content = msgspec.json.format(msgspec.json.encode({"format": _FORMAT, **asdict(device)}))
    target = Path(path)
    try:
        number, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with os.fdopen(number, "wb") as file:
                file.write(content + b"\n")
            Path(name).replace(target)
        except BaseException:
            with suppress(OSError):
                Path(name).unlink()
            raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise FormatError(f"cannot write {str(path)!r}: {reason}", hint="check the path") from error


def load(path: str | os.PathLike[str]) -> Device:
    """Return the device that `save` wrote to `path`; nothing in the file is executed.

    Raises FormatError for a file that cannot be read, and for what is no device.
    """
    import msgspec

    try:
        content = msgspec.json.decode(Path(path).read_bytes())
        if not isinstance(content, dict) or content.pop("format", None) != _FORMAT:
            raise ValueError(f"it does not say that it is a {_FORMAT}")
        unknown = content.keys() - {key.name for key in fields(Device)}
        if unknown:
            raise ValueError(f"it has the unknown key {min(unknown)!r}")
        return msgspec.convert(content, Device)
    except OSError as error:
        reason = error.strerror or str(error)
        raise FormatError(f"cannot read {str(path)!r}: {reason}", hint="check the path") from error
    except (msgspec.MsgspecError, ValueError, RecursionError, AtlasError) as error:
        reason = error.problem if isinstance(error, AtlasError) else str(error)
        raise FormatError(
            f"{str(path)!r} is no device: {reason[:300]}",
            hint="`torchatlas calibrate` and torchatlas.devices.save write such files",
        ) from error
