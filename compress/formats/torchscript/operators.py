"""ATen operators that compute, and do nothing else: what a stranger's program may consist of.

A list of what is allowed, not of what is not: PyTorch grows new operators, and among those it has are some that write
and map files (`save`, `from_file`), change the process (`manual_seed`, `set_grad_enabled`, `_cufft_set_plan_cache_max_
size`), print (`_print`), swap or resize the memory behind a tensor (`set_`, `resize_`, `set_data`), or trust their
operands without a check (`_sparse_coo_tensor_unsafe`). Taken from PyTorch 2.14's registry: the operators of inference.
"""

from __future__ import annotations

import re

__all__ = ["computes"]

_ARITHMETIC = """
abs absolute acos acosh add addcdiv addcmul angle arccos arccosh arcsin arcsinh arctan arctan2 arctanh asin asinh atan
atan2 atanh bitwise_and bitwise_left_shift bitwise_not bitwise_or bitwise_right_shift bitwise_xor ceil clamp clamp_max
clamp_min clip complex conj conj_physical copysign cos cosh deg2rad degrees digamma div divide divmod erf erfc erfinv
exp exp2 expm1 fabs factorial fix float_power floor floor_divide floordiv fmax fmin fmod frac frexp gcd heaviside hypot
i0 imag lcm ldexp lerp lgamma log log10 log1p log2 logaddexp logaddexp2 logical_and logical_not logical_or logical_xor
logit mathremainder maximum minimum modf mul multiply nan_to_num neg negative nextafter polar positive pow rad2deg
radians real reciprocal remainder resolve_conj resolve_neg round rsqrt rsub sgn sign signbit sin sinc sinh sqrt square
sub subtract tan tanh true_divide trunc xlogy __and__ __lshift__ __or__ __rshift__ __xor__ __round_to_zero_floordiv
special_digamma special_entr special_erf special_erfc special_erfcx special_erfinv special_exp2 special_expit
special_expm1 special_gammaln special_i0 special_i0e special_i1 special_i1e special_log1p special_log_ndtr
special_log_softmax special_logit special_logsumexp special_ndtr special_ndtri special_round special_sinc
special_softmax special_xlog1py special_xlogy
"""
_COMPARISONS = """
allclose any all equal eq ne lt le gt ge greater greater_equal isclose isfinite isin isinf isnan isneginf isposinf
isreal less less_equal not_equal where __is__ __isnot__ __not__ __contains__ _is_all_true _is_any_true
"""
_REDUCTIONS = """
amax amin aminmax argmax argmin argsort argwhere bincount bucketize count_nonzero cummax cummin cumprod cumsum diff dist
frobenius_norm histc kthvalue logcumsumexp logsumexp max mean median min mode msort nanmean nanmedian nansum nonzero
nonzero_static norm norm_except_dim nuclear_norm prod quantile nanquantile searchsorted sort std std_mean sum topk
unique_consecutive unique_dim _unique _unique2 var var_mean trace renorm linalg_norm linalg_vector_norm
linalg_matrix_norm
"""
_PRODUCTS = """
addbmm addmm addmv addr affine_grid_generator baddbmm bilinear bmm cdist chain_matmul cosine_similarity cov corrcoef
cross det dot einsum ger inner inverse kron linalg_cross linalg_det linalg_diagonal linalg_inv linalg_inv_ex
linalg_matmul linalg_matrix_power linalg_multi_dot linalg_solve linalg_vecdot linear logdet matmul matrix_exp
matrix_power mm mv outer pairwise_distance pdist tensordot _trilinear vdot _addmm_activation
"""
_LAYERS = """
adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d
_adaptive_avg_pool2d _adaptive_avg_pool3d alpha_dropout avg_pool1d avg_pool2d avg_pool3d batch_norm celu channel_shuffle
native_channel_shuffle col2im im2col conv1d conv2d conv3d conv_tbc conv_transpose1d conv_transpose2d conv_transpose3d
convolution _convolution _convolution_mode dropout elu embedding embedding_bag feature_alpha_dropout feature_dropout
fractional_max_pool2d gelu glu grid_sampler grid_sampler_2d grid_sampler_3d group_norm gru gru_cell hardshrink
hardsigmoid hardswish hardtanh instance_norm layer_norm leaky_relu log_sigmoid log_softmax _log_softmax lstm lstm_cell
max_pool1d max_pool1d_with_indices max_pool2d max_pool2d_with_indices max_pool3d max_pool3d_with_indices max_unpool2d
max_unpool3d mish native_batch_norm native_dropout native_group_norm native_layer_norm _native_batch_norm_legit
_native_batch_norm_legit_no_training _batch_norm_impl_index _native_multi_head_attention pixel_shuffle pixel_unshuffle
prelu _prelu_kernel relu relu6 rms_norm _fused_rms_norm rnn_relu rnn_relu_cell rnn_tanh rnn_tanh_cell rrelu
scaled_dot_product_attention _scaled_dot_product_attention_math _scaled_dot_product_flash_attention_for_cpu selu sigmoid
silu softmax _softmax _safe_softmax softplus softshrink threshold thnn_conv2d slow_conv3d upsample_bicubic2d
upsample_bilinear2d upsample_linear1d upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_trilinear3d
_upsample_bicubic2d_aa _upsample_bilinear2d_aa _upsample_nearest_exact1d _upsample_nearest_exact2d
_upsample_nearest_exact3d _weight_norm _weight_norm_interface _transformer_encoder_layer_fwd
fake_quantize_per_channel_affine fake_quantize_per_tensor_affine _transform_bias_rescale_qkv
"""
_SPECTRA = """
bartlett_window blackman_window fft_fft fft_fft2 fft_fftn fft_fftshift fft_fftfreq fft_hfft fft_ifft fft_ifft2 fft_ifftn
fft_ifftshift fft_ihfft fft_irfft fft_irfft2 fft_irfftn fft_rfft fft_rfft2 fft_rfftn fft_rfftfreq _fft_c2c _fft_c2r
_fft_r2c hamming_window hann_window istft kaiser_window stft view_as_complex view_as_real
"""
_MOVES = """
adjoint alias as_strided atleast_1d atleast_2d atleast_3d block_diag broadcast_tensors broadcast_to cartesian_prod cat
chunk clone column_stack combinations concat concatenate constant_pad_nd contiguous copy detach diag diag_embed diagflat
diagonal diagonal_scatter dsplit dstack expand expand_as fill fill_diagonal_ flatten flip fliplr flipud gather hsplit
hstack index index_add index_copy index_fill index_put index_select masked_fill masked_scatter masked_select meshgrid
moveaxis movedim narrow one_hot pad _pad_circular _pad_enum pad_sequence permute put ravel reflection_pad1d
reflection_pad2d reflection_pad3d repeat repeat_interleave replication_pad1d replication_pad2d replication_pad3d reshape
reshape_as roll rot90 row_stack scatter scatter_add scatter_reduce select select_scatter slice
slice_scatter split split_with_sizes squeeze stack _stack swapaxes swapdims t take take_along_dim tensor_split tile
transpose tril triu unbind unflatten unfold unsafe_chunk unsafe_split unsafe_split_with_sizes _unsafe_view unsqueeze
view view_as vsplit vstack numpy_T mT mH _unsafe_index _unsafe_index_put zero
alias_copy detach_copy diagonal_copy expand_copy narrow_copy permute_copy select_copy slice_copy split_copy
split_with_sizes_copy squeeze_copy t_copy transpose_copy unbind_copy unfold_copy unsqueeze_copy view_copy
"""
_MAKERS = """
arange as_tensor empty empty_like empty_permuted empty_strided eye full full_like lift lift_fresh lift_fresh_copy
linspace logspace new_empty new_empty_strided new_full new_ones new_zeros ones ones_like range scalar_tensor tensor
tril_indices triu_indices vander zeros zeros_like bernoulli multinomial normal rand rand_like randint randint_like randn
randn_like randperm uniform
"""
_TYPES = """
can_cast cpu dequantize element_size is_complex is_contiguous is_conj is_floating_point is_neg is_nonzero is_same_size
is_signed item _local_scalar_dense promote_types result_type to _to_copy _to_cpu type_as dense_dim device dim
_infer_size _shape_as_tensor numel size stride storage_offset sym_numel sym_size sym_storage_offset sym_stride
sym_constrain_range sym_constrain_range_for_size broadcast_shapes get_device is_scripting _get_tracing_state
is_grad_enabled is_autocast_enabled is_autocast_cpu_enabled get_autocast_dtype is_leaf has_torch_function
_has_compatible_shallow_copy_type _assert_async _assert_scalar _assert_tensor_metadata _functional_assert_async
_functional_assert_scalar warn requires_grad_
"""
_SCRIPTING = """
Bool Complex ComplexImplicit Delete Float FloatImplicit Int IntImplicit ScalarImplicit Size __derive_index __getitem__
__interpolate __range_length __upsample __upsample_bilinear __upsample_nearest _list_to_tensor _set_item
_tensor_to_list _unwrap_optional append bin capitalize center chr clear count dict endswith expandtabs extend find
format get hash hex index insert isalnum isalpha isdecimal isdigit isidentifier islower isnumeric isprintable isspace
istitle isupper items join keys len list ljust lower lstrip oct ord partition percentFormat pop popitem remove replace
reverse rfind rindex rjust rpartition rsplit rstrip setdefault sorted splitlines startswith str strip swapcase title
update upper values zfill
"""
_NAMES = frozenset(
    " ".join(
        (
            _ARITHMETIC,
            _COMPARISONS,
            _REDUCTIONS,
            _PRODUCTS,
            _LAYERS,
            _SPECTRA,
            _MOVES,
            _MAKERS,
            _TYPES,
            _SCRIPTING,
        )
    ).split()
)
_IN_PLACE = re.compile(r"(\w*[^\W_])_")
"""`add_` writes the sum of `add` into its first operand: harmless where `add` is."""


def computes(name: str) -> bool:
    """Tell whether ATen's operator `name` (no namespace, no overload) only computes its results from its operands."""
    in_place = _IN_PLACE.fullmatch(name)
    return name in _NAMES or (in_place is not None and in_place[1] in _NAMES)
