"""Reads and runs the ONNX files that the tests write."""

from __future__ import annotations

import copy

import numpy as np
import onnx
import onnxruntime
import torch
from onnx.reference import ReferenceEvaluator
from torch import nn

import models


def load(content: bytes) -> onnx.ModelProto:
    onnx.checker.check_model(content, full_check=True)
    return onnx.load_from_string(content)


def facts(proto) -> dict[str, str]:
    return {entry.key: entry.value for entry in proto.metadata_props}


def all_nodes(graph):
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from all_nodes(attribute.g)


def leaves(tree) -> list:
    if isinstance(tree, dict):
        return [leaf for key in tree for leaf in leaves(tree[key])]
    if isinstance(tree, models.Pair):
        return [tree.left, tree.right]
    if isinstance(tree, tuple | list):
        return [leaf for item in tree for leaf in leaves(item)]
    return [tree] if isinstance(tree, torch.Tensor) else []


def call(model: nn.Module, example):
    """Run the model on a copy of its example, which it may write to."""
    example = copy.deepcopy(example)
    if isinstance(example, dict):
        return model(**example)
    if isinstance(example, tuple) and len(example) == 2 and isinstance(example[1], dict):
        return model(*example[0], **example[1])
    return model(*example) if isinstance(example, tuple) else model(example)


def run(path_or_bytes, example) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path_or_bytes, options)
    tensors = [tensor.numpy() for tensor in leaves(example)]
    return session.run(
        None, dict(zip([i.name for i in session.get_inputs()], tensors, strict=True))
    )


def refer(content: bytes, example) -> list[np.ndarray]:
    session = ReferenceEvaluator(onnx.load_from_string(content))
    tensors = [tensor.numpy() for tensor in leaves(example)]
    found = session.run(None, dict(zip(session.input_names, tensors, strict=True)))
    return [array.astype(np.float32) for array in found]


def difference(found: list[np.ndarray], expected) -> float:
    """Return the largest difference, relative to the largest value of each output."""
    wanted = [tensor.detach().float().numpy() for tensor in leaves(expected)]
    assert [a.shape for a in found] == [b.shape for b in wanted]
    pairs = zip(found, wanted, strict=True)
    return max(float(np.abs(a - b).max() / (np.abs(b).max() + 1e-9)) for a, b in pairs)


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, norm_first=True)

    def forward(self, x):
        return self.layer(x)


def encoder() -> models.Made:
    """Return a layer of a transformer with an example."""
    return Encoder(), torch.randn(2, 5, 16)
