"""Does a removed channel stay zero? Where an operator does not map 0 to 0, the weight that reads it must be zero.

The promise is that the smaller network computes what the network with silent channels computes. A sigmoid turns a
silent channel into 0.5; multiplied with another silent one (squeeze-excite) it is silent again; a weight that reads it
must be set to zero, which it cannot be if it is itself computed by something like a sigmoid. A dimension along which
removed channels are not zero is *loud*.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor

from slimkit.channels.labelled import Loud
from slimkit.channels.labels import varying
from slimkit.channels.observed import Observed

aten = torch.ops.aten
_SILENT, _LOUD, _UNDEFINED = "silent", "loud", "undefined"
_SAMPLES = (0.7, -1.3, 2.1, -0.2)  # stand in for values that are not zero

ALWAYS = {  # operators that make removed channels loud, whatever they read
    aten._log_softmax, aten.logsumexp, aten.ones_like, aten.full_like,
    aten.ones, aten.full, aten.new_ones, aten.new_full,
    aten.rand_like, aten.randn_like,
}  # fmt: skip
MAX_POOLS = {aten.max_pool1d, aten.max_pool2d, aten.max_pool2d_with_indices, aten.max_pool3d_with_indices,
             aten.adaptive_max_pool2d, aten.adaptive_max_pool3d}  # fmt: skip


def follow(seen: Observed, func: Any, args: tuple[Any, ...], inputs: list[Tensor], out: Any, pointwise: bool) -> None:
    """Say for the outputs of an operator where removed channels are not zero; call after its rule."""
    packet = func.overloadpacket
    outs = [o for o in (out if isinstance(out, (list, tuple)) else (out,)) if isinstance(o, Tensor)]
    padding = packet is aten.constant_pad_nd and any(args[2:])
    if not (pointwise or padding or packet in ALWAYS or any(map(seen.loud, inputs))):
        for o in outs:
            seen.put_loud(o, {})
        return
    for o in outs:
        loud: dict[int, Loud] = {}
        for label in seen.axes(o)[0]:
            for dim in varying(label):
                if pointwise:
                    why = _after(seen, func, args, dim - o.dim())
                elif padding:
                    why = Loud(f"padding in {seen.at.name!r}", below=args[2] < 0)
                elif packet in ALWAYS:
                    why = _because(seen, func)
                else:
                    why = _passed_on(seen, inputs, label)
                    why = None if packet in MAX_POOLS and why and why.below else why
                if why is not None:
                    loud[dim] = why
        seen.put_loud(o, loud)
        if loud and o is args[0] and o._base is not None and o._base.dim() == o.dim():
            seen.put_loud(o._base, loud)  # written in place, through a view


def _because(seen: Observed, func: Any) -> Loud:
    return Loud(f"{func.overloadpacket.__name__.strip('_')} in {seen.at.name!r}")


def _passed_on(seen: Observed, inputs: list[Tensor], label: Tensor) -> Loud | None:
    """Return why the names of a label are loud already in an input that has them too."""
    names = label.reshape(-1)
    for tensor in inputs:
        for given in seen.axes(tensor)[0] if seen.loud(tensor) else ():
            why = next((w for d, w in seen.loud(tensor).items() if given.shape[d] > 1), None)
            same = torch.isin(given.reshape(-1)[:1], names) | torch.isin(names[:1], given)
            if why is not None and bool(same.any()):
                return why
    return None


def _after(seen: Observed, func: Any, args: tuple[Any, ...], dim: int) -> Loud | None:
    """Say why an element-wise operator is loud along a dimension, counted from the end; None if it is not.

    It keeps zero if it gives 0 where its silent inputs are 0, whatever the others are. Where it gives no number then,
    the parameters among them are what it divides by, and are not made 0.
    """
    key: list[Any] = []
    loud = None
    weights: list[tuple[int, Tensor]] = []  # place among the arguments, and names
    for place, arg in enumerate(args):
        if isinstance(arg, Tensor):
            axes, weight = seen.axes(arg)
            named = [label for label in axes if arg.dim() >= -dim and label.shape[dim] > 1]
            why = seen.loud(arg).get(dim + arg.dim())
            loud = loud or why
            key.append((arg.dtype, bool(named) and why is None))
            weights += [(place, label.reshape(-1)) for label in named if weight and why is None]
        else:
            key.append(tuple(arg) if isinstance(arg, list) else arg)
    found = _at_zero(func, key)
    if found is _UNDEFINED and weights:
        for place, names in weights:
            key[place] = (key[place][0], False)
            seen.names.divisors.append(names)
        found = _at_zero(func, key)
    return None if found is _SILENT else loud or _because(seen, func)


def _at_zero(func: Any, key: list[Any]) -> str:
    try:
        return _result(func, tuple(key))
    except TypeError:  # an argument that cannot be hashed
        return _result.__wrapped__(func, tuple(key))


@cache
def _result(func: Any, key: tuple[Any, ...]) -> str:
    """Tell what an operator makes of arguments that are zero, or not: (type, is zero) each where they are tensors."""
    args = []
    for item in key:
        if isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], torch.dtype):
            values = torch.tensor(_SAMPLES)
            args.append(torch.zeros_like(values).to(item[0]) if item[1] else values.to(item[0]))
        else:
            args.append(item)
    try:
        out = func(*args)
    except Exception:  # needs another shape or device: the proof will tell
        return _SILENT
    outs = [o for o in (out if isinstance(out, (list, tuple)) else (out,)) if isinstance(o, Tensor)]
    if not all(bool(o.isfinite().all()) for o in outs):
        return _UNDEFINED
    return _SILENT if all(bool((o == 0).all()) for o in outs) else _LOUD
