"""What the package promises of itself: its names, its speed to start, its layers."""

from __future__ import annotations

import subprocess
import sys

import pytest

import torchatlas as ta


def test_public_names():
    assert ta.__all__ == [
        "AtlasError",
        "Cost",
        "Device",
        "ModelGraph",
        "__version__",
        "add_graph",
        "annotate",
        "bind",
        "capture",
        "collapse",
        "critical_path",
        "estimate",
        "export",
        "flop_formula",
        "load",
        "measure",
        "recorded",
        "recording",
        "summary",
        "to_pydot",
        "to_text",
        "totals",
        "transfers",
        "validate",
        "view",
    ]
    for name in ta.__all__:
        assert getattr(ta, name).__doc__ or name == "__version__"
    assert set(ta.__all__) <= set(dir(ta))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = ta.nothing


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import torchatlas", ["torch", "networkx", "onnx", "rich", "sympy"]),
        ("import torchatlas.cli", ["torch", "networkx", "onnx", "sympy"]),
        ("import torchatlas as ta; ta.load", ["torch", "onnx", "sympy"]),
        (
            "import torchatlas as ta\ntry: ta.load('no.json')\nexcept ta.AtlasError: pass",
            ["torch", "onnx"],
        ),
    ],
)
def test_heavy_packages_load_where_they_are_used(code, absent):
    code = f"{code}\nimport sys\nprint([m for m in {absent} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_errors_survive_pickling():
    import pickle

    from torchatlas.errors import FormatError, MissingExtraError

    error = pickle.loads(pickle.dumps(FormatError("bad", hint="mend it", node="a")))
    assert (error.problem, error.hint, error.node) == ("bad", "mend it", "a")
    missing = pickle.loads(pickle.dumps(MissingExtraError("netron", extra="viewers")))
    assert "pip install 'torchatlas[viewers]'" in str(missing)
