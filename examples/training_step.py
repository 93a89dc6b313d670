"""Cost a training step: operations by phase, the peak of memory and what it is for.

One graph holds forward, loss, backward and the optimizer's step; nothing is trained and no
gradient is left behind. A batch is a number here: try another one.

    python examples/training_step.py 32

Needs torchvision. The weights are random: only shapes matter here.
"""

import sys
from collections import Counter

import torch
import torchvision

import torchatlas as ta
from torchatlas.graph import op_nodes
from torchatlas.memory import saved_for_backward


def main(batch: int) -> None:
    model = torchvision.models.resnet18()
    images, labels = torch.zeros(batch, 3, 224, 224), torch.zeros(batch, dtype=torch.long)
    graph = ta.capture(
        model,
        images,
        mode="training",
        loss=lambda output: torch.nn.functional.cross_entropy(output, labels),
        optimizer=torch.optim.AdamW,
    )

    work: Counter[str] = Counter()
    for _, node in op_nodes(graph):
        work[node["phase"]] += node["flops"] + node["flops_other"]
    for phase, operations in work.items():
        print(f"{phase:10} {operations / 1e9:8.1f} GFLOP")

    peak = ta.totals(graph).peak
    print(f"\npeak of memory: {peak.nbytes / 1e6:,.0f} MB, at {peak.node}")
    for purpose, size in peak.split.items():
        print(f"  {purpose:12} {size / 1e6:8.1f} MB")

    saved = saved_for_backward(graph)
    print(f"\nsaved for the backward pass: {sum(saved.values()) / 1e6:,.0f} MB, most of all")
    for name in sorted(saved, key=lambda name: saved[name], reverse=True)[:3]:
        print(f"  {name}: {saved[name] / 1e6:.1f} MB")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 8)
