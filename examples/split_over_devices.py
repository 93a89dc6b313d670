"""Find where to split a model over two devices so that the least data goes between them.

    python examples/split_over_devices.py

That is a minimum cut of the graph, which networkx computes. Needs torchvision.
"""

import networkx as nx
import torch
import torchvision

import torchatlas as ta


def cheapest_cut(graph: ta.ModelGraph, low: float, high: float) -> tuple[int, set[str]]:
    """Return the bytes to send from device 1 to device 2, and the nodes that run on device 1.

    In the order of execution, ops up to the share `low` of the FLOPs are to run on device 1 and
    those from the share `high` on device 2; without that, the cut is at the input or the output.
    """
    # Weights lie on their device beforehand: only what the inputs reach is sent.
    inputs = [name for name, node in graph.nodes(data=True) if node["kind"] == "input"]
    flow = graph.subgraph(set(inputs).union(*(nx.descendants(graph, name) for name in inputs)))
    net = nx.DiGraph()  # an edge without a capacity is never cut
    total, done = ta.totals(flow).flops, 0
    for name in sorted(flow, key=lambda name: flow.nodes[name]["index"]):
        node = flow.nodes[name]
        done += node.get("flops") or 0
        if done <= low * total:
            net.add_edge("device 1", (name,))
        elif done > high * total or node["kind"] == "output":
            net.add_edge((name,), "device 2")
        # However many ops read a tensor, it is sent once: so tensors have a price, not edges.
        for i, tensor in enumerate(node["outputs"]):
            net.add_edge((name,), (name, i), capacity=tensor.nbytes if tensor else 0)
        for source, _, edge in flow.in_edges(name, data=True):
            net.add_edge((name,), (source,))  # nothing comes back from device 2
            for use in edge["uses"]:
                if use.output is not None:
                    net.add_edge((source, use.output), (name,))
    size, (first, _) = nx.minimum_cut(net, "device 1", "device 2")
    return size, {name for name in flow if (name,) in first}


def main() -> None:
    model = torchvision.models.resnet18().eval()
    graph = ta.capture(model, torch.randn(1, 3, 224, 224))
    for low, high in ((0.45, 0.55), (0.3, 0.7), (0.0, 1.0)):
        size, first = cheapest_cut(graph, low, high)
        share = ta.totals(graph.subgraph(first)).flops / ta.totals(graph).flops
        sent = {name for name in first if set(graph.successors(name)) - first}
        print(f"device 1 takes {low:.0%} to {high:.0%} of the FLOPs: send {size:,} bytes,")
        print(f"  the output of {' and '.join(sorted(sent))}; device 1 then takes {share:.1%}")


if __name__ == "__main__":
    main()
