"""What `zoo.py` prints: a line per result, and a page of a whole family."""

from __future__ import annotations

import platform
import re
import statistics
from collections import Counter
from collections.abc import Callable, Iterable
from importlib import metadata
from typing import Any

Result = dict[str, Any]

CAPTURED = ("captured", "equal", "explained")
SLOWEST = 5
"""How many of the slowest captures a page names."""


def line(result: Result) -> str:
    """Return one result in words."""
    text = f"{result['name']}: {result['status']}"
    if result.get("frontend"):
        text += f" by {result['frontend']}" + (", specialised" if result["specialised"] else "")
    if "build_s" in result:
        text += f" {result['build_s']:.1f}+{result.get('capture_s', 0):.1f} s"
    if result.get("unknown"):
        text += f" unknown {result['unknown']}"
    for key in ("totals", "ops", "first"):
        if result["status"] == "different" and result.get(key):
            text += f" {key} {str(result[key])[:200]}"
    return f"{text} {_one_line(result.get('error', ''))[:240]}".rstrip()


def _one_line(text: str) -> str:
    return " ".join(text.split())


def summary(results: list[Result]) -> str:
    """Return how many ended how."""
    status = Counter(result["status"] for result in results)
    return f"{len(results)} results: " + ", ".join(f"{n} {s}" for s, n in status.most_common())


def page(
    family: str, results: list[Result], command: str, compared: list[Result], known: int
) -> str:
    """Return the results of a family of `known` architectures, and its comparisons."""
    lines = [
        f"# The architectures of {family}",
        "",
        f"`{command}`, {platform.system()}, Python {platform.python_version()}, "
        + ", ".join(f"{name} {_version(name)}" for name in ("torch", family, "torchatlas"))
        + ". One thread, on a busy machine: the seconds tell orders of magnitude.",
        "",
        f"- Architectures: {len(results)} of the {known} that {family} has.",
        *_figures(results),
        "",
        *_by_kind(family, results),
        *_exceptions(results),
    ]
    for compare, title in _TITLES.items():
        chosen = [result for result in compared if result["compare"] == compare]
        if chosen:
            lines += [f"## {title}", "", *_figures(chosen), "", *_comparison(chosen)]
    return "\n".join(lines) + "\n"


_TITLES = {
    "export": "`trace` beside `export`: ops per module and totals",
    "replay": "With and without replay of repeated modules: the whole text",
}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "?"


def _figures(results: list[Result]) -> list[str]:
    able = [result for result in results if result["status"] not in ("no example", "not made")]
    good = [result for result in able if result["status"] in CAPTURED]
    served = Counter(result["frontend"] for result in good if "frontend" in result)
    share = f" ({100 * len(good) / len(able):.2f} %)" if able else ""
    lines = [
        f"- {summary(results)}.",
        f"- Of {len(able)} that have an example, {len(good)} as they should be{share}.",
    ]
    if served:
        lines.append(f"- Front ends: {', '.join(f'`{k}` {n}' for k, n in served.most_common())}.")
        specialised = sum(result["specialised"] for result in good)
        nodes = sum(result["nodes"] for result in good)
        lines.append(f"- Specialised to the values of the example: {specialised}.")
        unknown = Counter[str]()
        for result in good:
            unknown.update(result["unknown"])
        names = ", ".join(f"{op} x{n}" for op, n in unknown.most_common()) or "none"
        lines.append(f"- {nodes} nodes; ops without a rule for their cost: {names}.")
    for step in ("build", "capture"):
        times = sorted(r[f"{step}_s"] for r in able if f"{step}_s" in r)
        if times:
            lines.append(
                f"- Seconds to {step}: median {statistics.median(times):.2f},"
                f" 95 % within {times[int(0.95 * (len(times) - 1))]:.2f}, most {times[-1]:.2f}."
            )
    return lines


# -- tables ------------------------------------------------------------------------------------


def _kind(family: str, result: Result) -> str:
    """Return the group that a result is counted in: of transformers, what a class is for.

    >>> _kind("transformers", {"name": "BertForMaskedLM", "group": "bert"})
    'ForMaskedLM'
    >>> _kind("transformers", {"name": "BertModel", "group": "bert"})
    'Model'
    """
    if family != "transformers":
        return str(result["group"])
    found = re.search(r"For[A-Z]\w+$|LMHeadModel$|Backbone$|Model$|Encoder$", result["name"])
    return found[0] if found else "other"


def _by_kind(family: str, results: list[Result]) -> list[str]:
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(_kind(family, result), []).append(result)
    rows = [
        (
            kind,
            len(members),
            _count(members, lambda r: r["status"] in CAPTURED),
            _count(members, lambda r: r.get("specialised", False)) or "",
            _count(members, lambda r: r["status"] in ("no example", "not made")) or "",
            _median(members, "capture_s"),
        )
        for kind, members in sorted(groups.items())
    ]
    head = ("group", "models", "as they should be", "specialised", "no example", "s to capture")
    return _table(head, rows)


def _count(results: list[Result], test: Callable[[Result], bool]) -> int:
    return sum(map(test, results))


def _median(results: list[Result], key: str) -> str:
    values = [result[key] for result in results if key in result]
    return f"{statistics.median(values):.2f}" if values else ""


def _table(head: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> list[str]:
    rows = list(rows)
    if not rows:
        return ["none", ""]
    lines = [" | ".join(head), "|".join(["---"] * len(head))]
    cells = (" | ".join(_cell(value) for value in row) for row in rows)
    return [*(f"| {text} |" for text in [*lines, *cells]), ""]


def _cell(value: Any) -> str:
    return _one_line(str(value)).replace("|", "\\|")[:320]


def _exceptions(results: list[Result]) -> list[str]:
    good = [result for result in results if result["status"] in CAPTURED]
    bad = [result for result in results if result["status"] not in CAPTURED]
    failed = [r for r in bad if r["status"] not in ("no example", "not made")]
    without = [r for r in bad if r not in failed]
    other = [r for r in good if r["frontend"] != "trace"]
    special = [r for r in good if r["specialised"]]
    slow = sorted(good, key=lambda r: r["capture_s"], reverse=True)[:SLOWEST]
    return [
        *_section("Not captured", ("name", "what became of it", "why"), failed, _why),
        *_section(
            "Captured by another front end than `trace`",
            ("name", "front end", "why not `trace`"),
            other,
            lambda r: (r["name"], r["frontend"], "; ".join(r["attempts"])),
        ),
        *_section(
            "Specialised to the example",
            ("name", "decisions, the first of them"),
            special,
            lambda r: (r["name"], "; ".join(dict.fromkeys(r.get("decisions", ())))),
        ),
        *_section("No example, or not to be made here", ("name", "", "why"), without, _why),
        *_section(
            "Slowest",
            ("name", "seconds", "ops"),
            slow,
            lambda r: (r["name"], f"{r['capture_s']:.1f}", r["ops"]),
        ),
    ]


def _why(result: Result) -> tuple[str, str, str]:
    return result["name"], result["status"], result.get("error", "")


def _section(
    title: str,
    head: tuple[str, ...],
    results: list[Result],
    row: Callable[[Result], tuple[Any, ...]],
) -> list[str]:
    return [f"## {title} ({len(results)})", "", *_table(head, map(row, results))]


def _comparison(results: list[Result]) -> list[str]:
    explained = [result for result in results if result["status"] == "explained"]
    rest = [r for r in results if r["status"] not in (*CAPTURED, "no example", "not made")]
    texts = [result["text_equal"] for result in results if "text_equal" in result]
    lines = [f"Of {len(texts)} equal ones {sum(texts)} to the letter.", ""] if texts else []
    head = ("name", "what explains it", "ops per module that differ", "totals")
    rows = [(r["name"], r["because"], r["differences"], r["totals"] or "") for r in explained]
    if rows:
        lines += ["Different, and equal once this is taken into account:", "", *_table(head, rows)]
    rows = [(r["name"], r["gave_up"]) for r in results if "gave_up" in r]
    if rows:
        lines += ["Not replayed but run after all:", "", *_table(("name", "why"), rows)]
    rows = [(r["name"], r["status"], r.get("error") or _differences(r)) for r in rest]
    if rows:
        lines += ["Different:", "", *_table(("name", "what became of it", "differences"), rows)]
    return lines


def _differences(result: Result) -> str:
    found = [result.get(key) for key in ("totals", "because", "ops", "first") if result.get(key)]
    return ", ".join(map(str, found))
