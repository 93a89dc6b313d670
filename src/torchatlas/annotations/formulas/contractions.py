"""Products of matrices."""

from __future__ import annotations

from ...schema import TensorMeta
from .registry import Cost, flop_formula


@flop_formula("aten.linear")
def linear(
    input: TensorMeta, weight: TensorMeta, out: TensorMeta, bias: TensorMeta | None = None
) -> Cost:
    """Apply a weight (out, in) to an input (*, in).

    >>> from torchatlas.schema import TensorMeta as T
    >>> linear(T((8, 512)), T((1000, 512)), T((8, 1000)), T((1000,)))  # 8 x 1000 x 512
    Cost(macs=4096000, other=8000)
    """
    return Cost(out.numel * weight.shape[-1], out.numel if bias is not None else 0)
