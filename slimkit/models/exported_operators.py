"""The operators that an exported program may use: those with which networks compute, and no others.

Each keeps within the memory of its tensors whatever its arguments are, since it makes its result itself or is a view
that torch checks; `_weight_norm` and recurrent layers are held against the shapes of their weights where the graph is
read. `as_strided`, `_reshape_alias`, `set_` and the like, what reads or writes files, and everything
that no network of images needs is left out.
"""

import importlib.util
import re
from typing import Any

import torch

_WORDS = """
    conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution
    linear addmm mm bmm baddbmm matmul einsum mv dot vdot addmv embedding
    batch_norm native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training
    _native_batch_norm_legit_functional layer_norm native_layer_norm group_norm native_group_norm instance_norm rms_norm
    dropout dropout_ feature_dropout feature_dropout_ alpha_dropout alpha_dropout_
    feature_alpha_dropout feature_alpha_dropout_ native_dropout
    softmax _softmax log_softmax _log_softmax scaled_dot_product_attention
    lstm gru rnn_tanh rnn_relu lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell
    cumsum cumprod sort topk roll flip index_select index gather
    mean sum amax amin var std var_mean std_mean max min prod linalg_vector_norm norm argmax argmin logsumexp any all
    max_pool1d max_pool2d max_pool3d max_pool2d_with_indices max_pool3d_with_indices
    avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
    _adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d
    upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact2d upsample_linear1d
    upsample_bilinear2d _upsample_bilinear2d_aa upsample_bicubic2d _upsample_bicubic2d_aa upsample_trilinear3d
    max_unpool2d max_unpool3d
    reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d replication_pad3d
    pad constant_pad_nd
    grid_sampler grid_sampler_2d grid_sampler_3d affine_grid_generator im2col col2im unfold
    pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle
    view view_as reshape reshape_as _unsafe_view expand expand_as repeat repeat_interleave tile slice select unbind
    split split_with_sizes unsafe_split unsafe_split_with_sizes
    chunk tensor_split cat concat concatenate stack glu narrow
    permute transpose t numpy_T mT movedim moveaxis swapaxes swapdims squeeze unsqueeze flatten unflatten
    zeros_like ones_like full_like new_zeros new_ones new_full zeros ones full arange linspace scalar_tensor
    clone detach detach_ alias to _to_copy type_as contiguous lift_fresh lift_fresh_copy copy copy_ fill_ zero_
    relu relu6 relu_ relu6_ prelu _prelu_kernel log_sigmoid log_sigmoid_forward
    hardswish hardswish_ silu silu_ mish mish_ gelu gelu_
    elu elu_ selu selu_ celu celu_ leaky_relu leaky_relu_ hardtanh hardtanh_ hardsigmoid hardsigmoid_
    sym_size _assert_tensor_metadata floor_divide divide multiply subtract masked_fill_ threshold_ fill
    fft_fft fft_ifft fft_rfft fft_irfft fft_hfft fft_ihfft fft_fft2 fft_ifft2 fft_rfft2 fft_irfft2
    fft_fftn fft_ifftn fft_rfftn fft_irfftn fft_fftshift fft_ifftshift view_as_real view_as_complex real imag
    linalg_norm slice_scatter select_scatter triu tril meshgrid
    median nanmedian kthvalue mode cummax cummin aminmax argsort msort logcumsumexp __and__ __or__ complex polar
    _weight_norm
    pairwise_distance cosine_similarity cdist _cdist_forward _euclidean_dist dist pdist eye rot90 fliplr flipud one_hot
    quantile nanquantile stft istft hann_window hamming_window blackman_window bartlett_window logspace
    tril_indices triu_indices bilinear _trilinear
    special_erf special_erfc special_erfinv special_exp2 special_expm1 special_expit special_log1p special_logit
    special_log_softmax special_softmax special_logsumexp special_gammaln special_digamma special_psi special_sinc
    special_round special_xlogy special_i0 special_polygamma special_ndtr
    linalg_inv linalg_inv_ex linalg_det linalg_slogdet linalg_solve linalg_solve_ex linalg_cholesky linalg_cholesky_ex
    linalg_svd linalg_svdvals linalg_qr linalg_eigh linalg_eigvalsh linalg_pinv linalg_matrix_norm linalg_matrix_power
    linalg_matrix_exp linalg_cross linalg_multi_dot linalg_vecdot linalg_matmul linalg_diagonal linalg_lstsq
    _linalg_det _linalg_slogdet _linalg_solve_ex _linalg_svd _linalg_eigh inverse det logdet slogdet pinverse
    cov corrcoef diff cross trace outer ger inner kron tensordot chain_matmul addbmm addr block_diag matrix_power
    diag diag_embed diagonal diagonal_copy diagonal_scatter hstack vstack dstack column_stack row_stack ravel
    hsplit vsplit dsplit unsafe_chunk broadcast_to broadcast_tensors expand_as take take_along_dim masked_select
    masked_fill masked_scatter scatter scatter_add scatter_reduce index_add index_fill index_copy index_put
    nonzero argwhere nansum nanmean count_nonzero frobenius_norm nuclear_norm renorm searchsorted bucketize
    trapezoid square conj resolve_conj resolve_neg adjoint mH mse_loss l1_loss smooth_l1_loss huber_loss
    _upsample_nearest_exact1d _upsample_nearest_exact3d _safe_softmax fft_hfft2 fft_ihfft2 fft_fftfreq fft_rfftfreq
    empty new_empty empty_like bernoulli bernoulli_ rand rand_like randn randn_like
"""  # the last line is for the message that such a network was exported in training mode
_NAMES = frozenset(_WORDS.split())
# Of torchvision, those that check what they are given: `roi_align` reads wherever a box says, and `deform_conv2d` far
# outside its image where an offset is no number (torchvision 0.29: the process dies).
_OF_TORCHVISION = frozenset(("nms",))
# Of a part of a network under `no_grad`, or under an autocast that is switched off: an ordinary graph.
_WRAPPED = frozenset(f"torch.ops.higher_order.{name}" for name in ("wrap_with_set_grad_enabled", "wrap_with_autocast"))
_VISION = re.compile(r"torch\.ops\.torchvision\.(\w+)\.default", re.ASCII)
_TARGET = re.compile(r"torch\.ops\.aten\.(\w+)\.((?!_)\w+)", re.ASCII)
# Sizes are computed in Python; powers and factorials of them would never end.
_SIZES = re.compile(
    r"_operator\.(getitem|add|sub|mul|floordiv|truediv|mod|neg|pos|abs|eq|ne|lt|le|gt|ge|and_|or_|not_)"
    r"|math\.(ceil|floor|trunc|sqrt)|torch\.sym_(max|min|int|float|not|ite)|torch\._check\w*"
)


def admitted(target: object) -> bool:
    """Tell whether a network may use an operator, by its name in the file."""
    if not isinstance(target, str):
        return False
    if _SIZES.fullmatch(target) or target in _WRAPPED:
        return True
    if found := _VISION.fullmatch(target):
        return found[1] in _OF_TORCHVISION and _has_torchvision()
    found = _TARGET.fullmatch(target)
    packet = getattr(torch.ops.aten, found[1], None) if found else None
    operator: Any = getattr(packet, found[2], None) if found else None
    if not isinstance(operator, torch._ops.OpOverload):
        return False
    if found and found[2] == "data":  # recurrent layers over packed sequences, whose sizes are in a tensor
        return False
    in_place = operator._schema.is_mutable
    if any(argument.is_out for argument in operator._schema.arguments):
        return False
    name = operator._schema.name.removeprefix("aten::")
    if in_place and not name.endswith("_") and "batch_norm" not in name:
        return False
    return name in _NAMES or torch.Tag.pointwise in operator.tags


def _has_torchvision() -> bool:
    """Register the operators of torchvision, where it is installed."""
    if importlib.util.find_spec("torchvision") is None:
        return False
    importlib.import_module("torchvision")
    return True
