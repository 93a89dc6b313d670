"""Every noise rule, on a model that has the op: dropped, counted, and its reader rewired."""

from __future__ import annotations

import pytest
import torch

import torchatlas as ta
from torchatlas.frontends import noise
from torchatlas.schema import TensorMeta, Use


def test_detach_and_no_op_conversions_hand_their_operand_on():
    graph = ta.capture(lambda x: x.detach().to(torch.float32) * 2, torch.ones(3))
    assert list(graph) == ["x", "mul", "output"]
    assert graph.edges["x", "mul"]["uses"] == (Use(0, "self"),)
    assert {"aten.detach", "aten.to"} <= set(graph.graph["dropped"])


def test_conversions_that_convert_stay():
    graph = ta.capture(lambda x: x.to(torch.float16).to(torch.float16), torch.ones(3))
    kept = [node["op"] for _, node in graph.nodes(data=True) if node["kind"] == "op"]
    assert len(kept) == 1 and kept[0] in noise.CONVERSIONS


def test_copies_stay_although_nothing_changes():
    graph = ta.capture(lambda x: x.to(torch.float32, copy=True), torch.ones(3))
    assert [n["kind"] for _, n in graph.nodes(data=True)] == ["input", "op", "output"]


def test_literals_become_constants():
    graph = ta.capture(lambda x: x + torch.tensor([1.0, 2.0]), torch.ones(2))
    kinds = {node["kind"] for _, node in graph.nodes(data=True)}
    assert kinds == {"input", "constant", "op", "output"}
    assert not any(node["op"] in noise.IDENTITIES for _, node in graph.nodes(data=True))


X = TensorMeta((2,), "float32", "cpu", (1,))


@pytest.mark.parametrize("op", sorted(noise.ASSERTIONS | noise.IDENTITIES | noise.VMAP))
def test_assertions_and_identities_are_always_noise(op):
    assert noise.is_noise(op, X, X, shared=True) and noise.is_noise(op, X, None, shared=False)


@pytest.mark.parametrize("op", ["aten.clone", "aten.contiguous", "aten.dropout", "aten.relu"])
def test_what_computes_or_copies_is_not(op):
    assert not noise.is_noise(op, X, X, shared=True)
