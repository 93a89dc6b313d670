"""Traces modules that are called alike once, and repeats what was written down.

A call may stand for another one if both run the same Python code on the same state: modules of
one structure with equal attributes, arguments of equal metadata that share memory alike, and an
environment (globals, class attributes, torch's modes) that has not changed. The first call must
have left everything outside of it as it was. An attribute may differ, such as the number of a
layer, where the first call was seen not to read it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import fx, nn

from . import metadata, torch_api
from .calls import Call, Incomparable, describe, distinct, drawn, known, meta_of, pattern, rebuild
from .frozen import (
    Environment,
    Freezer,
    Frozen,
    Reads,
    attributes,
    class_attributes,
    has_hooks,
)
from .segments import Segment

if TYPE_CHECKING:
    from .dispatch import Tracer

_WATCHED = (int, float, str, type(None))
"""What an attribute may hold in which modules that are called alike differ."""

_MOST_TEMPLATES = 16
"""How many calls that differ in their attributes are kept to compare others with."""


_MOST_IN_VAIN = 1
"""How many calls in a row may differ from the traced ones in their attributes alone."""


@dataclass(slots=True)
class _Template:
    """A call that was traced, and what has to be equal for another one to be like it."""

    segment: Segment
    subtree: Sequence[nn.Module]
    attributes: list[dict[str, Frozen]]
    unread: frozenset[tuple[int, str]]
    environment: Environment
    reads: Reads
    result: Any
    results: list[torch.Tensor]
    origins: list[int | None]
    """For each tensor of the result, which given tensor it is, if it is one."""
    bases: list[int | None]
    """For each tensor of the result, which given tensor it shares memory with, if any."""
    operands: list[int]
    """The given tensors that the segment's operands are."""

    def fits(self, subtree: Sequence[nn.Module]) -> bool:
        """Say whether modules have the attributes that those of this call had."""
        freeze = Freezer(self.environment.names, {id(m): i for i, m in enumerate(subtree)})
        for i, (module, expected) in enumerate(zip(subtree, self.attributes, strict=True)):
            if has_hooks(module):
                return False
            found = 0
            for name, value in attributes(module):
                if (i, name) in self.unread:
                    continue
                found += 1
                if name not in expected or freeze(value) != expected[name]:
                    return False
            if found != len(expected):
                return False
        return not freeze.opaque and self.environment.unchanged()


class _Hidden(dict[str, Any]):
    """Stands for a module's buffers, and also holds attributes; notes which of them are read."""

    def __init__(self, buffers: Mapping[str, Any], hidden: Mapping[str, Any]) -> None:
        super().__init__(buffers)
        self.hidden, self.read = hidden, set[str]()

    def __contains__(self, name: object) -> bool:
        if name in self.hidden:
            self.read.add(str(name))
            return True
        return super().__contains__(name)

    def __getitem__(self, name: str) -> Any:
        return self.hidden[name] if name in self.hidden else super().__getitem__(name)


@contextmanager
def _watched(
    subtree: Sequence[nn.Module], names: Mapping[int, Sequence[str]]
) -> Iterator[set[tuple[int, str]]]:
    """Yield the set, filled at the end, of those attributes that are read meanwhile."""
    read: set[tuple[int, str]] = set()
    changed = []
    try:
        for i, hidden in names.items():
            held = subtree[i].__dict__
            order = list(held)
            stand_in = _Hidden(held["_buffers"], {name: held.pop(name) for name in hidden})
            changed.append((i, held, order, held["_buffers"], stand_in))
            held["_buffers"] = stand_in
        yield read
    finally:
        for i, held, order, buffers, stand_in in changed:
            if dict(stand_in) != buffers:
                buffers.clear()
                buffers.update(stand_in)
            now = {**held, **stand_in.hidden, "_buffers": buffers}
            held.clear()
            held.update((name, now.pop(name)) for name in order if name in now)
            held.update(now)
            read.update((i, name) for name in stand_in.read)


class Repeats:
    """Follows the module calls of one traced run, and repeats those that it may."""

    def __init__(self, model: nn.Module, tracer: Tracer) -> None:
        self._model, self._tracer = model, tracer
        self._subtrees: dict[int, list[nn.Module]] = {}
        self._numbers: dict[Any, int] = {}
        self._alike: dict[int, int] = {}
        self._number(model)
        self._members: dict[int, list[nn.Module]] = {}
        for module in distinct(model):
            self._members.setdefault(self._alike[id(module)], []).append(module)
        self._templates: dict[Any, list[_Template]] = {}
        self._hopeless: set[Any] = set()
        self._calls: Counter[int] = Counter()
        self._in_vain: Counter[int] = Counter()
        self._scopes: list[tuple[Reads, Counter[int], set[int]]] = []
        self.count = 0
        """How many calls were repeated."""

    def _number(self, module: nn.Module) -> int:
        """Return a number that modules of the same classes and shapes have in common."""
        state = (
            (name, None if x is None else (tuple(x.shape), x.dtype, x.device, x.requires_grad))
            for name, x in (*module._parameters.items(), *module._buffers.items())
        )
        children = ((n, None if m is None else self._number(m)) for n, m in module._modules.items())
        key = type(module), tuple(state), tuple(children)
        number = self._numbers.setdefault(key, len(self._numbers))
        self._alike[id(module)] = number
        return number

    @contextmanager
    def active(self) -> Iterator[None]:
        """Take charge of the calls of all modules."""
        if torch_api.has_module_hooks():
            yield  # somebody else's, which want to see every call
            return
        original: Any = nn.Module.__call__
        call = self._call

        def repeated(module: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
            return call(original, module, args, kwargs)

        # As torch.fx does it: there is no other way not to run a module that somebody calls.
        nn.Module.__call__ = repeated  # type: ignore[method-assign]
        try:
            yield
        finally:
            nn.Module.__call__ = original  # type: ignore[method-assign]

    # -- one call --------------------------------------------------------------------------

    def _call(self, original: Callable[..., Any], module: nn.Module, args: Any, kwargs: Any) -> Any:
        number = self._alike.get(id(module))
        if number is None or not self._may_repeat(module, number):
            return original(module, *args, **kwargs)
        try:
            call = Call(module, self._subtree(module), args, kwargs)
        except Incomparable:
            return original(module, *args, **kwargs)
        key = number, call.key
        if key in self._hopeless or self._in_vain[number] > _MOST_IN_VAIN:
            return original(module, *args, **kwargs)
        for template in self._templates.get(key, ()):
            if template.fits(call.subtree):
                found = self._repeat(template, call)
                if found is not None:
                    self._in_vain[number] = 0
                    return found[0]
        if key in self._templates:
            self._in_vain[number] += 1
        return self._trace(original, call, number, key)

    def _may_repeat(self, module: nn.Module, number: int) -> bool:
        """Say whether a call pays to be looked at: whether there may be another one like it."""
        self._calls[id(module)] += 1
        if not module._modules and type(module).__module__.startswith("torch.nn."):
            return False
        if not self._scopes:
            return len(self._members[number]) > 1 or self._calls[id(module)] > 1
        _, twins, watched = self._scopes[-1]
        if watched and any(id(inner) in watched for inner in self._subtree(module)):
            return False
        return twins[number] > 1

    def _subtree(self, module: nn.Module) -> list[nn.Module]:
        found = self._subtrees.get(id(module))
        if found is None:
            found = self._subtrees[id(module)] = distinct(module)
        return found

    # -- the first call of its kind --------------------------------------------------------

    def _trace(self, original: Callable[..., Any], call: Call, number: int, key: Any) -> Any:
        subtree, reads = call.subtree, Reads()
        others = [m for m in self._members[number] if m is not call.module][:2]
        differing = self._differing(subtree, [self._subtree(other) for other in others])
        freeze = Freezer(None, {id(m): i for i, m in enumerate(subtree)})
        before = [{name: freeze(value) for name, value in attributes(m)} for m in subtree]
        generators, tensors = drawn(), [id(tensor) for tensor in call.tensors]
        twins = Counter(self._alike[id(m)] for m in subtree if id(m) in self._alike)
        self._scopes.append((reads, twins, {id(subtree[i]) for i in differing}))
        reads.keep(class_attributes(subtree))
        nodes = [self._tracer.find(tensor) for tensor in call.tensors]
        line, last = metadata.calling_line(), next(iter(reversed(self._tracer.graph.nodes)), None)
        try:
            with reads, _watched(subtree, differing) as read:
                result = original(call.module, *call.args, **call.kwargs)
        finally:
            self._scopes.pop()
            if self._scopes:
                self._scopes[-1][0].add(reads)
        unread = {(i, n) for i, names in differing.items() for n in names} - read
        try:
            after = Call(call.module, subtree, call.args, call.kwargs)
            unchanged = after.key == call.key and [id(t) for t in after.tensors] == tensors
            again = Freezer(None, {id(m): i for i, m in enumerate(subtree)})
            for module, held in zip(subtree, before, strict=True):
                unchanged &= {n: again(value) for n, value in attributes(module)} == held
            same = generators == drawn() and reads.is_pure()
            if not (unchanged and same and reads.is_bounded()):
                raise Incomparable
            template = self._template(call, nodes, reads, frozenset(unread), result, last, line)
        except Incomparable:
            self._hopeless.add(key)
            return result
        kept = self._templates.setdefault(key, [])
        kept.append(template)
        if len(kept) > _MOST_TEMPLATES:
            self._hopeless.add(key)
        return result

    def _differing(
        self, subtree: Sequence[nn.Module], others: Sequence[Sequence[nn.Module]]
    ) -> dict[int, list[str]]:
        """Return, by module, what may be watched of the attributes that others have otherwise."""
        found: dict[int, list[str]] = {}
        freezers = [Freezer((), {id(m): i for i, m in enumerate(s)}) for s in (subtree, *others)]
        for i, module in enumerate(subtree):
            if type(module).__getattr__ is not nn.Module.__getattr__:
                continue
            for name, value in attributes(module):
                if not isinstance(value, _WATCHED):
                    continue
                mine = freezers[0](value)
                for other, freeze in zip(others, freezers[1:], strict=True):
                    held = other[i].__dict__
                    if name not in held or freeze(held[name]) != mine:
                        if name != "training" and not hasattr(type(module), name):
                            found.setdefault(i, []).append(name)
                        break
        return found

    def _template(
        self,
        call: Call,
        nodes: Sequence[fx.Node | None],
        reads: Reads,
        unread: frozenset[tuple[int, str]],
        result: Any,
        last: fx.Node | None,
        line: str,
    ) -> _Template:
        if any(map(has_hooks, call.subtree)):
            raise Incomparable
        environment = Environment(reads, call.subtree)
        freeze = Freezer(environment.names, {id(m): i for i, m in enumerate(call.subtree)})
        held = [
            {name: freeze(value) for name, value in attributes(m) if (i, name) not in unread}
            for i, m in enumerate(call.subtree)
        ]
        made: dict[int, torch.Tensor] = {}
        described = describe(result, made)
        results = list(made.values())
        segment = Segment.after(
            last,
            self._tracer,
            operands=known(nodes),
            results=known(map(self._tracer.find, results)),
            paths=[self._tracer.path_of(module) for module in call.subtree],
            line=line,
        )
        if freeze.opaque or environment.opaque or segment is None:
            raise Incomparable
        given = [id(tensor) for tensor in call.tensors]
        memory = [torch_api.storage_of(tensor) for tensor in call.tensors]
        origins = [given.index(id(t)) if id(t) in given else None for t in results]
        shared = [torch_api.storage_of(tensor) for tensor in results]
        fresh = [s for s, origin in zip(shared, origins, strict=True) if origin is None]
        bases = [memory.index(s) if s in memory else None for s in shared]
        own = [s for s in fresh if s not in memory]
        if len(set(own)) < len(own):
            raise Incomparable  # two results on one memory, which the call has set aside
        for tensor in results:
            meta_of(tensor)
        return _Template(
            segment, call.subtree, held, unread, environment, reads, described, results,
            origins, bases, segment.read,
        )  # fmt: skip

    # -- another one -----------------------------------------------------------------------

    def _repeat(self, template: _Template, call: Call) -> tuple[Any] | None:
        """Write down the traced call again; return what `call` returns, None where that fails."""
        tracer, segment = self._tracer, template.segment
        try:
            nodes = known(map(tracer.find, call.tensors))
        except Incomparable:
            return None
        if pattern(nodes) != segment.pattern:
            return None
        with tracer.paused():
            made = self._make(template, call)
        if made is None:
            return None
        paths = [tracer.path_of(module) for module in call.subtree]
        operands = [nodes[i] for i in template.operands]
        tracer.repeat(segment, operands, made, paths, metadata.calling_line())
        if self._scopes:
            self._scopes[-1][0].add(template.reads)
        self.count += 1
        return (rebuild(template.result, made),)

    def _make(self, template: _Template, call: Call) -> list[torch.Tensor] | None:
        """Make tensors like those that the traced call returned."""
        made: list[torch.Tensor] = []
        rows = zip(template.results, template.origins, template.bases, strict=True)
        for result, origin, base in rows:
            if origin is not None:
                made.append(call.tensors[origin])
                continue
            where = result.shape, result.stride()
            if base is not None:
                new = call.tensors[base].as_strided(*where, result.storage_offset())
                if new.dtype != result.dtype:
                    return None
            else:
                new = torch_api.fake_result(result)
            if meta_of(new) != meta_of(result):
                return None
            made.append(new)
        return made
