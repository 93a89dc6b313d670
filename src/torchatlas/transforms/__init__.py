"""Transforms return a new graph and leave the one that they are given as it is."""

from .bind import bind
from .collapse import collapse

__all__ = ["bind", "collapse"]
