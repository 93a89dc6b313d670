"""Collectives: no FLOPs, and a message.

The message is the larger of the bytes that go in and that come out on one device, as nccl-tests
counts (`doc/PERFORMANCE.md` there): the whole buffer for an all-reduce, the gathered one for an
all-gather, the one that is scattered for a reduce-scatter. Sums that a reduction takes on the way
are no FLOPs of the model.
"""

# ruff: noqa: N803 - arguments have the names of the schemas

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...schema import Dim, TensorMeta
from .registry import Cost, flop_formula

_Tensors = tuple[TensorMeta | None, ...]


def _nbytes(tensors: Any) -> Dim:
    """Add up the bytes of a tensor, or of a tree of them.

    >>> from torchatlas.schema import TensorMeta as T
    >>> _nbytes((T((2, 3)), (T((4,), "bfloat16"), None)))
    32
    """
    if isinstance(tensors, TensorMeta):
        return tensors.nbytes
    if isinstance(tensors, Sequence) and not isinstance(tensors, str):
        return sum((_nbytes(tensor) for tensor in tensors), 0)
    return 0


def _message(sent: Any, received: Any) -> Cost:
    going, coming = _nbytes(sent), _nbytes(received)
    if isinstance(going, int) and isinstance(coming, int):
        return Cost(comm_bytes=max(going, coming))
    import sympy

    return Cost(comm_bytes=sympy.Max(going, coming))


_SINGLE = (
    "all_reduce all_gather_into_tensor all_gather_into_tensor_out reduce_scatter_tensor "
    "reduce_scatter_tensor_out all_to_all_single broadcast"
)


@flop_formula(
    *(f"_c10d_functional.{name}" for name in _SINGLE.split()),
    "_c10d_functional_autograd.all_gather_into_tensor",
    "_c10d_functional_autograd.reduce_scatter_tensor",
    "_c10d_functional_autograd.all_to_all_single",
    "_dtensor.shard_dim_alltoall",
    "symm_mem.one_shot_all_reduce",
    "symm_mem.one_shot_all_reduce_out",
    "symm_mem.two_shot_all_reduce",
    "symm_mem.two_shot_all_reduce_out",
    "symm_mem.multimem_all_reduce",
    "symm_mem.multimem_one_shot_all_reduce",
    "symm_mem.multimem_one_shot_all_reduce_out",
    "symm_mem.multimem_one_shot_reduce_out",
    "symm_mem.multimem_all_gather_out",
    "symm_mem.reduce_scatter_out",
    "symm_mem.nvshmem_broadcast",
    "symm_mem.nvshmem_all_to_all",
    "symm_mem.all_to_all_vdev",
    "symm_mem.all_to_all_vdev_2d",
    "symm_mem.all_to_all_vdev_2d_offset",
    "symm_mem.nccl_all_to_all_nd",
    "symm_mem.nccl_reduce_scatter_offset",
)
def collective(input: TensorMeta, outs: _Tensors) -> Cost:
    """Exchange a tensor.

    >>> from torchatlas.schema import TensorMeta as T
    >>> whole, shard = T((8, 4)), T((2, 4))
    >>> collective(whole, (whole,)), collective(shard, (whole,))  # all-reduce, all-gather
    (Cost(macs=0, other=0, comm_bytes=128), Cost(macs=0, other=0, comm_bytes=128))
    """
    return _message(input, outs)


@flop_formula(
    "_c10d_functional.all_reduce_coalesced",
    "_c10d_functional.all_gather_into_tensor_coalesced",
    "_c10d_functional.reduce_scatter_tensor_coalesced",
    "c10d_functional.reduce_scatter_tensor_coalesced",
)
def coalesced(inputs: tuple[TensorMeta, ...], outs: _Tensors) -> Cost:
    """Exchange a list of tensors at once.

    >>> from torchatlas.schema import TensorMeta as T
    >>> coalesced((T((8, 4)), T((2,))), (T((8, 4)), T((2,))))
    Cost(macs=0, other=0, comm_bytes=136)
    """
    return _message(inputs, outs)


@flop_formula(
    "_c10d_functional.isend",
    "_c10d_functional.irecv",
    "symm_mem._low_contention_all_gather",
    "symm_mem._low_contention_all_gather_ce_multicast",
    "symm_mem._low_contention_reduce_scatter",
    "symm_mem.nvshmem_put",
    "symm_mem.nvshmem_get",
    "symm_mem.nvshmem_put_with_signal",
    "symm_mem.nccl_put",
    "symm_mem.nccl_get",
    "symm_mem.nccl_put_with_signal",
)
def point_to_point(tensor: TensorMeta, outs: _Tensors) -> Cost:
    """Send a tensor, or receive one.

    >>> from torchatlas.schema import TensorMeta as T
    >>> point_to_point(T((8, 4), "bfloat16"), ())
    Cost(macs=0, other=0, comm_bytes=64)
    """
    return _message(tensor, outs)


@flop_formula(
    "_c10d_functional.batch_p2p_ops",
    "c10d_functional.batch_p2p_ops",
    "c10d.send",
    "c10d.recv_",
    "c10d.recv_any_source_",
    "c10d.allreduce_",
    "c10d.allreduce_coalesced_",
    "c10d.broadcast_",
    "c10d.reduce_",
)
def in_place(tensors: tuple[TensorMeta, ...]) -> Cost:
    """Exchange tensors where they lie.

    >>> from torchatlas.schema import TensorMeta as T
    >>> in_place((T((8, 4)), T((2,))))
    Cost(macs=0, other=0, comm_bytes=136)
    """
    return _message(tensors, ())


@flop_formula("c10d.allgather_", "c10d.gather_")
def gather(output_tensors: Any, input_tensors: Any) -> Cost:
    """Collect the tensors of all devices in lists.

    >>> from torchatlas.schema import TensorMeta as T
    >>> gather(((T((2,)),) * 4,), (T((2,)),))
    Cost(macs=0, other=0, comm_bytes=32)
    """
    return _message(input_tensors, output_tensors)


@flop_formula("c10d.reduce_scatter_", "c10d.scatter_", "c10d.alltoall_")
def scatter(output_tensors: Any, input_tensors: Any) -> Cost:
    """Hand tensors out to all devices.

    >>> from torchatlas.schema import TensorMeta as T
    >>> scatter((T((2,)),), ((T((2,)),) * 4,))
    Cost(macs=0, other=0, comm_bytes=32)
    """
    return _message(input_tensors, output_tensors)


@flop_formula("c10d._allgather_base_", "c10d._reduce_scatter_base_", "c10d.gather_into_tensor_")
def base(output_tensor: TensorMeta, input_tensor: TensorMeta) -> Cost:
    """Exchange a tensor into another.

    >>> from torchatlas.schema import TensorMeta as T
    >>> base(T((8, 4)), T((2, 4)))
    Cost(macs=0, other=0, comm_bytes=128)
    """
    return _message(input_tensor, output_tensor)


@flop_formula("c10d.allgather_into_tensor_coalesced_", "c10d.reduce_scatter_tensor_coalesced_")
def base_coalesced(outputs: Any, inputs: Any) -> Cost:
    """Exchange a list of tensors into others.

    >>> from torchatlas.schema import TensorMeta as T
    >>> base_coalesced((T((8, 4)),), (T((2, 4)),))
    Cost(macs=0, other=0, comm_bytes=128)
    """
    return _message(inputs, outputs)


@flop_formula("c10d.allgather_coalesced_")
def gather_coalesced(output_lists: Any, input_list: Any) -> Cost:
    """Collect lists of tensors of all devices.

    >>> from torchatlas.schema import TensorMeta as T
    >>> gather_coalesced(((T((2,)),) * 4,), (T((2,)),))
    Cost(macs=0, other=0, comm_bytes=32)
    """
    return _message(input_list, output_lists)


@flop_formula("c10d.alltoall_base_")
def all_to_all_base(output: TensorMeta, input: TensorMeta) -> Cost:
    """Exchange parts of a tensor into another.

    >>> from torchatlas.schema import TensorMeta as T
    >>> all_to_all_base(T((8, 4)), T((8, 4)))
    Cost(macs=0, other=0, comm_bytes=128)
    """
    return _message(input, output)


_LEGACY = "all_reduce all_reduce_coalesced broadcast isend irecv"


@flop_formula(*(f"c10d_functional.{name}" for name in _LEGACY.split()))
def legacy(self: Any, outs: _Tensors) -> Cost:
    """Exchange a tensor, or a list of them, by the namespace before `_c10d_functional`.

    >>> from torchatlas.schema import TensorMeta as T
    >>> legacy(T((8, 4)), (T((8, 4)),))
    Cost(macs=0, other=0, comm_bytes=128)
    """
    return _message(self, outs)


@flop_formula(
    "c10d_functional.all_gather_into_tensor_coalesced",
    "c10d_functional.reduce_scatter_tensor",
    "c10d_functional.all_to_all_single",
)
def legacy_input(input: Any, outs: _Tensors) -> Cost:
    """Exchange a tensor, or a list of them, by the namespace before `_c10d_functional`.

    >>> from torchatlas.schema import TensorMeta as T
    >>> legacy_input(T((8, 4)), (T((2, 4)),))
    Cost(macs=0, other=0, comm_bytes=128)
    """
    return _message(input, outs)


@flop_formula("c10d_functional.all_gather_into_tensor")
def legacy_gather(shard: TensorMeta, outs: _Tensors) -> Cost:
    """Collect the shards of all devices.

    >>> from torchatlas.schema import TensorMeta as T
    >>> legacy_gather(T((2, 4)), (T((8, 4)),))
    Cost(macs=0, other=0, comm_bytes=128)
    """
    return _message(shard, outs)


@flop_formula("symm_mem.one_shot_all_reduce_copy", "symm_mem.one_shot_all_reduce_copy_out")
def all_reduce_copy(local_input: TensorMeta, outs: _Tensors) -> Cost:
    """Exchange a copy of a tensor.

    >>> from torchatlas.schema import TensorMeta as T
    >>> all_reduce_copy(T((8, 4)), (T((8, 4)),))
    Cost(macs=0, other=0, comm_bytes=128)
    """
    return _message(local_input, outs)


_WAITS = "wait_tensor wait_tensors _wrap_tensor_autograd"


@flop_formula(
    *(f"_c10d_functional.{name}" for name in _WAITS.split()),
    "c10d_functional.wait_tensor",
    "c10d.barrier",
    "c10d.monitored_barrier_",
    "_dtensor.mesh_get_process_group",
    "symm_mem._barrier",
    "symm_mem.get_remote_tensors",
    "symm_mem.nccl_put_signal",
    "symm_mem.nccl_wait_for_signal",
    "symm_mem.nccl_wait_signal",
    "symm_mem.nvshmem_wait_for_signal",
)
def wait() -> Cost:
    """Wait for a message that is counted where it was sent, or get ready for one.

    >>> wait()
    Cost(macs=0, other=0)
    """
    return Cost()


# -- products that overlap with the exchange of an operand or of their result --------------


@flop_formula("symm_mem.fused_all_gather_matmul", "symm_mem.fused_all_gather_scaled_matmul")
def all_gather_matmul(A: TensorMeta, Bs: tuple[TensorMeta, ...], outs: _Tensors) -> Cost | None:
    """Gather the shards of A, and multiply the whole by each of `Bs`.

    >>> from torchatlas.schema import TensorMeta as T
    >>> # 4 devices: A has 8 x 16 whole; products 8 x 32 x 16 and 8 x 5 x 16; 8 x 16 x 4 bytes
    >>> shard, b, c = T((2, 16)), T((16, 32)), T((16, 5))
    >>> all_gather_matmul(shard, (b, c), (T((8, 16)), T((8, 32)), T((8, 5))))
    Cost(macs=4736, other=0, comm_bytes=512)
    """
    results = [out for out in outs if out is not None][-len(Bs) :]
    if not results:
        return None
    inner = A.shape[-1]
    macs = sum((out.numel * inner for out in results), 0)
    rows = results[0].numel // results[0].shape[-1]
    return Cost(macs, comm_bytes=TensorMeta((rows, inner), A.dtype).nbytes)


@flop_formula("symm_mem.fused_matmul_reduce_scatter", "symm_mem.fused_scaled_matmul_reduce_scatter")
def matmul_reduce_scatter(A: TensorMeta, B: TensorMeta, out: TensorMeta) -> Cost:
    """Multiply matrices, and reduce and scatter the result.

    >>> from torchatlas.schema import TensorMeta as T
    >>> # 8 x 32 x 16; the result of 8 x 32 x 4 bytes is reduced and scattered
    >>> matmul_reduce_scatter(T((8, 16)), T((16, 32)), T((2, 32)))
    Cost(macs=4096, other=0, comm_bytes=1024)
    """
    whole = TensorMeta((*A.shape[:-1], B.shape[-1]), out.dtype)
    return Cost(whole.numel * A.shape[-1], comm_bytes=whole.nbytes)


@flop_formula("symm_mem._async_input_mm")
def async_input_mm(a: TensorMeta, out: TensorMeta) -> Cost:
    """Multiply matrices as the parts of the first arrive.

    >>> from torchatlas.schema import TensorMeta as T
    >>> async_input_mm(T((8, 16)), T((8, 32)))
    Cost(macs=4096, other=0)
    """
    return Cost(out.numel * a.shape[-1])
