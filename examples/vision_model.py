"""Capture a vision model: its summary, its costliest layers, and files for other tools.

Writes resnet18.onnx, resnet18.dot and resnet18.json into a folder, made if there is none:

    python examples/vision_model.py out

Open the first two in Netron, or draw the second with Graphviz: `dot -Tsvg out/resnet18.dot`.
Needs torchvision. The weights are random: only shapes matter here.
"""

import sys
import tempfile
from pathlib import Path

import torch
import torchvision

import torchatlas as ta


def main(folder: Path) -> None:
    model = torchvision.models.resnet18().eval()
    graph = ta.capture(model, torch.randn(1, 3, 224, 224))
    print(graph.summary(depth=1))

    flops = {name: node["flops"] for name, node in graph.nodes(data=True) if node.get("flops")}
    costliest = sorted(flops, key=lambda name: flops[name], reverse=True)[:3]
    print("\nThe three layers that cost most:")
    for name in costliest:
        node = graph.nodes[name]
        share = flops[name] / ta.totals(graph).flops
        made = node["outputs"][0]
        print(f"  {name}: {flops[name] / 1e6:.0f} MFLOP ({share:.1%}), makes {made}")

    folder.mkdir(parents=True, exist_ok=True)
    print()
    for suffix in ("onnx", "dot", "json"):
        path = folder / f"resnet18.{suffix}"
        graph.export(path)
        print(f"wrote {path} ({path.stat().st_size / 1e3:,.0f} kB)")
    again = ta.load(folder / "resnet18.json")
    print(f"read back from the .json: {again}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary))
