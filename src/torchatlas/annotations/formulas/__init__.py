"""FLOP formulas by family; importing a family fills the table."""

from . import contractions
from .registry import FORMULAS, Cost, evaluate, flop_formula

__all__ = ["FORMULAS", "Cost", "contractions", "evaluate", "flop_formula"]
