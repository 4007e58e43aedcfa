"""Statistics across channels: means, norms, LayerNorm, softmax. A removed channel is left out of them.

The smaller network takes them over the channels it has. The network with silent channels must take them over the same
ones, which `over_kept` does: removing a channel changes a mean, and that is part of what removing it means.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from slimkit.channels.labelled import COMPUTED, Loud
from slimkit.channels.labels import alone, varying
from slimkit.channels.observed import Args, Kwargs, Observed
from slimkit.channels.operators.multiply import FIXED_INPUT, put_channels, tie_vector
from slimkit.channels.operators.pointwise import merge
from slimkit.channels.operators.space import dims_of, name_of, pass_on

aten = torch.ops.aten
Staying = Mapping[int, Tensor]  # dimension -> indices of it that stay

REDUCTIONS = (aten.mean, aten.sum, aten.amax, aten.amin, aten.max, aten.min, aten.var, aten.std, aten.var_mean,
              aten.std_mean, aten.linalg_vector_norm, aten.norm)  # fmt: skip
LAYER_NORMS = (aten.native_layer_norm, aten._fused_rms_norm)
SOFTMAX = (aten.softmax, aten._softmax)


def reduce(seen: Observed, func: Any, args: Args, kwargs: Kwargs, out: Any) -> None:
    """A mean and its like. Of a weight it must stay: what is left of the weight would be another one."""
    over = dims_of(func, args, kwargs)
    of_weight = seen.axes(args[0])[1]
    reason = f"is reduced over ({name_of(func)})"

    def meet(label: Tensor) -> None:
        _take(seen, label, over, reason, keep=of_weight)

    pass_on(seen, args[0], out, over, meet)


def layer_norm(seen: Observed, func: Any, args: Args, kwargs: Kwargs, out: Any) -> None:
    """LayerNorm and RMSNorm over the last dimensions; the sizes that they are given have to follow."""
    x, shape = args[0], args[1]
    first = x.dim() - len(shape)
    over = set(range(first, x.dim()))
    given, of_weight = seen.axes(x)
    for label in given:
        if over & set(varying(label)):
            _take(seen, label, over, "is normalised across channels (LayerNorm)", keep=of_weight)
    seen.shape(shape, {dim - first: names for dim, names in alone(given).items()}, (1,))
    axes, weight = merge(seen, [x, *(t for t in args[2:4] if isinstance(t, Tensor))], x.shape)
    seen.put(out[0], axes, weight)
    loud = Loud(f"{name_of(func)} in {seen.at.name!r}")  # its shift is not zero where a position is removed
    seen.put_loud(out[0], {dim: loud for label in axes for dim in varying(label) if dim not in over})


def group_norm(seen: Observed, func: Any, args: Args, kwargs: Kwargs, out: Any) -> None:
    """Whole groups of channels live and die together; each channel alone where there are as many groups.

    Their number has to follow, so it must be an attribute of the module. Where it is none, and where there is one
    group, the j-th channels of all groups live and die together.
    """
    x, weight, bias, groups = args[0], args[1], args[2], int(args[6])
    reason = "is normalised over by GroupNorm"
    names = seen.along(x, 1, reason)
    seen.others(x, {1}, reason)
    vectors = [t for t in (weight, bias) if isinstance(t, Tensor)]
    if names is None:
        seen.freeze_all(vectors, FIXED_INPUT)
        return
    of_group = names.reshape(groups, -1)
    whole = groups > 1 and seen.width((groups,), (of_group[:, 0],))
    if whole:
        seen.names.tie(of_group, of_group[:, :1])
    elif groups == len(names) > 1:
        seen.freeze_all((x, *vectors), f"is normalised in {groups} groups, a number written in the code (GroupNorm)")
    else:
        seen.names.tie(of_group, of_group[:1])
        seen.names.statistics.append(names)
    if groups < len(names):
        seen.width((len(names),), (names,))
    for vector in vectors:
        tie_vector(seen, vector, names)
    put_channels(seen, out[0], names)
    why = seen.loud(x).get(1) if weight is None else seen.loud(weight).get(0)
    seen.put_loud(out[0], {1: why} if why and whole else {})


def softmax(seen: Observed, func: Any, args: Args, kwargs: Kwargs, out: Tensor) -> None:
    """Shares among the channels that there are; along other dimensions a removed one has shares too: not zero."""
    over = dims_of(func, args, kwargs)
    axes, of_weight = seen.axes(args[0])
    for label in axes:
        if over & set(varying(label)):
            _take(seen, label, over, "is mixed along its dimension (softmax)", keep=of_weight)
    seen.put(out, axes, of_weight)
    loud = Loud(f"softmax in {seen.at.name!r}")
    seen.put_loud(out, {dim: loud for label in axes for dim in varying(label) if dim not in over})


def _take(seen: Observed, label: Tensor, over: set[int], reason: str, keep: bool) -> None:
    """Note that a statistic is taken over the names of a label, or keep them where they cannot be left out."""
    along = varying(label)
    if keep or len(along) > 1 or not set(along) <= over:
        seen.freeze(label, reason + COMPUTED if keep else reason)
    else:
        seen.names.statistics.append(label.reshape(-1))
        seen.width((label.numel(),), (label.reshape(-1),))


def over_kept(seen: Observed, gone: Tensor, func: Any, args: Args, kwargs: Kwargs) -> Any | None:
    """Return what an operator gives if removed channels are left out of its statistics; None where that is nothing new.

    Args:
        gone: bool [n], of the first names of the pass, which are removed; no others are.
    """
    packet = func.overloadpacket
    if packet in REDUCTIONS:
        kept = _kept(seen, gone, args[0], dims_of(func, args, kwargs))
        return _reduced(func, args, kwargs, kept) if kept else None
    if packet in LAYER_NORMS:
        x, shape = args[:2]
        kept = _kept(seen, gone, x, set(range(x.dim() - len(shape), x.dim())))
        return _layer_norm(func, args, kept) if kept else None
    if packet is aten.native_group_norm:
        kept = _kept(seen, gone, args[0], {1})
        return _group_norm(func, args, kept) if kept else None
    if packet in SOFTMAX:
        kept = _kept(seen, gone, args[0], dims_of(func, args, kwargs))
        return _among_all(func(_only(args[0], kept), *args[1:], **kwargs), kept, args[0]) if kept else None
    return None


def width_of_kept(seen: Observed, gone: Tensor, x: Tensor) -> int:
    """Return the size of the last dimension without removed channels; see `over_kept`."""
    kept = _kept(seen, gone, x, {x.dim() - 1})
    return len(kept[x.dim() - 1]) if kept else int(x.shape[-1])


def _kept(seen: Observed, gone: Tensor, x: Tensor, over: set[int]) -> dict[int, Tensor]:
    """Return the indices that stay along the dimensions `over` that lose some."""
    found = {}
    axes, of_weight = seen.axes(x)
    for dim, names in alone(axes if not of_weight else ()).items():
        stay = ~(gone[names.clamp(max=len(gone) - 1)] & (names < len(gone)))
        if dim in over and not bool(stay.all()):
            found[dim] = stay.nonzero().flatten().to(x.device)
    return found


def _reduced(func: Any, args: Args, kwargs: Kwargs, kept: Staying) -> Any:
    out = func(_only(args[0], kept), *args[1:], **kwargs)
    if func.overloadpacket in (aten.max, aten.min) and not isinstance(out, Tensor):
        (index,) = kept.values()
        return out[0], index[out[1]]  # where it is among all channels
    return out


def _layer_norm(func: Any, args: Args, kept: Staying) -> Any:
    x, shape, *rest = args
    first = x.dim() - len(shape)
    of_shape = {dim - first: index for dim, index in kept.items()}
    sizes = [len(of_shape[dim]) if dim in of_shape else size for dim, size in enumerate(shape)]
    vectors = [_only(t, of_shape) if isinstance(t, Tensor) else t for t in rest]
    out = func(_only(x, kept), sizes, *vectors)
    return (_among_all(out[0], kept, x), *out[1:])


def _group_norm(func: Any, args: Args, kept: Staying) -> Any | None:
    x, weight, bias, images, _, positions, groups, eps = args
    (index,) = kept.values()
    of_group = torch.zeros(x.shape[1], dtype=torch.bool).index_fill(0, index.cpu(), True).reshape(groups, -1)
    if bool((of_group == of_group[:, :1]).all()):  # whole groups: the others are what they were
        return None
    vectors = [None if t is None else _only(t, {0: index}) for t in (weight, bias)]
    out = func(_only(x, kept), *vectors, images, len(index), positions, groups, eps)
    return (_among_all(out[0], kept, x), *out[1:])


def _only(tensor: Tensor, kept: Staying) -> Tensor:
    for dim, index in kept.items():
        tensor = tensor.index_select(dim, index)
    return tensor


def _among_all(tensor: Tensor, kept: Staying, like: Tensor) -> Tensor:
    """Return a tensor of kept channels with zeros for the removed ones."""
    for dim, index in kept.items():
        shape = [like.shape[dim] if d == dim else size for d, size in enumerate(tensor.shape)]
        tensor = tensor.new_zeros(shape).index_copy(dim, index, tensor)
    return tensor
