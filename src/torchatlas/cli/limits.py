"""Tables of devices and of estimates, as commands print them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from rich.table import Table

    from ..devices import Device
    from ..estimates import Estimate
    from ..text import Summary


def device_table(devices: Sequence[Device], *, complete: bool = False) -> Summary:
    """Return a table of devices; if `complete`, with every rate, and sources in full below."""
    from ..devices import RATES
    from ..text import Summary

    kinds = RATES if complete else ("float32", "float16", "bfloat16")
    vector = ("vector",) if complete else ()
    table = _table(("device",), (*kinds, *vector, "GB/s", "GiB"), () if complete else ("source",))
    for device in devices:
        rates = [device.matrix.get(kind) for kind in kinds]
        rates += [device.vector.get("float32")] if complete else []
        memory = "" if device.memory is None else f"{device.memory / 2**30:.4g}"
        source = [] if complete else [re.split(r"[;:]", device.source)[0]]
        cells = [*map(_tera, rates), f"{device.bandwidth / 1e9:.4g}", memory, *source]
        _add(table, device.name, *cells)
    lines = ["", "TFLOP/s (int8: TOP/s), dense; vector is that of float32", ""]
    lines += [f"{d.name} ({', '.join(d.names)}): {d.source}, {d.url}" for d in devices]
    short = "\nTFLOP/s, dense; --all shows every data type, the names and the addresses"
    return Summary(table, "\n".join(lines) if complete else short)


def _tera(rate: float | None) -> str:
    return "" if rate is None else f"{rate / 1e12:.4g}"


def estimate_table(found: Sequence[Estimate]) -> Summary:
    """Return estimates of one model as rows, a device each, with what they assume below."""
    from ..text import Summary, duration, number

    rate = "samples/s" if found and "batch" in found[0].sizes else "runs/s"
    head = ("device",), ("time", rate, "unfused", "memory", "of"), ("fits", "bound")
    table = _table(*head)
    for one in found:
        total = sum(one.bounds.values())
        shares = ", ".join(f"{bound} {us / total:.0%}" for bound, us in one.bounds.items())
        without = f"; {sum(one.untimed.values())} ops have no time" if one.untimed else ""
        _add(
            table,
            one.device.name,
            duration(one.us),
            "?" if one.throughput is None else f"{one.throughput:,.0f}",
            duration(one.unfused_us),
            number(one.peak_bytes, "B"),
            number(one.device.memory, "B"),
            {True: "yes", False: "no", None: "?"}[one.fits],
            (shares or "nothing") + without,
        )
    first = found[0]
    chosen = [f"{name}={size}" for name, size in first.sizes.items()]
    chosen += [first.dtype] if first.dtype is not None else []
    # What is said of one device alone is left to the estimate of that one.
    shared = [text for text in first.assumptions if all(text in one.assumptions for one in found)]
    lines = ["", "assumes that", *(f"- {text}" for text in shared)]
    title = first.model + (f" ({', '.join(chosen)})" if chosen else "")
    return Summary(table, "\n".join(lines), title)


def write_estimates(found: Sequence[Estimate], path: Path) -> None:
    """Write estimates to `path` as JSON; raises FormatError where that fails."""
    import msgspec

    from ..exporters import write_file

    content = {"format": "torchatlas estimates", "estimates": [one.to_dict() for one in found]}
    write_file(path, msgspec.json.format(msgspec.json.encode(content)) + b"\n")


def _table(left: Sequence[str], right: Sequence[str], last: Sequence[str]) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for names, justify in ((left, "left"), (right, "right"), (last, "left")):
        for name in names:
            table.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    return table


def _add(table: Table, *cells: Any) -> None:
    # rich would read a name as markup: a Text is shown as it stands.
    from rich.text import Text

    table.add_row(*map(Text, cells))
