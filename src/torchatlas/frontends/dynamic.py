"""Symbolic sizes: which dimensions of the example they are, and the sizes that a capture sees."""

from __future__ import annotations

import keyword
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..errors import AtlasError, InputError, UsageError
from ..names import clean
from . import torch_api
from .capture import Capture
from .example import Args, input_names, pack, unpack
from .guards import FixedSizeError, name_symbols

Names = dict[str, dict[int, str]]
"""Input name -> dimension -> symbol."""

_RESERVED = frozenset({"Max", "Min", "Mod", "floor", "ceiling"})
_ATTEMPTS = 3
_SMALL = (5, 7, 11, 13, 17, 19, 23, 29, 2, 3, 4)


@dataclass(frozen=True, slots=True)
class Plan:
    """The dimensions of an example that are symbolic, and the sizes that it gives them."""

    names: Names
    given: dict[str, int]
    taken: frozenset[int]
    """Every size in the example, which a made-up one had better not be equal to."""

    def marks(self, model: nn.Module, args: Args) -> list[dict[int, Any] | None]:
        """Return for every leaf of the example its symbolic dimensions, as torch.export says it."""
        found: list[dict[int, Any] | None] = []
        for name, leaf in _leaves(model, args):
            dims = self.names.get(name, {})
            found.append(dict.fromkeys(dims, torch_api.AUTO) if _is_tensor(leaf) else None)
        return found

    def resize(self, model: nn.Module, args: Args, sizes: Mapping[str, int]) -> Args:
        """Return the example with its symbolic dimensions at `sizes`, repeating its values."""
        plain, classes = pack(args)
        leaves = iter(_leaves(model, args))

        def change(leaf: Any) -> Any:
            name, _ = next(leaves)
            dims = {d: sizes[symbol] for d, symbol in self.names.get(name, {}).items()}
            return _resized(leaf, dims) if dims else leaf

        changed: Args = unpack(torch_api.tree_map(change, plain), classes)
        return changed

    def attempts(self, blamed: set[str]) -> Iterator[dict[str, int]]:
        """Yield the sizes to capture at; later ones differ in the symbols that are `blamed`.

        They keep to the example, but sizes are at least 2 and no two symbols share one: torch
        takes 1 for something else than a size, and equal sizes for equal ones.
        """
        for attempt in range(_ATTEMPTS):
            sizes: dict[str, int] = {}
            for name, size in self.given.items():
                skip = attempt if name in blamed else 0
                used = set(sizes.values())
                choices = [n for n in self._choices(size) if n not in used]
                sizes[name] = choices[min(skip, len(choices) - 1)]
            yield sizes
            if not blamed:
                blamed.update(name for name, size in sizes.items() if size != self.given[name])

    def _choices(self, size: int) -> list[int]:
        if size < 2:
            return sorted(_SMALL, key=lambda n: n in self.taken)
        return [n for n in (size, 2 * size, size // 2, 3 * size, size + 1, *_SMALL) if n > 1]


def _is_tensor(leaf: Any) -> bool:
    return isinstance(leaf, torch.Tensor)


def _leaves(model: nn.Module, args: Args) -> list[tuple[str, Any]]:
    """Return the leaves of the example with the ids that they have as inputs of the graph."""
    found = torch_api.tree_flatten_with_names(pack(args)[0])
    names = input_names(model, [path for path, _ in found])
    return [(clean(name), leaf) for name, (_, leaf) in zip(names, found, strict=True)]


def _resized(tensor: torch.Tensor, sizes: Mapping[int, int]) -> torch.Tensor:
    # A tensor of its own: torch would give the base of a view symbols as well.
    order = sorted(range(tensor.dim()), key=lambda d: tensor.stride()[d], reverse=True)
    made = tensor.detach()
    for dim, size in sizes.items():
        if tensor.shape[dim] == 0:
            made = made.new_zeros([*made.shape[:dim], size, *made.shape[dim + 1 :]])
        else:
            times = [-(-size // tensor.shape[dim]) if d == dim else 1 for d in range(made.dim())]
            repeated = made.repeat(times).narrow(dim, 0, size)
            made = repeated.clone(memory_format=torch.contiguous_format)
    if tensor.is_contiguous():
        return made.contiguous()
    return made.permute(order).contiguous().permute([order.index(d) for d in range(len(order))])


# -- what the user says ------------------------------------------------------------------------


def plan(model: nn.Module, args: Args, dynamic: Any) -> Plan:
    """Return the plan for what a user gave as `dynamic`.

    Raises UsageError for an input or a dimension that does not exist, for a name that cannot be
    a symbol's, and where one name stands for different sizes.
    """
    tensors = {name: leaf for name, leaf in _leaves(model, args) if _is_tensor(leaf)}
    names = _by_input(tensors, dynamic)
    given: dict[str, int] = {}
    for name, dims in names.items():
        for dim, symbol in dims.items():
            size = int(tensors[name].shape[dim])
            if given.setdefault(symbol, size) != size:
                raise UsageError(
                    f"{symbol!r} stands for the sizes {given[symbol]} and {size} of the example",
                    hint="one name means one size: use two names, or another example",
                )
    taken = frozenset(int(n) for tensor in tensors.values() for n in tensor.shape)
    return Plan(names, given, taken)


def _by_input(tensors: Mapping[str, torch.Tensor], dynamic: Any) -> Names:
    if not isinstance(dynamic, Mapping):
        shared = _symbols(dynamic)
        wide = [name for name, tensor in tensors.items() if tensor.dim() >= len(shared)]
        dynamic = dict.fromkeys(wide, shared)
        if not wide:
            raise UsageError(
                f"no input has {len(shared)} dimensions",
                hint=f"the inputs are {_described(tensors)}",
            )
    found: Names = {}
    for name, dims in dynamic.items():
        tensor = tensors.get(clean(str(name)))
        if tensor is None:
            raise UsageError(
                f"{name!r} is no tensor among the inputs",
                hint=f"the inputs are {_described(tensors)}",
            )
        found[clean(str(name))] = dict(sorted(_dims(str(name), tensor, dims)))
    if not any(found.values()):
        raise UsageError(
            "`dynamic` names no dimension", hint='write {"x": {0: "batch"}} or ["batch"]'
        )
    return found


def _described(tensors: Mapping[str, torch.Tensor]) -> str:
    return ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items()) or "none"


def _dims(name: str, tensor: torch.Tensor, dims: Any) -> Iterator[tuple[int, str]]:
    items = dims.items() if isinstance(dims, Mapping) else enumerate(_symbols(dims))
    count = tensor.dim()
    for dim, symbol in items:
        if not isinstance(dim, int) or not -count <= dim < count:
            raise UsageError(
                f"{name!r} has no dimension {dim!r}", hint=f"its shape is {tuple(tensor.shape)}"
            )
        if symbol is not None:
            yield dim % count, _symbol(symbol)


def _symbols(names: Any) -> Sequence[Any]:
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise UsageError(
            f"{names!r} names no dimensions",
            hint='write {0: "batch"} or ["batch", None] for an input',
        )
    return names


def _symbol(name: Any) -> str:
    allowed = isinstance(name, str) and name.isidentifier() and name.isascii()
    if not allowed or keyword.iskeyword(name) or name in _RESERVED:
        raise UsageError(
            f"{name!r} cannot be the name of a size", hint="take a plain word, such as batch"
        )
    return str(name)


# -- capture -----------------------------------------------------------------------------------

Capturer = Callable[[Args, list[dict[int, Any] | None]], tuple[Capture, str, list[str]]]


def capture(
    model: nn.Module, args: Args, wanted: Plan, capturer: Capturer
) -> tuple[Capture, str, list[str]]:
    """Capture with the sizes that `wanted` names as symbols, and give them their names.

    Raises InputError where the model takes no other size than one for a symbol.
    """
    blamed: set[str] = set()
    fixed: FixedSizeError | None = None
    failed: AtlasError | None = None
    for sizes in wanted.attempts(blamed):
        resized = wanted.resize(model, args, sizes)
        try:
            with torch_api.whole_recurrent():
                found, served, attempts = capturer(resized, wanted.marks(model, resized))
            name_symbols(found, wanted.names)
        except FixedSizeError as error:
            if error.symbol in blamed and fixed is not None:
                break
            fixed = fixed or error
            blamed.add(error.symbol)
            continue
        except AtlasError as error:
            if fixed is not None:
                break
            if sizes == wanted.given:
                raise
            failed = failed or error
            continue
        found.sizes = sizes
        return found, served, attempts
    if fixed is not None:
        raise InputError(
            f"the model fixes {fixed.symbol!r} to {fixed.size}{fixed.where}",
            hint=f"leave {fixed.symbol!r} out of `dynamic`: it works for this size only",
        )
    assert failed is not None
    names = ", ".join(f"{name}={n}" for name, n in sizes.items() if n != wanted.given[name])
    raise InputError(
        f"the model could not be captured at {names}, to make these sizes symbolic: "
        f"{failed.problem}",
        hint="give an example with sizes of at least 2, all different, or fewer names",
    ) from failed
