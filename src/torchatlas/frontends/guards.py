"""From torch's symbols and guards to the names that a user gave, and conditions on them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sympy

from ..expressions import SizeMap, condition_text, symbol
from ..names import clean
from ..records import OpRecord, with_bodies
from ..schema import Dim, Symbol
from .capture import Capture

if TYPE_CHECKING:
    from torch.export import ExportedProgram

Ranges = Mapping[str, tuple[int | None, int | None]]
"""The least and the largest value of a symbol, where torch knows one."""

_LARGEST = 2**31
"""Upper bounds from here on are torch's own, and none that a model has."""


class FixedSizeError(Exception):
    """The model takes no other size for `symbol` than `size`."""

    def __init__(self, symbol: str, size: int, where: str) -> None:
        super().__init__(f"{symbol} = {size}")
        self.symbol, self.size, self.where = symbol, size, where


def name_symbols(found: Capture, names: Mapping[str, Mapping[int, str]]) -> None:
    """Write the sizes of a capture over the symbols that `names` has for its inputs' dimensions.

    Keeps what the model demands of them as `symbols` and `constraints` of the graph, and what
    torch only took for granted, such as that no size is 1, as assumptions of the capture.

    Raises FixedSizeError where the capture has a number for such a dimension.
    """
    _write(found, names, _guards(found.program), _ranges(found.program))


def _write(
    found: Capture,
    names: Mapping[str, Mapping[int, str]],
    guards: Sequence[tuple[Any, str]],
    ranges: Ranges,
) -> None:
    naming = _Naming()
    naming.read({clean(r.target): r for r in found.records if r.kind == "input"}, names, guards)
    naming.demand([expr for expr, _ in guards])
    naming.demand(_upper_bounds(ranges))
    naming.find_multiples()
    naming.find_equals()
    change = SizeMap(naming.express)
    for record in with_bodies(found.records):
        record.outputs = change(record.outputs)
        record.args = change(record.args)
        record.trips = change(record.trips)
    symbols, constraints, assumptions = naming.split()
    found.attrs["symbols"] = symbols
    if constraints:
        found.attrs["constraints"] = tuple(map(condition_text, constraints))
    found.assumptions = tuple(map(condition_text, assumptions))


def keep_symbols(found: Capture) -> None:
    """Describe the symbols of a program that somebody else exported, under torch's names."""
    describe_symbols(found, _guards(found.program), _ranges(found.program))


def describe_symbols(found: Capture, guards: Sequence[tuple[Any, str]], ranges: Ranges) -> None:
    """Describe the symbols of a capture under the names that they have.

    `guards` are the conditions that the capture relied on, each with the place it came from.
    """
    shapes = {
        clean(record.target): record.outputs[0].shape
        for record in found.records
        if record.kind == "input" and record.outputs and record.outputs[0] is not None
    }
    names = {
        target: {i: n.name for i, n in enumerate(shape) if isinstance(n, sympy.Symbol)}
        for target, shape in shapes.items()
    }
    if not any(names.values()):
        return
    _write(found, names, guards, ranges)
    found.assumptions = ()
    known: dict[str, Symbol] = found.attrs["symbols"]
    for name, (least, _) in ranges.items():
        if name in known and least is not None:
            kept = known[name]
            known[name] = Symbol(max(kept.min, least), kept.max, kept.multiple_of)


def _guards(program: ExportedProgram) -> list[tuple[Any, str]]:
    from . import metadata, torch_api

    return [(metadata.plain(expr), at) for expr, at in torch_api.shape_guards(program)]


def _ranges(program: ExportedProgram) -> Ranges:
    return {
        torch_symbol.name: (_integer(bounds.lower), _integer(bounds.upper))
        for torch_symbol, bounds in program.range_constraints.items()
    }


def _integer(bound: Any) -> int | None:
    return int(bound) if bound.is_Integer else None


def _upper_bounds(ranges: Ranges) -> Iterator[Any]:
    for name, (_, most) in ranges.items():
        if most is not None and most < _LARGEST:
            yield sympy.Le(symbol(name), most)


@dataclass(slots=True)
class _Naming:
    """Expressions over the user's symbols for those of torch, and the conditions on them."""

    known: dict[Any, Any]
    multiples: dict[str, int]
    relations: list[Any]
    equal: dict[Any, Any]

    def __init__(self) -> None:
        self.known, self.multiples, self.relations, self.equal = {}, {}, [], {}

    # -- names ---------------------------------------------------------------------------------

    def read(
        self,
        inputs: Mapping[str, OpRecord],
        names: Mapping[str, Mapping[int, str]],
        guards: Iterable[tuple[Any, str]],
    ) -> None:
        """Learn from the shapes of the inputs which of torch's symbols is which."""
        derived: list[tuple[str, Any]] = []
        for target, dims in names.items():
            outputs = inputs[target].outputs if target in inputs else ()
            for dim, name in dims.items():
                size = outputs[0].shape[dim] if outputs and outputs[0] is not None else None
                self.multiples.setdefault(name, 1)
                if isinstance(size, int):
                    raise FixedSizeError(name, size, _where(size, guards))
                if isinstance(size, sympy.Symbol):
                    self._same(name, self.known.setdefault(size, symbol(name)))
                elif size is not None:
                    derived.append((name, size))
        for name, size in derived:
            self._derived(name, size)

    def _same(self, name: str, expression: Any) -> None:
        if expression != symbol(name):
            self.demand([sympy.Eq(symbol(name), expression)])

    def _derived(self, name: str, size: Any) -> None:
        expression = size.xreplace(self.known)
        unknown = [s for s in size.free_symbols if s not in self.known]
        if not unknown:
            self._same(name, expression)
            return
        first = unknown[0]
        factor = expression.coeff(first)
        rest = sympy.expand(expression - factor * first)
        if len(unknown) == 1 and factor.is_Integer and first not in rest.free_symbols:
            self.known[first] = (symbol(name) - rest) / factor
            self.demand([sympy.Eq(sympy.Mod(symbol(name) - rest, factor), 0)])

    def express(self, expression: Any) -> Dim:
        """Return a size over torch's symbols as one over the user's."""
        found = self._tidy(expression.xreplace(self.known)).xreplace(self.equal)
        return int(found) if found.is_Integer else found

    def _tidy(self, expression: Any) -> Any:
        """Simplify by what is known: where h is a multiple of 8, floor(h/4) is h/4."""
        units = {name: sympy.Dummy(name, integer=True, positive=True) for name in self.multiples}
        there, back = {}, {}
        for name, factor in self.multiples.items():
            if factor > 1:
                there[symbol(name)] = factor * units[name]
                back[units[name]] = symbol(name) / factor
        found = expression.xreplace(there).xreplace(back) if there else expression
        return found.replace(sympy.floor, _floor) if found.has(sympy.floor) else found

    # -- conditions ----------------------------------------------------------------------------

    def demand(self, relations: Iterable[Any]) -> None:
        """Add conditions over torch's symbols or the user's."""
        ours = {symbol(name) for name in self.multiples}
        for relation in relations:
            named = relation.xreplace(self.known)
            for part in sympy.And.make_args(named):
                undecided = part not in (sympy.true, sympy.false)
                if undecided and part.free_symbols <= ours and part not in self.relations:
                    self.relations.append(part)

    def find_multiples(self) -> None:
        """Turn conditions of the kind ``8*floor(h/8) == h`` into multiples, as far as they go."""
        while found := next(filter(None, map(self._multiple, self.relations)), None):
            name, factor = found
            self.multiples[name] = factor
            tidied = (self._tidy(relation) for relation in self.relations)
            kept = (r for r in tidied if r not in (sympy.true, sympy.false))
            self.relations = list(dict.fromkeys(kept))

    def _multiple(self, relation: Any) -> tuple[str, int] | None:
        """Return the symbol that `relation` makes a multiple of a number, and that number."""
        if not isinstance(relation, sympy.Eq) or len(relation.free_symbols) != 1:
            return None
        (only,) = relation.free_symbols
        had = self.multiples[only.name]
        unit = sympy.Dummy(only.name, integer=True, positive=True)
        difference = (relation.lhs - relation.rhs).xreplace({only: had * unit})
        for factor in _factors(difference, unit):
            together = had * factor
            if sympy.expand(difference.xreplace({unit: factor * unit})) == 0:
                return only.name, together
        return None

    def find_equals(self) -> None:
        """Take the symbol for the expression that a condition says is equal to it."""
        for relation in self.relations:
            if isinstance(relation, sympy.Eq):
                for one, other in (relation.args, relation.args[::-1]):
                    if isinstance(one, sympy.Symbol) and other.has(sympy.floor, sympy.Mod):
                        self.equal[other] = one
        kept = [r for r in self.relations if isinstance(r, sympy.Eq)]
        others = (r.xreplace(self.equal) for r in self.relations if not isinstance(r, sympy.Eq))
        self.relations = [*kept, *(r for r in others if r not in (sympy.true, sympy.false))]

    def split(self) -> tuple[dict[str, Symbol], list[Any], list[Any]]:
        """Return the symbols with their bounds, further demands, and assumptions."""
        low: dict[str, int] = dict.fromkeys(self.multiples, 1)
        high: dict[str, int] = {}
        demands: list[Any] = []
        assumptions: list[Any] = []
        for relation in self.relations:
            name, least, most = _bound(relation)
            if name and most is not None:
                high[name] = min(most, high.get(name, most))
            elif name and least is not None and least > 2:
                low[name] = max(least, low[name])
            elif name and least is not None:
                continue  # that a size is at least 2 is taken for granted anyhow
            else:
                (demands if isinstance(relation, sympy.Eq) else assumptions).append(relation)
        for expression in self.known.values():
            least = self._tidy(sympy.Ge(expression, 2))
            if least != sympy.true and least not in assumptions:
                assumptions.append(least)
        symbols = {
            name: _symbol(low[name], high.get(name), factor)
            for name, factor in self.multiples.items()
        }
        return symbols, demands, [a for a in assumptions if not _always(a, symbols)]


def _floor(argument: Any) -> Any:
    """Return a floor, as a ceiling where that reads better: ``(h - 1)//2 + 1`` is that of h/2.

    >>> h = symbol("h")
    >>> _floor((h - 1) / 2) + 1, _floor((h + 2) / 4)
    (ceiling(h/2), floor(h/4 + 1/2))
    """
    factor = math.lcm(*(int(term.as_coeff_Mul()[0].q) for term in sympy.Add.make_args(argument)))
    whole = sympy.expand(argument * factor)
    constant = whole.as_coeff_Add()[0]
    if factor > 1 and whole.is_integer and constant.is_Integer and constant % factor == factor - 1:
        return sympy.ceiling((whole - factor + 1) / factor)
    return sympy.floor(argument)


def _always(relation: Any, symbols: Mapping[str, Symbol]) -> bool:
    """Say whether `relation` is known to hold from the least sizes on."""
    if not isinstance(relation, sympy.Rel) or relation.count_ops() > 100:
        return False
    shifted = {
        symbol(name): known.min + sympy.Dummy(integer=True, nonnegative=True)
        for name, known in symbols.items()
    }
    if isinstance(relation, sympy.Ne):
        return bool(sympy.expand((relation.lhs - relation.rhs).xreplace(shifted)).is_nonzero)
    if isinstance(relation, sympy.Eq):
        return False
    difference = sympy.expand((relation.gts - relation.lts).xreplace(shifted))
    strict = isinstance(relation, sympy.StrictGreaterThan | sympy.StrictLessThan)
    return bool(difference.is_positive if strict else difference.is_nonnegative)


def _symbol(low: int, high: int | None, factor: int) -> Symbol:
    return Symbol(
        -(-low // factor) * factor, None if high is None else high // factor * factor, factor
    )


def _factors(difference: Any, unit: Any) -> list[int]:
    """Return the divisors that may stand behind the remainders and floors of `difference`."""
    found = 1
    for part in difference.atoms(sympy.Mod, sympy.floor):
        argument = part.args[0]
        factor = part.args[1] if isinstance(part, sympy.Mod) else sympy.fraction(argument)[1]
        if factor.is_Integer:
            found = math.lcm(found, int(factor))
    return [n for n in sympy.divisors(found) if n > 1]


def _bound(relation: Any) -> tuple[str | None, int | None, int | None]:
    """Return the symbol that `relation` bounds by a number, and the lower or upper bound.

    >>> _bound(symbol("seq") <= 512), _bound(sympy.Lt(3, symbol("seq"), evaluate=False))
    (('seq', None, 512), ('seq', 4, None))
    >>> _bound(sympy.Ne(symbol("seq"), 4))
    (None, None, None)
    """
    if not isinstance(relation, sympy.Ge | sympy.Gt | sympy.Le | sympy.Lt):
        return None, None, None
    strict = isinstance(relation, sympy.StrictGreaterThan | sympy.StrictLessThan)
    small, large = relation.lts, relation.gts
    if isinstance(large, sympy.Symbol) and small.is_Integer:
        return large.name, int(small) + strict, None
    if isinstance(small, sympy.Symbol) and large.is_Integer:
        return small.name, None, int(large) - strict
    return None, None, None


def _where(size: int, guards: Iterable[tuple[Any, str]]) -> str:
    """Say where the model compares a size with the number `size`, if that is known."""
    from . import metadata

    for relation, place in guards:
        line = metadata.source_line(place)
        if line and isinstance(relation, sympy.Eq) and size in relation.args:
            return f" (at {line})"
    return ""
