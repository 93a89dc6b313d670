"""Ask where a language model's compute goes: attention or MLP, and how that moves with length.

    python examples/language_model.py

Captures a small Llama (grouped-query attention: 8 query heads share 2 key-value heads) built
from a configuration on the meta device, so no weight is ever made. Needs transformers.
"""

from collections import Counter

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import torchatlas as ta

CONFIG = LlamaConfig(
    vocab_size=4096,
    hidden_size=512,
    intermediate_size=1408,
    num_hidden_layers=4,
    num_attention_heads=8,
    num_key_value_heads=2,
    use_cache=False,
)


def by_part(graph: ta.ModelGraph, key: str) -> Counter[tuple[str, str]]:
    """Return sums of `key` by layer ("" outside the layers) and by the part inside it."""
    sums: Counter[tuple[str, str]] = Counter()
    for _, node in graph.nodes(data=True):
        before, _, inside = node["module"].partition("layers.")
        layer, _, part = inside.partition(".")
        sums[layer, part.partition(".")[0] if layer else before] += node.get(key) or 0
    return sums


def main() -> None:
    with torch.device("meta"):
        model = LlamaForCausalLM(CONFIG).eval()
    for length in (128, 2048):
        ids = torch.zeros(1, length, dtype=torch.int64)
        graph = ta.capture(model, {"input_ids": ids})
        flops, params, whole = by_part(graph, "flops"), by_part(graph, "params"), ta.totals(graph)
        print(f"\n{length} tokens: {whole}\n")
        print("layer     attention MFLOP   MLP MFLOP   parameters")
        for layer in sorted({layer for layer, _ in flops if layer}):
            attention, mlp = flops[layer, "self_attn"] / 1e6, flops[layer, "mlp"] / 1e6
            own = sum(count for (where, _), count in params.items() if where == layer)
            print(f"{layer:<9} {attention:15,.1f} {mlp:11,.1f} {own:12,}")
        for part in ("self_attn", "mlp", "lm_head"):
            share = sum(n for (_, name), n in flops.items() if name == part) / whole.flops
            print(f"{part}: {share:.1%} of the FLOPs")


if __name__ == "__main__":
    main()
