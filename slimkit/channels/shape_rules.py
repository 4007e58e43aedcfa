"""Rules of operators that move, cut, join or pool dimensions: most are applied to the label itself."""

from math import prod
from typing import Any

import torch
from torch import Tensor

from slimkit.channels.labels import blocks, reshape, varies, varying
from slimkit.channels.pointwise import merge, pointwise
from slimkit.channels.record import Record

aten = torch.ops.aten
Args = tuple[Any, ...]
Kwargs = dict[str, Any]


def _axes(record: Record, tensor: Tensor) -> tuple[tuple[Tensor, ...], bool]:
    labels = record.labels(tensor)
    return (labels.axes, labels.weight) if labels else ((), False)


def _itself(record: Record, func: Any, args: Args, kwargs: Kwargs, out: Any) -> None:
    """The operator is its own rule: permute, transpose, t, unsqueeze."""
    axes, weight = _axes(record, args[0])
    record.put(out, tuple(func(label, *args[1:], **kwargs) for label in axes), weight)


def _squeeze(record: Record, func: Any, args: Args, kwargs: Kwargs, out: Any) -> None:
    x = args[0]
    dims = args[1] if len(args) > 1 else list(range(x.dim()))
    dims = [d % x.dim() for d in (dims if isinstance(dims, (list, tuple)) else [dims])]
    gone = [d for d in dims if x.shape[d] == 1]
    axes, weight = _axes(record, x)
    record.put(out, tuple(label.squeeze(gone) for label in axes), weight)


def _expand(record: Record, func: Any, args: Args, kwargs: Kwargs, out: Tensor) -> None:
    axes, weight = _axes(record, args[0])
    lead = [1] * (out.dim() - args[0].dim())
    record.put(out, tuple(label.reshape(lead + list(label.shape)) for label in axes), weight)


def _repeat(record: Record, func: Any, args: Args, kwargs: Kwargs, out: Tensor) -> None:
    axes, weight = _axes(record, args[0])
    repeats = list(args[1])
    lead = [1] * (len(repeats) - args[0].dim())
    put = []
    for label in axes:
        full = label.reshape(lead + list(label.shape))
        put.append(full.repeat([r if full.shape[d] > 1 else 1 for d, r in enumerate(repeats)]))
    record.put(out, tuple(put), weight)


def _view(record: Record, func: Any, args: Args, kwargs: Kwargs, out: Tensor) -> None:
    """Reshape the label; where a named dimension is split, tie the parts so that the result stays rectangular."""
    x = args[0]
    axes, weight = _axes(record, x)
    if x.numel() == 0:
        return
    asked = args[1] if len(args) > 1 and isinstance(args[1], (list, tuple)) else ()
    put = []
    for label in axes:
        new = reshape(label, x.shape, out.shape)
        for before, after in blocks(x.shape, out.shape):
            if not any(varies(label, d) for d in before):
                continue
            split = [d for d in after if new.shape[d] > 1]
            if len(split) > 1 and sum(x.shape[d] > 1 for d in before) == 1:
                new = _tie_split(record, new, split, asked)
            elif len(split) > 1 and len(before) > 1:
                new = _tie_split(record, new, split, asked)
        put.append(new)
        if not weight:
            for dim in varying(new):
                if varying(new) == [dim]:
                    record.width((int(out.shape[dim]),), (new.reshape(-1),))
    record.put(out, tuple(put), weight)


def _tie_split(record: Record, label: Tensor, dims: list[int], asked: Any) -> Tensor:
    """Let names vary along one of the dimensions that a named one was split into, tied along the others.

    The one that the code left open (-1) varies, else the longest: groups, heads and branches are few.
    """
    open_dims = [d for d in dims if d < len(asked) and asked[d] == -1]
    free = open_dims[0] if open_dims else max(dims, key=lambda d: int(label.shape[d]))
    for dim in dims:
        if dim != free:
            first = label.narrow(dim, 0, 1)
            record.names.tie(label, first)
            label = first
    return label


def _slice(record: Record, func: Any, args: Args, kwargs: Kwargs, out: Tensor) -> None:
    x, dim, start, end, step = (*args, *(0, None, None, 1)[len(args) - 1 :])
    dim %= x.dim()
    axes, weight = _axes(record, x)
    put = []
    for label in axes:
        if varies(label, dim) and out.shape[dim] != x.shape[dim]:
            part = func(label, dim, start, end, step)
            follows = varying(label) == [dim] and record.width((int(out.shape[dim]),), (part.reshape(-1),))
            if not follows:
                record.freeze(label, "is cut at a place written in the code (slice)")
            label = part
        put.append(label)
    record.put(out, tuple(put), weight)


def _select(record: Record, func: Any, args: Args, kwargs: Kwargs, out: Tensor) -> None:
    x, dim, index = args[0], args[1] % args[0].dim(), args[2]
    axes, weight = _axes(record, x)
    put = []
    for label in axes:
        if varies(label, dim):
            record.freeze(label, "is taken by its index (select)")
            put.append(label.select(dim, index))
        else:
            put.append(label.select(dim, 0))
    record.put(out, tuple(put), weight)


def _unbind(record: Record, func: Any, args: Args, kwargs: Kwargs, out: Any) -> None:
    x = args[0]
    dim = (args[1] if len(args) > 1 else 0) % x.dim()
    for index, part in enumerate(out):
        _select(record, func, (x, dim, index), {}, part)


def _split(record: Record, func: Any, args: Args, kwargs: Kwargs, out: Any) -> None:
    """Equal parts are tied, so that `chunk` stays right; unequal ones need a module attribute that can follow."""
    x, sizes = args[0], args[1]
    dim = (args[2] if len(args) > 2 else kwargs.get("dim", 0)) % x.dim()
    axes, weight = _axes(record, x)
    puts: list[list[Tensor]] = [[] for _ in out]
    for label in axes:
        if not varies(label, dim):
            for put in puts:
                put.append(label)
            continue
        widths = [int(part.shape[dim]) for part in out]
        parts = list(label.split(widths, dim))
        if varying(label) != [dim]:
            record.freeze(label, "is split along a dimension that shares its names with another")
        elif len(set(widths)) == 1:
            for part in parts[1:]:
                record.names.tie(part, parts[0])
            record.width((widths[0],), (parts[0].reshape(-1),))
            record.width(tuple(widths), tuple(part.reshape(-1) for part in parts))
            parts = [parts[0]] * len(parts)
        elif not record.width(tuple(widths), tuple(part.reshape(-1) for part in parts)):
            record.freeze(label, f"is split into {widths}: sizes written in the code")
        for put, part in zip(puts, parts, strict=True):
            put.append(part)
    for part, put in zip(out, puts, strict=True):
        record.put(part, tuple(put), weight)


def _cat(record: Record, func: Any, args: Args, kwargs: Kwargs, out: Tensor) -> None:
    inputs = [t for t in args[0] if t.numel() > 0 and t.dim() == out.dim()]
    dim = (args[1] if len(args) > 1 else kwargs.get("dim", 0)) % out.dim()
    named = [record.along(t, dim, "is joined along a dimension that shares its names with another") for t in inputs]
    put: list[Tensor] = []
    if any(names is not None for names in named):
        pieces = []
        for tensor, names in zip(inputs, named, strict=True):
            if names is None:
                names = record.names.fresh(int(tensor.shape[dim]))
                record.freeze(names, "reads channels of fixed number, joined to others")
            pieces.append(names)
        shape = [1] * out.dim()
        shape[dim] = -1
        put.append(torch.cat(pieces).reshape(shape))
    across, weight = _across(record, inputs, dim)
    record.put(out, (*put, *across), weight)


def _across(record: Record, inputs: list[Tensor], dim: int) -> tuple[tuple[Tensor, ...], bool]:
    """Tie, over the tensors that are joined along `dim`, the names that vary along the other dimensions."""
    thin = [t.narrow(dim, 0, 1) if t.dim() else t for t in inputs]
    for tensor, cut in zip(inputs, thin, strict=True):
        axes, weight = _axes(record, tensor)
        record.put(cut, tuple(label for label in axes if not varies(label, dim)), weight)
    if len(thin) == 1:
        return _axes(record, thin[0])
    return merge(record, thin, torch.broadcast_shapes(*(t.shape for t in thin)))


def _stack(record: Record, func: Any, args: Args, kwargs: Kwargs, out: Tensor) -> None:
    dim = (args[1] if len(args) > 1 else kwargs.get("dim", 0)) % out.dim()
    axes, weight = merge(record, list(args[0]), args[0][0].shape)
    record.put(out, tuple(label.unsqueeze(dim) for label in axes), weight)


def _reduce(record: Record, func: Any, args: Args, kwargs: Kwargs, out: Any) -> None:
    x = args[0]
    dims = next((a for a in args[1:] if isinstance(a, (list, tuple))), kwargs.get("dim"))
    if dims is None and len(args) > 1 and type(args[1]) is int:
        dims = [args[1]]
    over = {d % x.dim() for d in (dims if isinstance(dims, (list, tuple)) else [dims])} if dims else set(range(x.dim()))
    first = out if isinstance(out, Tensor) else out[0]
    axes, weight = _axes(record, x)
    put = []
    for label in axes:
        if any(varies(label, d) for d in over):
            record.freeze(label, f"is reduced over ({func.overloadpacket.__name__})")
        else:
            put.append(label if first.dim() == x.dim() else label.squeeze(sorted(over)))
    for o in [out] if isinstance(out, Tensor) else out:
        if isinstance(o, Tensor) and o.dim() == first.dim():
            record.put(o, tuple(put), weight)


def _along_dim(record: Record, func: Any, args: Args, kwargs: Kwargs, out: Any) -> None:
    """Operators that mix the values along one dimension: softmax, cumulative sums, sorting."""
    x = args[0]
    dim = (args[1] if len(args) > 1 and type(args[1]) is int else kwargs.get("dim", -1)) % max(x.dim(), 1)
    axes, weight = _axes(record, x)
    put = []
    for label in axes:
        if varies(label, dim):
            record.freeze(label, f"is mixed along its dimension ({func.overloadpacket.__name__})")
        else:
            put.append(label)
    for o in [out] if isinstance(out, Tensor) else out:
        if isinstance(o, Tensor) and o.shape == x.shape:
            record.put(o, tuple(put), weight)


def _glu(record: Record, func: Any, args: Args, kwargs: Kwargs, out: Tensor) -> None:
    x = args[0]
    dim = (args[1] if len(args) > 1 else -1) % x.dim()
    halves = [x.narrow(dim, 0, out.shape[dim]), x.narrow(dim, out.shape[dim], out.shape[dim])]
    _split(record, func, (x, int(out.shape[dim]), dim), {}, halves)
    pointwise(record, func, (halves[0], halves[1]), {}, out)


def _move(record: Record, func: Any, args: Args, kwargs: Kwargs, out: Tensor) -> None:
    """Roll and flip: names must not vary along the dimensions moved."""
    x = args[0]
    dims = args[-1] if isinstance(args[-1], (list, tuple)) else [args[-1]]
    over = {d % x.dim() for d in dims} or set(range(x.dim()))
    axes, weight = _axes(record, x)
    for label in axes:
        if any(varies(label, d) for d in over):
            record.freeze(label, f"is moved along its dimension ({func.overloadpacket.__name__})")
    record.put(out, tuple(label for label in axes if not any(varies(label, d) for d in over)), weight)


def _spatial(record: Record, func: Any, args: Args, kwargs: Kwargs, out: Any) -> None:
    """Pooling, resizing, padding: every dimension but those that change size passes its names on."""
    x = args[0]
    outs = [o for o in ([out] if isinstance(out, Tensor) else out) if isinstance(o, Tensor) and o.dim() == x.dim()]
    keeps = 2 if x.dim() >= 3 else 1
    axes, weight = _axes(record, x)
    put = []
    for label in axes:
        touched = [d for d in varying(label) if d >= keeps or outs[0].shape[d] != x.shape[d]]
        if touched:
            record.freeze(label, f"is pooled, resized or padded along its dimension ({func.overloadpacket.__name__})")
        else:
            put.append(label)
    for o in outs:
        record.put(o, tuple(put), weight)


def _pixel_shuffle(record: Record, func: Any, args: Args, kwargs: Kwargs, out: Tensor) -> None:
    x, r = args
    names = record.along(x, x.dim() - 3, "is shuffled to pixels")
    record.others(x, {x.dim() - 3}, "is shuffled to pixels")
    if names is not None:
        blocks_ = names.reshape(-1, r * r)
        record.names.tie(blocks_, blocks_[:, :1])
        record.put(out, (blocks_[:, 0].reshape([1] * (x.dim() - 3) + [-1, 1, 1]),))


def _pixel_unshuffle(record: Record, func: Any, args: Args, kwargs: Kwargs, out: Tensor) -> None:
    x, r = args
    names = record.along(x, x.dim() - 3, "is shuffled from pixels")
    record.others(x, {x.dim() - 3}, "is shuffled from pixels")
    if names is not None:
        record.put(out, (names.repeat_interleave(r * r).reshape([1] * (x.dim() - 3) + [-1, 1, 1]),))


def _channel_shuffle(record: Record, func: Any, args: Args, kwargs: Kwargs, out: Tensor) -> None:
    x, groups = args
    names = record.along(x, 1, "is shuffled among channels")
    if names is not None and prod(x.shape) > 0:
        parts = names.reshape(groups, -1)
        record.names.tie(parts, parts[:1])
        record.put(out, (parts[0].repeat_interleave(groups).reshape([1, -1] + [1] * (x.dim() - 2)),))


def _same_shape(record: Record, func: Any, args: Args, kwargs: Kwargs, out: Tensor) -> None:
    """A new tensor of the shape of another: its width follows."""
    record.put(out, _axes(record, args[0])[0])


def _nothing(record: Record, func: Any, args: Args, kwargs: Kwargs, out: Any) -> None:
    """Reads no values that depend on channels: sizes, random numbers, comparisons with a count."""


RULES: dict[Any, Any] = {
    **dict.fromkeys((aten.permute, aten.transpose, aten.t, aten.unsqueeze, aten.numpy_T, aten.mT), _itself),
    **dict.fromkeys((aten.view, aten._unsafe_view, aten.reshape, aten._reshape_alias), _view),
    **dict.fromkeys((aten.softmax, aten._softmax, aten._log_softmax, aten.cumsum, aten.sort, aten.topk), _along_dim),
    **dict.fromkeys(
        (aten.mean, aten.sum, aten.amax, aten.amin, aten.var, aten.std, aten.var_mean, aten.std_mean, aten.max,
         aten.min, aten.prod, aten.linalg_vector_norm, aten.norm, aten.argmax, aten.logsumexp),
        _reduce,
    ),
    **dict.fromkeys(
        (aten.max_pool2d_with_indices, aten.avg_pool2d, aten._adaptive_avg_pool2d, aten.adaptive_max_pool2d,
         aten.avg_pool1d, aten.max_pool1d, aten.max_pool2d, aten.avg_pool3d, aten.max_pool3d_with_indices,
         aten._adaptive_avg_pool3d, aten.upsample_nearest2d, aten.upsample_bilinear2d, aten.upsample_bicubic2d,
         aten._upsample_bilinear2d_aa, aten._upsample_nearest_exact2d, aten.upsample_nearest1d,
         aten.upsample_nearest3d, aten.constant_pad_nd, aten.reflection_pad2d, aten.replication_pad2d),
        _spatial,
    ),
    **dict.fromkeys((aten.roll, aten.flip), _move),
    **dict.fromkeys((aten.zeros_like, aten.ones_like, aten.empty_like, aten.full_like, aten.rand_like,
                     aten.randn_like), _same_shape),
    **dict.fromkeys((aten.clone, aten.detach, aten.alias, aten._to_copy, aten.contiguous, aten.lift_fresh,
                     aten.native_dropout, aten.bernoulli_, aten.bernoulli, aten._prelu_kernel, aten.dropout,
                     aten.copy_, aten.fill_, aten.hardswish, aten.log_sigmoid_forward), pointwise),
    aten.squeeze: _squeeze,
    aten.expand: _expand,
    aten.repeat: _repeat,
    aten.slice: _slice,
    aten.select: _select,
    aten.unbind: _unbind,
    aten.split: _split,
    aten.split_with_sizes: _split,
    aten.cat: _cat,
    aten.stack: _stack,
    aten.glu: _glu,
    aten.pixel_shuffle: _pixel_shuffle,
    aten.pixel_unshuffle: _pixel_unshuffle,
    aten.native_channel_shuffle: _channel_shuffle,
    aten.channel_shuffle: _channel_shuffle,
    aten.sym_size: _nothing,
}  # fmt: skip
