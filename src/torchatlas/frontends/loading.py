"""Models by name, as the command line takes them, and examples from shapes."""

from __future__ import annotations

import ast
import difflib
import importlib
import importlib.util
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import torch
from torch import nn

from ..errors import AtlasError, CaptureError, MissingExtraError, UsageError
from ..names import clean
from .state import check_structure
from .weightless import fake_buffers, weightless

_FORMS = "module:NAME, path/to/file.py:NAME, timm:NAME or hf:TYPE"
_ZOO = frozenset({"torchvision", "timm", "transformers"})


def load_model(
    spec: str, arguments: Mapping[str, Any] | None = None, *, fake: bool = False
) -> nn.Module:
    """Return the model that `spec` names, made with `arguments`, with random weights.

    `spec` is ``module:NAME`` or ``path/to/file.py:NAME`` for a class or function that makes a
    model, ``timm:NAME`` for an architecture of timm, or ``hf:TYPE`` for a model type of
    transformers in its default configuration. Nothing is downloaded. With `fake` the weights
    have shapes but no values, and take no memory.

    Raises UsageError for a name that does not exist, MissingExtraError for a package that is
    not installed, and CaptureError where the model cannot be made.
    """
    place, _, name = spec.rpartition(":")
    if not place or not name:
        raise UsageError(f"{spec!r} does not name a model", hint=f"write {_FORMS}")
    with weightless() if fake else nullcontext() as mode:
        made = _LOADERS.get(place, _from_module)(place, name, dict(arguments or {}))
    if not isinstance(made, nn.Module):
        raise UsageError(
            f"{spec!r} makes a {type(made).__name__}, not a model",
            hint="name a class or a function that makes an nn.Module",
        )
    check_structure(made)
    if mode is not None:
        fake_buffers(made, mode)
    return made


def _make(what: str, factory: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    try:
        return factory(*args, **kwargs)
    except AtlasError:
        raise
    except Exception as error:
        raise CaptureError(
            f"{what} could not be made: {type(error).__name__}: {clean(str(error))}",
            hint="pass what it needs with --arg name=value",
        ) from error


def find(place: str, name: str) -> Any:
    """Return what `name` is in a module, or in a Python file, which is run for that.

    Raises UsageError where there is no such module, file or name, and CaptureError where it
    cannot be imported.
    """
    module = _from_file(Path(place)) if place.endswith(".py") else _import(place)
    try:
        return getattr(module, name)
    except AttributeError:
        raise UsageError(
            f"{place!r} has no {name!r}", hint=_did_you_mean(name, dir(module))
        ) from None


def _from_module(place: str, name: str, arguments: dict[str, Any]) -> Any:
    found = find(place, name)
    return found if isinstance(found, nn.Module) else _make(name, found, **arguments)


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise UsageError(f"there is no file {str(path)!r}", hint="check the path")
    sys.path.insert(0, str(path.parent.resolve()))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{str(path)!r} is no Python file", hint="its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    _make(path.name, spec.loader.exec_module, module)
    return module


def _import(place: str) -> ModuleType:
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        missing = (error.name or place).partition(".")[0]
        if missing in _ZOO:
            raise MissingExtraError(missing, extra="zoo") from error
        raise UsageError(
            f"there is no module {error.name!r}",
            hint=f"install the package that has it, or correct the name: {_FORMS}",
        ) from error
    except Exception as error:
        raise CaptureError(
            f"{place} could not be imported: {type(error).__name__}: {clean(str(error))}",
            hint="import it in Python to see the whole reason",
        ) from error


def _from_timm(place: str, name: str, arguments: dict[str, Any]) -> Any:
    timm = _import("timm")
    if not timm.is_model(name):
        raise UsageError(f"timm has no {name!r}", hint=_did_you_mean(name, timm.list_models()))
    return _make(name, timm.create_model, name, pretrained=False, **arguments)


def _from_transformers(place: str, name: str, arguments: dict[str, Any]) -> Any:
    transformers = _import("transformers")
    try:
        config = transformers.AutoConfig.for_model(name, **arguments)
    except ValueError as error:
        known = getattr(transformers, "CONFIG_MAPPING", {}).keys()
        hint = _did_you_mean(name, known)
        raise UsageError(f"transformers has no model type {name!r}", hint=hint) from error
    if hasattr(config, "use_cache"):
        config.use_cache = False  # a cache among the outputs is an object of its own
    return _make(name, transformers.AutoModel.from_config, config)


_LOADERS: dict[str, Callable[[str, str, dict[str, Any]], Any]] = {
    "timm": _from_timm,
    "hf": _from_transformers,
}


def _did_you_mean(name: str, known: Any) -> str:
    names = sorted(str(item) for item in known if not str(item).startswith("_"))
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    return f"did you mean {', '.join(close)}?" if close else f"it has {', '.join(names[:8])}, …"


def parse_argument(text: str) -> tuple[str, Any]:
    """Return the name and the value of ``name=value``; the value is a literal or else text.

    >>> parse_argument("width=32"), parse_argument("act=relu")
    (('width', 32), ('act', 'relu'))
    """
    name, found, value = text.partition("=")
    if not found or not name.isidentifier():
        raise UsageError(f"{text!r} is no argument", hint="write --arg name=value")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


_INPUT = re.compile(
    r"(?:(?P<name>[A-Za-z_]\w*)=)?(?P<shape>\d+(?:x\d+)*|scalar)(?::(?P<dtype>\w+))?"
)


def parse_input(text: str) -> tuple[str | None, torch.Tensor]:
    """Return the name and a tensor for ``[name=]SHAPE[:DTYPE]``.

    Floating-point tensors hold fixed pseudo-random numbers, others zeros.

    >>> name, tensor = parse_input("input_ids=1x128:int64")
    >>> name, tensor.shape, tensor.dtype
    ('input_ids', torch.Size([1, 128]), torch.int64)
    """
    match = _INPUT.fullmatch(text)
    dtype = getattr(torch, match["dtype"] or "float32", None) if match else None
    if match is None or not isinstance(dtype, torch.dtype):
        raise UsageError(
            f"{text!r} is no input",
            hint="write [name=]SHAPE[:DTYPE], as in 1x3x224x224 or input_ids=1x128:int64",
        )
    shape = () if match["shape"] == "scalar" else tuple(map(int, match["shape"].split("x")))
    if not (dtype.is_floating_point or dtype.is_complex):
        return match["name"], torch.zeros(shape, dtype=dtype)
    generator = torch.Generator().manual_seed(0)
    return match["name"], torch.randn(shape, generator=generator).to(dtype)


def parse_dynamic(texts: Sequence[str]) -> Any:
    """Return what `torchatlas.capture` takes as `dynamic` from the texts of the option.

    ``x=batch,_,height`` names the dimensions of one input, ``_`` one that is fixed; names alone,
    ``batch,seq``, go to the leading dimensions of every input tensor that has that many.

    >>> parse_dynamic(["x=batch,_,height", "y=batch"]), parse_dynamic(["batch,seq"])
    ({'x': ['batch', None, 'height'], 'y': ['batch']}, ['batch', 'seq'])
    """
    if not texts:
        return None
    parts = [text.rpartition("=") for text in texts]
    shared = [names for name, _, names in parts if not name]
    if shared and len(texts) > 1:
        raise UsageError(
            f"{shared[0]!r} says of no input that it is meant",
            hint="write --dynamic NAME=DIM,DIM for each input, or --dynamic DIM,DIM once",
        )
    named = {
        name: [None if dim == "_" else dim for dim in dims.split(",")] for name, _, dims in parts
    }
    return named.get("", named)


def parse_sizes(text: str) -> dict[str, int]:
    """Return the sizes in ``batch=8,seq=4096``.

    >>> parse_sizes("batch=8,seq=4096")
    {'batch': 8, 'seq': 4096}
    """
    pairs = [part.partition("=") for part in text.split(",")]
    if not all(name.strip() and size.strip().isdecimal() for name, _, size in pairs):
        raise UsageError(f"{text!r} is no list of sizes", hint="write --at batch=8,seq=4096")
    return {name.strip(): int(size) for name, _, size in pairs}


def make_example(inputs: Sequence[str], model: nn.Module) -> Any:
    """Return the example that the texts of `inputs` describe, or the model's own default.

    timm and transformers models know an input; torchvision's take 1x3x224x224.
    """
    if inputs:
        parsed = [parse_input(text) for text in inputs]
        positional = tuple(tensor for name, tensor in parsed if name is None)
        return positional, {name: tensor for name, tensor in parsed if name is not None}
    package = type(model).__module__.partition(".")[0]
    if package == "timm":
        size = getattr(model, "default_cfg", {}).get("input_size", (3, 224, 224))
        return ((torch.zeros(1, *size),), {})
    if package == "torchvision":
        return ((torch.zeros(1, 3, 224, 224),), {})
    if package == "transformers":
        return ((), dict(cast(Any, model).dummy_inputs))
    raise UsageError(
        f"the shape of {type(model).__name__}'s input is not known",
        hint="say it with --input, as in --input 1x3x224x224 or --input x=8x32:float32",
    )
