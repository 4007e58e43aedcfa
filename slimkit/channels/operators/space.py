"""Rules of operators that pool, pad, reduce or mix dimensions, or trade channels for pixels."""

import re
from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor

from slimkit.channels.labels import varies, varying
from slimkit.channels.observed import Args, Kwargs, Observed
from slimkit.channels.operators.pointwise import merge

aten = torch.ops.aten


def pass_on(seen: Observed, x: Tensor, outs: Any, over: set[int], meet: Callable[[Tensor], None]) -> None:
    """Pass names on; labels that vary along the dimensions `over` end in `meet`."""
    axes, weight = seen.axes(x)
    put = []
    for label in axes:
        if any(varies(label, d) for d in over):
            meet(label)
        else:
            put.append(label)
    for out in [outs] if isinstance(outs, Tensor) else outs:
        if isinstance(out, Tensor):
            kept = put if out.dim() == x.dim() else [label.squeeze(sorted(over)) for label in put]
            seen.put(out, tuple(kept), weight)


def _pass_on(seen: Observed, x: Tensor, outs: Any, over: set[int], reason: str) -> None:
    """Freeze the names that vary along the dimensions `over`, and pass the others on."""
    pass_on(seen, x, outs, over, lambda label: seen.freeze(label, reason))


def name_of(func: Any) -> str:
    return str(func.overloadpacket.__name__).strip("_")


def _given(func: Any, args: Args, kwargs: Kwargs, *names: str) -> Any:
    """Return the argument with one of these names in the operator's schema, None where it is not given."""
    for place, argument in enumerate(func._schema.arguments):
        if argument.name in names:
            if argument.name in kwargs:
                return kwargs[argument.name]
            return (
                args[place] if place < len(args) else argument.default_value if argument.has_default_value() else None
            )
    return None


def dims_of(func: Any, args: Args, kwargs: Kwargs) -> set[int]:
    """Return the dimensions that an operator works over; all where it names none."""
    dims = _given(func, args, kwargs, "dim", "dims", "axis")
    rank = args[0].dim()
    listed = dims if isinstance(dims, (list, tuple)) else [] if dims is None else [dims]
    return {d % rank for d in listed} if listed and rank else set(range(rank))


def reduce(seen: Observed, func: Any, args: Args, kwargs: Kwargs, out: Any) -> None:
    _pass_on(seen, args[0], out, dims_of(func, args, kwargs), f"is reduced over ({name_of(func)})")


def along_dim(seen: Observed, func: Any, args: Args, kwargs: Kwargs, out: Any) -> None:
    """Softmax, cumulative sums, sorting, reversing, picking by index: values along a dimension meet."""
    over = dims_of(func, args, kwargs)
    _pass_on(seen, args[0], out, over, f"is mixed along its dimension ({name_of(func)})")


def spatial(seen: Observed, func: Any, args: Args, kwargs: Kwargs, out: Any) -> None:
    """Pooling, resizing, padding of the last dimensions."""
    found = re.search(r"(\d)d", func.overloadpacket.__name__)
    assert found is not None
    rank = args[0].dim()
    over = set(range(rank - int(found[1]), rank))
    _pass_on(seen, args[0], out, over, f"is pooled, resized or padded along its dimension ({name_of(func)})")


def unpool(seen: Observed, func: Any, args: Args, kwargs: Kwargs, out: Tensor) -> None:
    """Values put back to the places of the maxima, [N, C, ...] both: each channel by itself."""
    axes, _ = merge(seen, [args[0], args[1]], args[0].shape)
    put = []
    for label in axes:
        if any(dim > 1 for dim in varying(label)):
            seen.freeze(label, f"is pooled, resized or padded along its dimension ({name_of(func)})")
        else:
            put.append(label)
    seen.put(out, tuple(put))


def sample(seen: Observed, func: Any, args: Args, kwargs: Kwargs, out: Tensor) -> None:
    """Reading a map [N, C, ...] at computed places [N, ..., 2 or 3], whose number is fixed."""
    seen.freeze_all((args[1],), "is read as coordinates")
    _pass_on(seen, args[0], out, set(range(2, args[0].dim())), f"is sampled along its dimension ({name_of(func)})")


def pad(seen: Observed, func: Any, args: Args, kwargs: Kwargs, out: Tensor) -> None:
    """Padding of channels with a constant joins them to channels of fixed number."""
    x, pads = args[0], list(args[1])
    axes, weight = seen.axes(x)
    put = []
    for label in axes:
        for dim in varying(label):
            place = 2 * (x.dim() - 1 - dim)
            before, after = (pads[place], pads[place + 1]) if place < len(pads) else (0, 0)
            if not before and not after:
                continue
            if min(before, after) < 0 or varying(label) != [dim]:
                seen.freeze(label, "is padded or cropped along its dimension")
                continue
            edges = seen.names.fresh(before + after)
            seen.freeze(edges, "is zero padding of channels, of a number written in the code")
            joined = torch.cat([edges[:before], label.reshape(-1), edges[before:]])
            label = joined.reshape([-1 if d == dim else 1 for d in range(x.dim())])
        put.append(label)
    seen.put(out, tuple(put), weight)


def index(seen: Observed, func: Any, args: Args, kwargs: Kwargs, out: Tensor) -> None:
    """Picking by a list, or a table, of positions along one dimension; along several, all must stay."""
    x, indices = args[0], args[1]
    used = [(d, index) for d, index in enumerate(indices) if index is not None]
    axes, weight = seen.axes(x)
    if len(used) != 1 or used[0][1].dtype == torch.bool:
        seen.freeze_all((x,), "is picked by index")
        return
    ((dim, places),) = used
    put = []
    for label in axes:
        if varies(label, dim):
            seen.freeze(label, "is picked by index")
        else:
            put.append(label.reshape(*label.shape[:dim], *[1] * places.dim(), *label.shape[dim + 1 :]))
    seen.put(out, tuple(put), weight)


def _group_of(seen: Observed, x: Tensor, dim: int, reason: str) -> Tensor | None:
    names = seen.along(x, dim, reason)
    seen.others(x, {dim % x.dim()}, reason)
    return names


def _put(seen: Observed, out: Tensor, dim: int, names: Tensor) -> None:
    shape = [1] * out.dim()
    shape[dim] = -1
    seen.put(out, (names.reshape(shape),))


def pixel_shuffle(seen: Observed, func: Any, args: Args, kwargs: Kwargs, out: Tensor) -> None:
    names = _group_of(seen, args[0], -3, "is shuffled to pixels")
    if names is not None:
        _put(seen, out, -3, _first_of(seen, names, args[1] ** 2))


def pixel_unshuffle(seen: Observed, func: Any, args: Args, kwargs: Kwargs, out: Tensor) -> None:
    names = _group_of(seen, args[0], -3, "is shuffled from pixels")
    if names is not None:
        _put(seen, out, -3, names.repeat_interleave(args[1] ** 2))


def unfold_patches(seen: Observed, func: Any, args: Args, kwargs: Kwargs, out: Tensor) -> None:
    """im2col: [N, C, H, W] -> [N, C * kernel, positions]."""
    names = _group_of(seen, args[0], 1, "is unfolded to patches")
    if names is not None and args[0].dim() == 4:
        _put(seen, out, 1, names.repeat_interleave(prod(args[1])))


def fold_patches(seen: Observed, func: Any, args: Args, kwargs: Kwargs, out: Tensor) -> None:
    """col2im: [N, C * kernel, positions] -> [N, C, H, W]."""
    names = _group_of(seen, args[0], 1, "is folded from patches")
    if names is not None and args[0].dim() == 3:
        _put(seen, out, 1, _first_of(seen, names, prod(args[2])))


def _first_of(seen: Observed, names: Tensor, each: int) -> Tensor:
    """Tie every `each` names that follow each other, and return the first of them."""
    runs = names.reshape(-1, each)
    seen.names.tie(runs, runs[:, :1])
    return runs[:, 0]


def channel_shuffle(seen: Observed, func: Any, args: Args, kwargs: Kwargs, out: Tensor) -> None:
    groups = args[1]
    names = _group_of(seen, args[0], 1, "is shuffled among channels")
    if names is not None:
        parts = names.reshape(groups, -1)
        seen.names.tie(parts, parts[:1])
        _put(seen, out, 1, parts[0].repeat_interleave(groups))


def windows(seen: Observed, func: Any, args: Args, kwargs: Kwargs, out: Tensor) -> None:
    """Tensor.unfold: a dimension becomes windows, and the place in the window a new last dimension."""
    x, dim = args[0], args[1] % args[0].dim()
    axes, weight = seen.axes(x)
    for label in axes:
        if varies(label, dim):
            seen.freeze(label, "is unfolded to windows")
    seen.put(out, tuple(label.unsqueeze(-1) for label in axes if not varies(label, dim)), weight)
