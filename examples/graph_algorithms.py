"""Run networkx on a captured model: the costliest path, one module alone, what a node needs.

    python examples/graph_algorithms.py

A captured model is a networkx DiGraph, so each question is a call or two. Needs torchvision.
"""

import networkx as nx
import torch
import torchvision

import torchatlas as ta


def reached_from_inputs(graph: ta.ModelGraph) -> ta.ModelGraph:
    """Return the inputs and what they reach: the graph without weights, which are just there."""
    inputs = [name for name, node in graph.nodes(data=True) if node["kind"] == "input"]
    reached = set(inputs).union(*(nx.descendants(graph, name) for name in inputs))
    flow = graph.copy()  # a copy keeps the order of the nodes, which `graph.subgraph` does not
    flow.remove_nodes_from(set(graph) - reached)
    return flow


def costliest_path(flow: ta.ModelGraph) -> list[str]:
    """Return the path with the most FLOPs: what running branches side by side cannot shorten."""
    weighted = nx.DiGraph()
    for source, target in flow.edges:
        weighted.add_edge(source, target, flops=flow.nodes[target].get("flops") or 0)
    return nx.dag_longest_path(weighted, weight="flops")


def main() -> None:
    model = torchvision.models.resnet18().eval()
    graph = ta.capture(model, torch.randn(1, 3, 224, 224))
    total = ta.totals(graph).flops

    flow = reached_from_inputs(graph)
    path = costliest_path(flow)
    cost = sum(flow.nodes[name].get("flops") or 0 for name in path)
    print(f"costliest path: {len(path)} of {len(flow)} nodes, from {path[0]} to {path[-1]},")
    print(f"  {cost:,} of {total:,} FLOPs ({cost / total:.1%})")
    beside = [name for name in flow if flow.nodes[name].get("flops") and name not in path]
    print(f"beside it: {', '.join(beside)}")

    inside = [n for n, node in graph.nodes(data=True) if f"{node['module']}.".startswith("layer3.")]
    layer3 = graph.subgraph(inside)
    print(f"\nlayer3 alone: {layer3}\n  {ta.totals(layer3)}")

    needed = [graph.nodes[name] for name in nx.ancestors(graph, "layer1/1/relu/relu_1")]
    params = sum(node.get("params", 0) for node in needed)
    print(f"\nto compute the output of layer1 takes {params:,} of the parameters and")
    print(f"  {sum(node['kind'] == 'op' for node in needed)} ops before its own")


if __name__ == "__main__":
    main()
