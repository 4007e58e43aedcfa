"""Rules of operators that move, cut, join or pool dimensions: most are applied to the label itself."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from slimkit.channels.labels import alone, blocks, reshape, varies, varying
from slimkit.channels.observed import Args, Kwargs, Observed
from slimkit.channels.operators.pointwise import merge, pointwise

aten = torch.ops.aten


def itself(seen: Observed, func: Any, args: Args, kwargs: Kwargs, out: Any) -> None:
    """The operator is its own rule: permute, transpose, t, unsqueeze."""
    axes, weight = seen.axes(args[0])
    seen.put(out, tuple(func(label, *args[1:], **kwargs) for label in axes), weight)


def squeeze(seen: Observed, func: Any, args: Args, kwargs: Kwargs, out: Any) -> None:
    x = args[0]
    dims = args[1] if len(args) > 1 else list(range(x.dim()))
    dims = [d % x.dim() for d in (dims if isinstance(dims, (list, tuple)) else [dims])]
    gone = [d for d in dims if x.shape[d] == 1]
    axes, weight = seen.axes(x)
    seen.put(out, tuple(label.squeeze(gone) for label in axes), weight)


def expand(seen: Observed, func: Any, args: Args, kwargs: Kwargs, out: Tensor) -> None:
    axes, weight = seen.axes(args[0])
    lead = [1] * (out.dim() - args[0].dim())
    put = tuple(label.reshape(lead + list(label.shape)) for label in axes)
    for label in put:
        dims = varying(label)
        if len(dims) == 1:
            seen.width((int(out.shape[dims[0]]),), (label.reshape(-1),), (1, dims[0]))
    seen.put(out, put, weight)


def repeat(seen: Observed, func: Any, args: Args, kwargs: Kwargs, out: Tensor) -> None:
    axes, weight = seen.axes(args[0])
    repeats = list(args[1])
    lead = [1] * (len(repeats) - args[0].dim())
    put = []
    for label in axes:
        full = label.reshape(lead + list(label.shape))
        put.append(full.repeat([r if full.shape[d] > 1 else 1 for d, r in enumerate(repeats)]))
    seen.put(out, tuple(put), weight)


def view(seen: Observed, func: Any, args: Args, kwargs: Kwargs, out: Tensor) -> None:
    """Reshape the label; where a named dimension is split, tie the parts: the result stays rectangular.

    Where two become one, as in an outer product laid flat, the names of the first may go: those of others are kept.
    """
    x = args[0]
    axes, weight = seen.axes(x)
    if x.numel() == 0:
        return
    asked = args[1] if len(args) > 1 and isinstance(args[1], (list, tuple)) else ()
    put: list[Tensor] = []
    for label in axes:
        new = reshape(label, x.shape, out.shape)
        for before, after in blocks(x.shape, out.shape):
            split = [d for d in after if new.shape[d] > 1]
            if len(split) > 1 and any(varies(label, d) for d in before):
                new = _tie_split(seen, new, split, asked, images=not all(varies(label, d) for d in before))
        dims = varying(new)
        if any(varies(other, dim) for other in put for dim in dims):
            seen.freeze(new, "shares a dimension with other channels, each with each")
        put.append(new)
        if not weight and len(dims) == 1 and asked[dims[0] : dims[0] + 1] != [-1]:  # what is left open, nothing holds
            seen.width((int(out.shape[dims[0]]),), (new.reshape(-1),), (1, dims[0]))
    if seen.at.node is None and tuple(asked) == tuple(out.shape):
        seen.shape(asked, alone(put))
    seen.put(out, tuple(put), weight)


def _tie_split(seen: Observed, label: Tensor, dims: list[int], asked: Any, images: bool) -> Tensor:
    """Let names vary along one of the dimensions that a named one was split into, tied along the others.

    The one that the code left open (-1) varies; else one that needs no new ties, as channels flattened with
    their pixels and taken apart again; else the longest: groups, heads and branches are few. Where the split has
    `images` in it too, that of the most names: one of images and heads is as long as there are images. torch's own
    attention divides by the root of what is in a head: of it heads go.
    """
    along = {d: _first(label, [e for e in dims if e != d]) for d in dims}
    counts = {d: len(set(along[d].reshape(-1).tolist())) if images else int(label.shape[d]) for d in dims}
    module = seen.at.module
    own = isinstance(module, nn.MultiheadAttention) and list(counts.values()) == [module.num_heads, module.head_dim]
    ranked = dims if own else sorted(dims, key=lambda d: -counts[d])
    open_dims = [d for d in ranked if d < len(asked) and asked[d] == -1]
    tied = [d for d in ranked if bool((label == along[d]).all())]
    free = (open_dims or tied or ranked)[0]
    if free not in tied:
        seen.names.tie(label, along[free])
    return along[free]


def _first(label: Tensor, dims: list[int]) -> Tensor:
    for dim in dims:
        label = label.narrow(dim, 0, 1)
    return label


def cut_out(seen: Observed, func: Any, args: Args, kwargs: Kwargs, out: Tensor) -> None:
    """Cuts follow where a module attribute repeats their place, or make equal parts, which are tied; else all stay.

    Whether the code computes from the width where equal parts begin is seen when the network runs narrower.
    """
    x = args[0]
    defaults = (0, None, None, 1)
    dim, start, end, step = args[1:] + defaults[len(args) - 1 :]
    dim %= x.dim()
    size, left = int(x.shape[dim]), int(out.shape[dim])
    axes, weight = seen.axes(x)
    put = []
    for label in axes:
        if varies(label, dim) and left != size:
            names = label.reshape(-1)
            first = 0 if start is None else start + size if start < 0 else start
            cuts = [cut for cut in (first, first + left) if 0 < cut < size]
            whole = varying(label) == [dim] and step == 1
            if not (whole and all([_cut(seen, names, cut) for cut in cuts])):
                if whole and left > 1 and first % left == size % left == 0:
                    parts = names.reshape(-1, left)
                    seen.names.tie(parts, parts[0])
                    seen.names.cuts.append(parts[0])
                else:
                    seen.freeze(label, "is cut at a place written in the code (slice)")
            label = func(label, dim, start, end, step)
        put.append(label)
    seen.put(out, tuple(put), weight)


def _cut(seen: Observed, names: Tensor, place: int) -> bool:
    """Tell whether an attribute of the running module holds the place of a cut, from either end."""
    from_start = seen.width((place,), (names[:place],), (2,), (3,))
    return from_start or seen.width((len(names) - place,), (names[place:],))


def select(seen: Observed, func: Any, args: Args, kwargs: Kwargs, out: Tensor) -> None:
    x, dim, index = args[0], args[1] % args[0].dim(), args[2]
    axes, weight = seen.axes(x)
    put = []
    for label in axes:
        if varies(label, dim):
            seen.freeze(label, "is taken by its index (select)")
            put.append(label.select(dim, index))
        else:
            put.append(label.select(dim, 0))
    seen.put(out, tuple(put), weight)


def unbind(seen: Observed, func: Any, args: Args, kwargs: Kwargs, out: Any) -> None:
    x = args[0]
    dim = (args[1] if len(args) > 1 else 0) % x.dim()
    for index, part in enumerate(out):
        select(seen, func, (x, dim, index), {}, part)


def split(seen: Observed, func: Any, args: Args, kwargs: Kwargs, out: Any) -> None:
    """Equal parts are tied, so that `chunk` stays right; unequal ones need attributes that can follow."""
    x = args[0]
    dim = (args[2] if len(args) > 2 else kwargs.get("dim", 0)) % x.dim()
    axes, weight = seen.axes(x)
    puts: list[list[Tensor]] = [[] for _ in out]
    for label in axes:
        if not varies(label, dim):
            for put in puts:
                put.append(label)
            continue
        widths = tuple(int(part.shape[dim]) for part in out)
        parts = [label.narrow(dim, sum(widths[:i]), width) for i, width in enumerate(widths)]
        if varying(label) != [dim]:
            seen.freeze(label, "is split along a dimension that shares its names with another")
        else:
            _follow_split(seen, widths, [part.reshape(-1) for part in parts])
            if len(set(widths)) == 1:
                parts = [parts[0]] * len(parts)
        for put, part in zip(puts, parts, strict=True):
            put.append(part)
    for part, put in zip(out, puts, strict=True):
        seen.put(part, tuple(put), weight)


def _follow_split(seen: Observed, widths: tuple[int, ...], parts: list[Tensor]) -> None:
    """Tie parts of one size; freeze unequal ones whose size no attribute of the module repeats."""
    seen.width((sum(widths),), (torch.cat(parts),))
    listed = seen.width(widths, tuple(parts), (1,), listed=True)
    if listed and len(set(widths)) > 1:
        return
    for width, part in zip(widths, parts, strict=True):
        seen.names.tie(part, parts[widths.index(width)])
        if not seen.width((width,), (part,), (1,)) and len(set(widths)) > 1:
            seen.freeze(part, f"is split into {list(widths)}: sizes written in the code")


def cat(seen: Observed, func: Any, args: Args, kwargs: Kwargs, out: Tensor) -> None:
    inputs = [t for t in args[0] if t.numel() > 0 and t.dim() == out.dim()]
    dim = (args[1] if len(args) > 1 else kwargs.get("dim", 0)) % out.dim()
    named = [seen.along(t, dim, "is joined along a dimension that shares its names with another") for t in inputs]
    put: list[Tensor] = []
    if any(names is not None for names in named):
        pieces = []
        for tensor, names in zip(inputs, named, strict=True):
            if names is None:
                names = seen.names.fresh(int(tensor.shape[dim]))
                seen.freeze(names, "reads channels of fixed number, joined to others")
            pieces.append(names)
        shape = [1] * out.dim()
        shape[dim] = -1
        put.append(torch.cat(pieces).reshape(shape))
    across, weight = _across(seen, inputs, dim)
    seen.put(out, (*put, *across), weight)


def _across(seen: Observed, inputs: list[Tensor], dim: int) -> tuple[tuple[Tensor, ...], bool]:
    """Tie, over the tensors that are joined along `dim`, the names that vary along the other dimensions."""
    thin = []
    weight = True
    for tensor in inputs:
        axes, only_weights = seen.axes(tensor)
        weight &= only_weights
        thin.append((tensor, tuple(label for label in axes if not varies(label, dim))))
    if not any(axes for _, axes in thin):
        return (), weight
    cuts = [tensor.narrow(dim, 0, 1) for tensor, _ in thin]
    for cut, (_, axes) in zip(cuts, thin, strict=True):
        seen.put(cut, axes, weight)
    return merge(seen, cuts, np.broadcast_shapes(*(t.shape for t in cuts)))


def stack(seen: Observed, func: Any, args: Args, kwargs: Kwargs, out: Tensor) -> None:
    dim = (args[1] if len(args) > 1 else kwargs.get("dim", 0)) % out.dim()
    axes, weight = merge(seen, list(args[0]), args[0][0].shape)
    seen.put(out, tuple(label.unsqueeze(dim) for label in axes), weight)


def glu(seen: Observed, func: Any, args: Args, kwargs: Kwargs, out: Tensor) -> None:
    x = args[0]
    dim = (args[1] if len(args) > 1 else -1) % x.dim()
    halves = list(x.split(out.shape[dim], dim))
    split(seen, func, (x, int(out.shape[dim]), dim), {}, halves)
    pointwise(seen, func, tuple(halves), {}, out)


def same_shape(seen: Observed, func: Any, args: Args, kwargs: Kwargs, out: Tensor) -> None:
    """A tensor of the shape of the first argument, whatever the others are: its width follows."""
    seen.put(out, seen.axes(args[0])[0])


def nothing(seen: Observed, func: Any, args: Args, kwargs: Kwargs, out: Any) -> None:
    """Reads no values that depend on channels: sizes, random numbers, comparisons with a count."""


def copy(seen: Observed, func: Any, args: Args, kwargs: Kwargs, out: Tensor) -> None:
    """Writing into a tensor without names, or into the pixels of one, as circular padding does, gives it names."""
    target, source = args[0], args[1]
    whole = target if target._base is None or target._base.dim() != target.dim() else target._base
    axes, _ = seen.axes(source)
    spans = all(source.dim() == target.dim() and _spans(label, source, target, whole) for label in axes)
    if axes and spans and not seen.has_labels(target) and not seen.has_labels(whole):
        for tensor in (target, whole):
            seen.put(tensor, axes)
    else:
        pointwise(seen, func, args, kwargs, out)


def _spans(label: Tensor, source: Tensor, target: Tensor, whole: Tensor) -> bool:
    """Tell whether every named dimension is written in full."""
    return all(source.shape[dim] == target.shape[dim] == whole.shape[dim] for dim in varying(label))


def scatter(seen: Observed, func: Any, args: Args, kwargs: Kwargs, out: Tensor) -> None:
    """A copy of a tensor in which a slice along a dimension is replaced."""
    dim = (args[2] if len(args) > 2 else kwargs.get("dim", 0)) % out.dim()
    target, source = args[0], args[1]
    for tensor in (target, source):
        for label in seen.axes(tensor)[0]:
            if varies(label, dim):
                seen.freeze(label, "is written to a place that the code gives (slice_scatter)")
    axes, weight = merge(seen, [target.narrow(dim, 0, 1), source.narrow(dim, 0, 1)], out.narrow(dim, 0, 1).shape)
    seen.put(out, axes, weight)


def restride(seen: Observed, func: Any, args: Args, kwargs: Kwargs, out: Tensor) -> None:
    """as_strided that leaves every element where it was, as pooling does in channels_last; others keep all."""
    assert seen.layout is not None
    size, stride, offset = seen.layout
    before = [(n, step) for n, step in zip(size, stride, strict=True) if n > 1]
    after = [(n, step) for n, step in zip(out.shape, out.stride(), strict=True) if n > 1]
    axes, weight = seen.axes(args[0])
    if out.shape == size and after == before and out.storage_offset() == offset:
        seen.put(out, axes, weight)
    else:
        seen.freeze_all((args[0],), "is laid out anew in memory (as_strided)")
        seen.put(out, ())


def look_up(seen: Observed, func: Any, args: Args, kwargs: Kwargs, out: Any) -> None:
    """An embedding: each index becomes a row of its table, whose columns are channels."""
    table, indices = args[:2]
    seen.freeze_all((indices,), "is looked up in a table")
    columns = seen.along(table, -1, "is looked up in a table")
    if columns is not None:
        seen.names.produced.append((columns, seen.at.name))
        seen.put(out, (columns.reshape([1] * (out.dim() - 1) + [-1]),))
