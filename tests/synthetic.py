"""Graphs of any size, made without a model."""

from __future__ import annotations

from torchatlas.annotations import annotate
from torchatlas.graph import ModelGraph, build
from torchatlas.records import OpRecord, Value
from torchatlas.schema import Module, TensorMeta


def deep(count: int) -> ModelGraph:
    """Return a graph of `count` nodes: blocks of linear, ReLU and a sum that reads far back."""
    out, matrix = TensorMeta((8, 64)), TensorMeta((64, 64))
    records = [OpRecord("x", "input", target="x", outputs=(out,))]
    before = skip = "x"
    for i in range((count - 2) // 4):
        path = f"layers.{i // 5}"
        block = (Module("", "Net"), Module("layers", "ModuleList"), Module(path, "Block"))
        stack = (*block, Module(f"{path}.fc{i % 5}", "Linear"))
        weight = Value(f"w{i}")
        ops = (
            ("l", "linear", {"input": Value(before), "weight": weight}, stack),
            ("r", "relu", {"self": Value(f"l{i}")}, block),
            ("a", "add", {"self": Value(f"r{i}"), "other": Value(skip)}, block),
        )
        name = f"{stack[-1].path}.weight"
        records.append(
            OpRecord(weight.key, "parameter", target=name, outputs=(matrix,), stack=stack)
        )
        records += [
            OpRecord(f"{key}{i}", "op", op=f"aten.{op}", args=args, outputs=(out,), stack=where)
            for key, op, args, where in ops
        ]
        before = f"a{i}"
        skip = before if i % 5 == 4 else skip
    records.append(OpRecord("end", "output", target="output", args={"value": Value(before)}))
    return annotate(build(records, name="Deep")[0])
