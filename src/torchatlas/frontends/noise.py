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

IDENTITIES = frozenset(
    {"aten.alias", "aten.detach", "aten.detach_", "aten.lift_fresh", "aten.lift_fresh_copy"}
)
"""Ops that hand their operand on: autograd's bookkeeping and literals turned into tensors."""

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


def is_noise(op: str, before: TensorMeta | None, after: TensorMeta | None, shared: bool) -> bool:
    """Say whether `op`, which makes `after` of `before`, is noise.

    `shared` says that both are on the same memory: a conversion that copies is never noise.

    >>> x = TensorMeta((2,), "float32", "cpu", (1,))
    >>> is_noise("aten.to", x, x, shared=True), is_noise("aten.to", x, x, shared=False)
    (True, False)
    >>> is_noise("aten.relu", x, x, shared=False), is_noise("aten.detach", x, x, shared=True)
    (False, True)
    """
    if op in ASSERTIONS or op in IDENTITIES:
        return True
    return op in CONVERSIONS and shared and before == after
