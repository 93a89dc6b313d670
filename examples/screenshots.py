"""Open one graph in every viewer, choose a node in each, and take the pictures of the README.

    python examples/screenshots.py docs

Needs Chromium and `pip install torchatlas[test]`; the browser is driven as in the tests.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import torch
import torchvision
from PIL import Image

import torchatlas as ta

sys.path.append(str(Path(__file__).parents[1] / "tests"))
import browser

NODE = "layer1/0/conv1/conv2d"
VIEWERS = {
    "netron": (browser.open_in_netron, "net.onnx", browser.Netron.select),
    "model_explorer": (browser.open_in_model_explorer, "net.json", browser.ModelExplorer.find),
    "tensorboard": (browser.open_in_tensorboard, "net.json", browser.TensorBoard.find),
}


def main(out: Path, made: Path) -> None:
    graph = ta.capture(torchvision.models.resnet18().eval(), torch.zeros(1, 3, 224, 224))
    for name in ("net.html", "net.json", "net.onnx"):
        graph.export(made / name)
    with browser.open_page(*browser.WEBGL) as page:
        for name, (opened, file, find) in VIEWERS.items():
            with opened(made / file, page) as viewer:
                find(viewer, NODE)
                time.sleep(1.5)  # until what moves has come to rest
                page.screenshot(out / f"{name}.png")
        page.goto(f"{(made / 'net.html').as_uri()}#{NODE}")
        time.sleep(1.5)
        page.screenshot(out / "report.png")
    block = graph.subgraph(node for node in graph if node.startswith("layer2/0/"))
    block.export(out / "picture.png", rankdir="LR", parameters=False, dpi=96)
    for name in (*VIEWERS, "report", "picture"):
        with Image.open(out / f"{name}.png") as shot:  # 64 colours are enough, in less room
            shot.thumbnail((1600, 700))
            shot.convert("RGB").quantize(64).save(shot.filename, optimize=True)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(Path(sys.argv[1]), Path(folder))
