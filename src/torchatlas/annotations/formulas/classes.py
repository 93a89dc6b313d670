"""Classes of ops that need no formula, for ops that torch does not tag with their class.

A pointwise op costs 1 per output element, a reduction 1 per input element; moving and making
data is free. torch tags most pointwise and reducing ops; the lists here hold the others, by name
without namespace and without the underscore of an in-place op.
"""

from __future__ import annotations

from functools import cache


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


POINTWISE = _names(
    """
    __and__ __or__ __xor__ __iand__ __ior__ __ixor__ __lshift__ __rshift__ __ilshift__ __irshift__
    abs absolute arccos arccosh arcsin arcsinh arctan arctan2 arctanh copysign divide eq erf erfc
    fix float_power floor_divide fmod gcd ge glu greater greater_equal gt hardswish heaviside
    isclose isreal lcm le ldexp less less_equal lerp log_sigmoid log_sigmoid_forward logical_and
    logical_not logical_or logical_xor logit lt masked_fill _masked_scale mish multiply ne negative
    not_equal polar pow prelu _prelu_kernel quantize_per_tensor quantize_per_channel dequantize
    relu6 rrelu rrelu_with_noise softplus subtract threshold true_divide
    fake_quantize_per_tensor_affine fake_quantize_per_channel_affine elu_backward glu_backward
    hardsigmoid_backward hardswish_backward hardtanh_backward leaky_relu_backward
    log_sigmoid_backward mish_backward mse_loss_backward _prelu_kernel_backward
    smooth_l1_loss_backward softplus_backward nll_loss_backward nll_loss2d_backward _add_relu
    huber_loss_backward binary_cross_entropy_backward soft_margin_loss_backward hardshrink_backward
    softshrink_backward rrelu_with_noise_functional rrelu_with_noise_backward glu_jvp
    glu_backward_jvp _standard_gamma_grad _dirichlet_grad _unsafe_masked_index
    fake_quantize_per_tensor_affine_cachemask fake_quantize_per_channel_affine_cachemask
    fake_quantize_per_tensor_affine_cachemask_backward
    fake_quantize_per_channel_affine_cachemask_backward
    _fake_quantize_per_tensor_affine_cachemask_tensor_qparams
    _fake_quantize_learnable_per_tensor_affine _fake_quantize_learnable_per_channel_affine
    _fake_quantize_learnable_per_tensor_affine_backward
    _fake_quantize_learnable_per_channel_affine_backward _amp_update_scale gelu gelu_backward
    infinitely_differentiable_gelu_backward threshold_backward rsub xlogy special_digamma
    special_erf special_erfc special_erfinv special_exp2 special_expit special_expm1
    special_gammainc special_gammaincc special_gammaln special_i0 special_log1p special_logit
    special_ndtr special_polygamma special_psi special_round special_sinc special_xlogy
    """
)

REDUCTIONS = _names(
    """
    _aminmax equal allclose is_nonzero nanmean _is_all_true _is_any_true sum_to_size
    _grad_sum_to_size trace hash_tensor segment_reduce unfold_backward _histogramdd_bin_edges
    _linalg_check_errors
    """
)

MOVEMENT = _names(
    """
    alias as_strided as_strided_scatter atleast_1d atleast_2d atleast_3d block_diag
    broadcast_tensors broadcast_to cartesian_prod cat channel_shuffle chunk clone column_stack
    combinations complex concat concatenate conj constant_pad_nd contiguous copy cpu cuda detach
    diag diag_embed diagflat diagonal diagonal_scatter dsplit dstack embedding expand expand_as
    flatten flip fliplr flipud gather hsplit hstack im2col imag index index_copy index_fill
    index_select item lift_fresh lift_fresh_copy _local_scalar_dense masked_scatter max_unpool2d
    max_unpool3d meshgrid moveaxis movedim narrow native_channel_shuffle one_hot pad pad_sequence
    _pad_circular _pad_enum permute pin_memory pixel_shuffle pixel_unshuffle ravel real
    reflection_pad1d reflection_pad2d reflection_pad3d repeat repeat_interleave replication_pad1d
    replication_pad2d replication_pad3d reshape reshape_as _reshape_alias resolve_conj resolve_neg
    roll rot90 row_stack select select_scatter slice slice_scatter split split_with_sizes squeeze
    stack swapaxes swapdims t take take_along_dim tensor_split tile to _to_copy transpose tril triu
    type_as unbind unflatten unfold unsafe_chunk unsafe_split unsafe_split_with_sizes _unsafe_index
    _unsafe_view unsqueeze upsample_nearest1d upsample_nearest2d upsample_nearest3d
    _upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d vander view
    view_as view_as_complex view_as_real vsplit vstack select_backward slice_backward
    _pack_padded_sequence _pad_packed_sequence _autocast_to_full_precision
    _autocast_to_reduced_precision diagonal_backward trace_backward masked_scatter_backward
    masked_select_backward value_selecting_reduction_backward fft_fftshift fft_ifftshift
    flatten_dense_tensors unflatten_dense_tensors lift lu_unpack resize resize_as set _chunk_cat
    _conj _fw_primal _lazy_clone _make_dual _neg_view _pack_padded_sequence_backward _pin_memory
    _reshape_copy _shape_as_tensor _stack values fill_diagonal_ _jagged_to_padded_dense_forward
    _padded_dense_to_jagged_forward _resize_output _spdiags
    """
)

CREATION = _names(
    """
    arange bartlett_window bernoulli binomial blackman_window cauchy _efficientzerotensor empty
    empty_like empty_permuted empty_strided exponential eye fft_fftfreq fft_rfftfreq fill full
    full_like geometric hamming_window hann_window kaiser_window linspace log_normal logspace
    new_empty new_empty_strided new_full new_ones new_zeros normal ones ones_like poisson rand
    rand_like randint randint_like randn randn_like random randperm range _sample_dirichlet
    scalar_tensor _standard_gamma tril_indices triu_indices uniform zero zeros zeros_like
    _fill_mem_eff_dropout_mask_ _philox_key_fold_in _philox_key_split _philox_normal
    _philox_randint _philox_uniform
    """
)


@cache
def named_class(op: str) -> str | None:
    """Return the class that the name of `op` tells, or None.

    >>> named_class("aten.cat"), named_class("aten.hardswish_"), named_class("aten.svd")
    ('movement', 'pointwise', None)
    >>> named_class("aten.permute_copy"), named_class("mylib.cat")
    ('movement', None)
    """
    namespace, _, name = op.partition(".")
    if namespace != "aten":
        return None
    for candidate in (name, name.removesuffix("_"), name.removesuffix("_copy")):
        for kind, names in _CLASSES.items():
            if candidate in names:
                return kind
    return None


_CLASSES = {
    "movement": MOVEMENT,
    "creation": CREATION,
    "pointwise": POINTWISE,
    "reduction": REDUCTIONS,
}
