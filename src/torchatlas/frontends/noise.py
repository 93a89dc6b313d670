"""Which ops say nothing about a model, and so get no node; each rule has a name and a test."""

from __future__ import annotations

from ..schema import TensorMeta

ASSERTIONS = frozenset(
    f"aten.{name}"
    for name in (
        "_assert_async",
        "_assert_scalar",
        "_assert_tensor_metadata",
        "_functional_assert_async",
        "_functional_assert_scalar",
        "sym_constrain_range",
        "sym_constrain_range_for_size",
    )
)
"""Checks that a tracer adds; nothing flows out of them."""

VMAP = frozenset(
    f"torch.{name}"
    for name in ("lazy_load_decompositions", "_vmap_decrement_nesting", "_vmap_increment_nesting")
)
"""Bookkeeping of `torch.vmap`, which stands in what flex attention's masks are made by."""

IDENTITIES = frozenset(
    {
        "aten.alias",
        "aten.detach",
        "aten.detach_",
        "aten.lift_fresh",
        "aten.lift_fresh_copy",
        "torch._add_batch_dim",
        "torch._remove_batch_dim",
    }
)
"""Ops that hand their operand on: bookkeeping of autograd and vmap, literals made tensors."""

CONVERSIONS = frozenset(
    {
        "aten.to",
        "aten._to_copy",
        "aten.type_as",
        "aten._autocast_to_full_precision",
        "aten._autocast_to_reduced_precision",
    }
)
"""Conversions, which are noise where data type, device and strides stay as they are."""


SLICES = frozenset({"aten.slice"})
"""Slices, which are noise where they take everything; torch itself leaves such out where sizes
are numbers."""


def is_noise(op: str, before: TensorMeta | None, after: TensorMeta | None, shared: bool) -> bool:
    """Say whether `op`, which makes `after` of `before`, is noise.

    `shared` says that both are on the same memory: a conversion that copies is never noise.

    >>> x = TensorMeta((2,), "float32", "cpu", (1,))
    >>> is_noise("aten.to", x, x, shared=True), is_noise("aten.to", x, x, shared=False)
    (True, False)
    >>> is_noise("aten.relu", x, x, shared=False), is_noise("aten.detach", x, x, shared=True)
    (False, True)
    >>> is_noise("aten.slice", x, x, shared=True)  # x[:]
    True
    """
    if op in ASSERTIONS or op in IDENTITIES or op in VMAP:
        return True
    return (op in CONVERSIONS or op in SLICES) and shared and before == after
