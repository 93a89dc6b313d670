"""Options and fixtures that all tests share."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

import pytest

import models
import torchatlas as ta

GOLDEN = Path(__file__).parent / "golden"

# Nothing that a test builds may come from a network.
os.environ["HF_HUB_OFFLINE"] = "1"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite tests/golden")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    import torch

    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("cuda"):
            item.add_marker(pytest.mark.skip(reason="needs a GPU"))


@lru_cache(maxsize=64)
def _captured(name: str) -> ta.ModelGraph:
    return ta.capture(*models.make(name))


@lru_cache(maxsize=64)
def _exported(name: str) -> ta.ModelGraph:
    return ta.capture(*models.make(name), frontend="export")


@pytest.fixture
def captured():
    """A function that captures a model of `models` by name, once in a session."""
    return _captured


@pytest.fixture
def exported():
    """As `captured`, by the front end ``export``."""
    return _exported


@pytest.fixture
def golden(request: pytest.FixtureRequest):
    """A function that compares a text with a file in tests/golden."""

    def check(name: str, text: str) -> None:
        path = GOLDEN / name
        if request.config.getoption("--update-golden"):
            path.write_text(text)
        assert text == path.read_text(), "run pytest --update-golden if the change is meant"

    return check
