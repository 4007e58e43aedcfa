"""How every operator passes channel names on: the one table of operators.

A rule reads the labels of the inputs and puts labels on the outputs. What no rule knows keeps its channels,
with the operator's name as the reason: nothing is guessed, nothing raises.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from slimkit.channels.observed import Observed
from slimkit.channels.operators import attention, made, move, multiply, normalise, recurrent, silence, space, statistics
from slimkit.channels.operators.pointwise import pointwise
from slimkit.multiply_adds import ATTENTION_KERNELS

aten = torch.ops.aten
OperatorRule = Callable[[Observed, Any, tuple[Any, ...], dict[str, Any], Any], None]

MULTIPLIES = (aten.convolution, aten.mm, aten.bmm, aten.addmm, aten.baddbmm)  # counted with or without names
MAKES = (aten.zeros, aten.ones, aten.full, aten.new_zeros, aten.new_ones, aten.new_full)  # of no named tensor
OPERATORS: dict[Any, OperatorRule] = {
    aten.convolution: multiply.convolution,
    **dict.fromkeys((aten.mm, aten.bmm), multiply.matmul),
    **dict.fromkeys((aten.addmm, aten.baddbmm), multiply.addmm),
    **dict.fromkeys((aten.mv, aten.dot, aten.addmv), multiply.vector_product),
    **dict.fromkeys((aten.native_batch_norm, aten._native_batch_norm_legit, aten.cudnn_batch_norm,
                     aten._native_batch_norm_legit_no_training, aten.miopen_batch_norm), normalise.batch_norm),
    **dict.fromkeys(statistics.LAYER_NORMS, statistics.layer_norm),
    aten.native_group_norm: statistics.group_norm,
    **dict.fromkeys((aten.clone, aten.detach, aten.alias, aten._to_copy, aten.contiguous, aten.lift_fresh,
                     aten.native_dropout, aten.bernoulli_, aten.bernoulli, aten._prelu_kernel, aten.dropout,
                     aten.fill_, aten.hardswish, aten.log_sigmoid_forward), pointwise),
    **dict.fromkeys((aten.permute, aten.transpose, aten.t, aten.unsqueeze, aten.numpy_T, aten.mT), move.itself),
    **dict.fromkeys((aten.view, aten._unsafe_view, aten.reshape, aten._reshape_alias), move.view),
    **dict.fromkeys((aten.zeros_like, aten.ones_like, aten.empty_like, aten.full_like, aten.rand_like,
                     aten.randn_like, aten.rrelu_with_noise, aten.rrelu_with_noise_), move.same_shape),
    **dict.fromkeys(MAKES, made.of_size),
    **dict.fromkeys((aten.new_empty, aten.sym_size, aten._local_scalar_dense), move.nothing),
    aten.squeeze: move.squeeze,
    aten.expand: move.expand,
    aten.repeat: move.repeat,
    aten.slice: move.cut_out,
    aten.select: move.select,
    aten.unbind: move.unbind,
    **dict.fromkeys((aten.split, aten.split_with_sizes, aten.unsafe_split, aten.unsafe_split_with_sizes), move.split),
    aten.copy_: move.copy,
    **dict.fromkeys((aten.slice_scatter, aten.select_scatter), move.scatter),
    **dict.fromkeys((aten.as_strided, aten.as_strided_), move.restride),
    aten.cat: move.cat,
    aten.stack: move.stack,
    aten.glu: move.glu,
    **dict.fromkeys(statistics.SOFTMAX, statistics.softmax),
    **dict.fromkeys(ATTENTION_KERNELS, attention.fused),
    **dict.fromkeys((aten._log_softmax, aten.cumsum, aten.sort, aten.topk, aten.roll,
                     aten.flip, aten.index_select), space.along_dim),
    **dict.fromkeys(statistics.REDUCTIONS, statistics.reduce),
    **dict.fromkeys((aten.prod, aten.argmax, aten.argmin, aten.logsumexp, aten.any, aten.all), space.reduce),
    **dict.fromkeys((aten.max_pool1d, aten.max_pool2d, aten.max_pool2d_with_indices, aten.max_pool3d_with_indices,
                     aten.avg_pool1d, aten.avg_pool2d, aten.avg_pool3d, aten.adaptive_avg_pool1d,
                     aten._adaptive_avg_pool2d, aten._adaptive_avg_pool3d, aten.adaptive_max_pool2d,
                     aten.adaptive_max_pool3d,
                     aten.upsample_nearest1d, aten.upsample_nearest2d, aten.upsample_nearest3d,
                     aten._upsample_nearest_exact2d, aten.upsample_linear1d, aten.upsample_bilinear2d,
                     aten._upsample_bilinear2d_aa, aten.upsample_bicubic2d, aten._upsample_bicubic2d_aa,
                     aten.upsample_trilinear3d, aten.reflection_pad1d, aten.reflection_pad2d, aten.reflection_pad3d,
                     aten.replication_pad1d, aten.replication_pad2d, aten.replication_pad3d),
                    space.spatial),
    **dict.fromkeys((aten.grid_sampler_2d, aten.grid_sampler_3d), space.sample),
    **dict.fromkeys((aten.max_unpool2d, aten.max_unpool3d), space.unpool),
    aten.constant_pad_nd: space.pad,
    aten.index: space.index,
    aten.im2col: space.unfold_patches,
    aten.col2im: space.fold_patches,
    aten.unfold: space.windows,
    aten.pixel_shuffle: space.pixel_shuffle,
    aten.pixel_unshuffle: space.pixel_unshuffle,
    **dict.fromkeys((aten.native_channel_shuffle, aten.channel_shuffle), space.channel_shuffle),
    aten.embedding: move.look_up,
    aten.mkldnn_rnn_layer: recurrent.fused_layer,
}  # fmt: skip
# They draw as many numbers as there are channels: others, where there are fewer.
DRAWS = frozenset((aten.bernoulli, aten.bernoulli_, aten.native_dropout, aten.rand_like, aten.randn_like))
ELSEWHERE: dict[str, OperatorRule] = {"torchvision::roi_align": space.sample}  # of libraries not loaded here
# Removed channels are silent after these, or the rule itself says that they are not.
_SILENT_RULES = (
    normalise.batch_norm, statistics.layer_norm, statistics.group_norm, statistics.softmax, attention.fused,
)  # fmt: skip
SILENT = frozenset((*MULTIPLIES, *(packet for packet, rule in OPERATORS.items() if rule in _SILENT_RULES)))


def apply(seen: Observed, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Pass labels through one operator call."""
    packet = func.overloadpacket
    inputs = _tensors(args)
    if kwargs:
        inputs += _tensors(tuple(kwargs.values()))
    if not any(seen.has_labels(t) for t in inputs) and packet not in (*MULTIPLIES, *MAKES):
        return
    rule = OPERATORS.get(packet) or ELSEWHERE.get(func._schema.name)
    rule = rule or (pointwise if _is_pointwise(packet) else _unknown)
    rule(seen, func, args, kwargs, out)
    if packet in (aten.add, aten.add_, aten.view, aten._unsafe_view):
        multiply.follow_bias(seen, packet, args, kwargs, out)
    if packet in DRAWS and not seen.training and _draws(func, args):
        given = _tensors((out,))
        seen.freeze_all(given, f"gets a random number for each channel in evaluation mode ({packet.__name__})")
    if packet not in SILENT:
        silence.follow(seen, func, args, inputs, out, rule is pointwise)


def _draws(func: Any, args: tuple[Any, ...]) -> bool:
    """Tell whether an operator that may draw random numbers does so: dropout can be switched off."""
    return func.overloadpacket is not aten.native_dropout or args[2] is not False


@cache
def _is_pointwise(operator: Any) -> bool:
    """Tell whether an operator works element by element; in-place variants may lack the tag of their twin."""
    if any(torch.Tag.pointwise in getattr(operator, overload).tags for overload in operator.overloads()):
        return True
    name = operator.__name__
    twin = getattr(aten, name[:-1], None) if name.endswith("_") else None
    return twin is not None and (_is_pointwise(twin) or OPERATORS.get(twin) is pointwise)


def _tensors(args: tuple[Any, ...]) -> list[Tensor]:
    found: list[Tensor] = []
    for arg in args:
        if isinstance(arg, Tensor):
            found.append(arg)
        elif isinstance(arg, (list, tuple)):
            found += [item for item in arg if isinstance(item, Tensor)]
    return found


def _unknown(seen: Observed, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    name = func.overloadpacket.__name__
    other = "attention" in name  # fused kernels have many names
    reason = attention.ATTENTION if other else f"passes through {name}, for which there is no rule"
    given = _tensors(args) + _tensors(tuple(kwargs.values()))
    seen.freeze_all(given, reason)
    weights = [t for t in given if isinstance(t, nn.Parameter) and t.dim() > 1 and id(t) in seen.name_of]
    if weights:  # a layer whose weight it reads, or computes anew, makes channels too
        weight = max(weights, key=Tensor.numel)
        seen.names.produced.append((seen.named(weight, 0), _layer_of(seen.name_of[id(weight)]) or seen.at.name))


def _layer_of(parameter: str) -> str:
    """Return the path of the layer that a parameter belongs to, parametrised or not."""
    layer, _, rest = parameter.partition(".parametrizations.")
    return layer if rest else layer.rpartition(".")[0]
