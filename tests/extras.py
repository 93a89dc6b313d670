"""What tests of other libraries share."""

from __future__ import annotations

import importlib
import os
from typing import Any

import pytest

BOTH = pytest.mark.parametrize("frontend", ["trace", "export"])


def package(name: str) -> Any:
    """Return a module of an extra; skip the test without it, but fail it in CI."""
    try:
        return importlib.import_module(name)
    except ImportError:
        problem = f"{name} is not installed"
        return pytest.fail(problem) if os.environ.get("CI") else pytest.skip(problem)


def ids(graph, *kinds):
    return [name for name, node in graph.nodes(data=True) if node["kind"] in kinds]
