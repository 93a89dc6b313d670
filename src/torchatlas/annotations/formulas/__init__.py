"""FLOP formulas by family; importing a family fills the table."""

from . import (
    attention,
    contractions,
    convolution,
    einsum,
    elementwise,
    fourier,
    indexing,
    losses,
    normalisation,
    pooling,
    recurrent,
    reductions,
    sampling,
)
from .classes import named_class
from .passes import PASSES
from .registry import FORMULAS, Cost, Formula, evaluate, flop_formula

__all__ = [
    "FORMULAS",
    "PASSES",
    "Cost",
    "Formula",
    "attention",
    "contractions",
    "convolution",
    "einsum",
    "elementwise",
    "evaluate",
    "flop_formula",
    "fourier",
    "indexing",
    "losses",
    "named_class",
    "normalisation",
    "pooling",
    "recurrent",
    "reductions",
    "sampling",
]
