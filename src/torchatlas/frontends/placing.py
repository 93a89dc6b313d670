"""Puts a model and its example on devices that need not exist, for as long as a capture takes.

Every parameter, every buffer and every tensor of the example is stood for by a fake tensor, which
claims to lie where it is told to. The model gets its own tensors back afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.export import ExportedProgram

from ..errors import CaptureError, UsageError
from ..names import clean
from . import torch_api
from .dispatch import calls_replaced
from .example import Args, arguments, as_module, mode_for
from .opaque import map_leaves
from .state import check_structure, named_state, walk

if TYPE_CHECKING:
    from .capture import Capture, Source

    Record = Callable[[nn.Module, Args, bool], tuple[Capture, Source]]
    """Takes the model, its arguments, and whether alike calls may stand for each other."""

_TYPES = ("cpu", "cuda", "xpu", "mps")
_SUCH_AS = "give one such as 'cuda', 'cuda:1', 'cpu', 'xpu' or 'mps'"


def parse_device(text: Any) -> torch.device:
    """Return the device that `text` names, a number that of a CUDA device.

    Raises UsageError where there is no such device, or where tensors on it have no place.

    >>> parse_device("cuda"), parse_device("cpu"), parse_device(1)
    (device(type='cuda', index=0), device(type='cpu'), device(type='cuda', index=1))
    """
    try:
        if isinstance(text, bool):
            raise TypeError
        found = torch.device("cuda", text) if isinstance(text, int) else torch.device(text)
    except (RuntimeError, TypeError) as error:
        raise UsageError(f"there is no device {text!r}", hint=_SUCH_AS) from error
    if found.type not in _TYPES:
        raise UsageError(f"a model cannot be placed on {str(found)!r}", hint=_SUCH_AS)
    if found.type == "cpu":
        return torch.device("cpu")
    return torch.device(found.type, found.index or 0)


def parse_places(texts: Sequence[str]) -> str | dict[str, str] | None:
    """Return what `capture` takes for `device` from a command's options.

    >>> parse_places([]), parse_places(["cuda"]), parse_places(["=cuda:1", "layer1=cuda:0"])
    (None, 'cuda', {'': 'cuda:1', 'layer1': 'cuda:0'})
    """
    if not texts:
        return None
    pairs = [text.rpartition("=") for text in texts]
    if len(pairs) == 1 and not pairs[0][1]:
        return texts[0]
    if not all(equals for _, equals, _ in pairs):
        raise UsageError(
            f"{' '.join(texts)!r} is neither one device nor a map",
            hint="give --device cuda once, or --device PATH=DEVICE for each part of the model",
        )
    return {path: device for path, _, device in pairs}


def frontend_for(device: Any, frontend: str, dynamic: Any) -> str:
    """Return the front end that places a model; raises UsageError where one wanted cannot."""
    if not isinstance(device, Mapping):
        return frontend
    if frontend not in ("auto", "trace") or dynamic is not None:
        raise UsageError(
            "only the front end 'trace' moves tensors between the devices of a map",
            hint="leave `frontend` and `dynamic` out, or name one device",
        )
    return "trace"


def record_on(device: Any, model: Any, example: Any, record: Record) -> tuple[Capture, Source]:
    """Record `model` as if it and its example lay on `device`; `record` is what records.

    `device` is a device, or maps paths of modules to devices: the longest path that leads to a
    tensor says where it lies, and the example goes to that of the empty path. A module of such a
    map is handed its arguments on its own device, by an operator of its own where they are not
    there yet. Raises UsageError for devices or paths that do not exist.
    """
    if isinstance(model, ExportedProgram):
        raise UsageError(
            "an exported program stays on the devices that it was exported on",
            hint="pass the module, and leave `device` out for a program",
        )
    module, name = as_module(model)
    check_structure(module)
    args = arguments(module, example)
    places = _Places.read(device, module)
    with torch_api.quiet():
        placed = _Placed(module, args, places)
    with placed.active():
        found, source = record(module, placed.args, placed.repeatable)
    found.attrs["name"] = clean(name)
    placed.put_back(found)
    if isinstance(found.program, ExportedProgram):
        # Its weights have no values: an ONNX file with values is made of another export.
        found.program = source.program = found.program.graph_module
    source.args = args
    return found, source


@dataclass(frozen=True, slots=True)
class _Places:
    """Where the tensors of a model lie, by the paths of its modules."""

    devices: dict[str, torch.device]
    split: bool
    """Whether modules move their arguments to where they are."""

    @classmethod
    def read(cls, given: Any, model: nn.Module) -> _Places:
        if not isinstance(given, Mapping):
            return cls({"": parse_device(given)}, split=False)
        if not given:
            raise UsageError("the map of devices is empty", hint="map '' to a device")
        known = {path for path, _ in walk(model)}.union(*named_state(model))
        for path in given:
            if path not in known:
                raise UsageError(
                    f"the map of devices names {path!r}, which the model does not have",
                    hint="name modules as model.named_modules() does, and the model itself ''",
                )
        return cls({path: parse_device(where) for path, where in given.items()}, split=True)

    def of(self, path: str) -> torch.device | None:
        """Return the device of the tensor or module at `path`, None where none is given.

        >>> cpu, cuda = torch.device("cpu"), torch.device("cuda:0")
        >>> places = _Places({"layer": cpu, "layer.0": cuda}, split=True)
        >>> places.of("layer.0.weight"), places.of("layer.01"), places.of("layer")
        (device(type='cuda', index=0), device(type='cpu'), device(type='cpu'))
        >>> places.of("head") is None
        True
        """
        while path not in self.devices and path:
            path = path.rpartition(".")[0]
        return self.devices.get(path)


class _Placed:
    """A model and its example, and the fake tensors that stand for theirs."""

    def __init__(self, model: nn.Module, given: Args, places: _Places) -> None:
        """Make the tensors; `places` says where."""
        self.model, self.places = model, places
        self._mode = mode_for(model, given)
        self._made: dict[int, torch.Tensor] = {}
        self._originals: dict[int, torch.Tensor] = {}
        """What each fake tensor stands for."""
        self._memory: dict[Any, torch.UntypedStorage] = {}
        parameters, buffers = named_state(model)
        self._named = {**parameters, **buffers}
        for name, tensor in self._named.items():
            self._stand_in(name, tensor, places.of(name))
        root = places.of("")
        self.args: Args = map_leaves(
            lambda leaf: (
                self._stand_in("the example", leaf, root)
                if isinstance(leaf, torch.Tensor)
                else leaf
            ),
            given,
        )

    def _stand_in(
        self, name: str, tensor: torch.Tensor, device: torch.device | None
    ) -> torch.Tensor:
        if id(tensor) in self._made:  # tied: where its first name says
            return self._made[id(tensor)]
        made = tensor
        if device is not None:
            try:
                made = torch_api.fake_on(self._mode, tensor, device, self._memory)
            except Exception as error:
                raise CaptureError(
                    f"{name!r}, a {type(tensor).__name__}, cannot be placed on {device}",
                    hint="capture the model where it lies",
                ) from error
            if isinstance(tensor, nn.Parameter):
                made = nn.Parameter(made, requires_grad=tensor.requires_grad)
        elif tensor.is_meta:
            raise UsageError(
                f"the map of devices has none for {name!r}, which lies on meta",
                hint="map '' to a device",
            )
        self._made[id(tensor)], self._originals[id(made)] = made, tensor
        return made

    def put_back(self, found: Capture) -> None:
        """Put the model's own tensors, and those of the example, in the place of the fake ones."""
        for name, value in found.placeholders.items():
            found.placeholders[name] = self._originals.get(id(value), value)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Give the model the fake tensors inside the block. Not safe for threads."""
        modules = {id(module): module for _, module in walk(self.model)}
        held: list[dict[str, Any]] = []
        for module in modules.values():
            held += [module._parameters, module._buffers]
        before = [dict(tensors) for tensors in held]
        try:
            for tensors in held:
                for name, tensor in tensors.items():
                    tensors[name] = tensor if tensor is None else self._made[id(tensor)]
            with ExitStack() as stack:
                if any(place.type == "cuda" for place in self.places.devices.values()):
                    stack.enter_context(torch_api.as_if_on_cuda())
                if self.places.split:
                    stack.enter_context(calls_replaced(self._moving()))
                yield
        finally:
            for tensors, kept in zip(held, before, strict=True):
                tensors.clear()
                tensors.update(kept)

    # -- a map of devices ------------------------------------------------------------------

    def _inside(self) -> dict[str, list[torch.device]]:
        """Return, by the path of a module that has tensors, where these lie."""
        found: dict[str, list[torch.device]] = {}
        for name, tensor in self._named.items():
            path = name
            while path:
                path = path.rpartition(".")[0]
                found.setdefault(path, []).append(self._made[id(tensor)].device)
        return found

    @property
    def repeatable(self) -> bool:
        """Whether modules with tensors on the same devices have their arguments moved alike.

        Otherwise a call must not stand for another one, which it may look like.
        """
        moved: dict[tuple[torch.device, ...], torch.device | None] = {}
        return all(
            moved.setdefault(tuple(devices), self.places.of(path)) == self.places.of(path)
            for path, devices in (self._inside() if self.places.split else {}).items()
        )

    def _moving(self) -> Callable[..., Any]:
        """Return what calls a module with its arguments where it lies.

        As in accelerate's dispatch, modules without tensors run wherever their arguments are.
        """
        original: Any = nn.Module.__call__
        where: dict[int, torch.device | None] = {}
        inside = self._inside()
        for path, module in walk(self.model):
            if path in inside:
                where.setdefault(id(module), self.places.of(path))

        def call(module: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
            device = where.get(id(module))
            if device is not None:
                args, kwargs = _moved(args, device), _moved(kwargs, device)
            return original(module, *args, **kwargs)

        return call


def _moved(value: Any, device: torch.device) -> Any:
    """Return `value` with the tensors in plain containers on `device`."""
    if isinstance(value, torch.Tensor):
        return value if value.device == device else value.to(device)
    if type(value) in (tuple, list):
        return type(value)([_moved(item, device) for item in value])
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*[_moved(item, device) for item in value])
    if type(value) is dict:
        return {key: _moved(item, device) for key, item in value.items()}
    return value
