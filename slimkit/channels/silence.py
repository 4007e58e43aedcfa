"""Does a removed channel stay zero? Where an operator does not map 0 to 0, it must not be read by a weight.

The promise is that the smaller network computes what the network with silent channels computes. A sigmoid
turns a silent channel into 0.5; multiplied with another silent one (squeeze-excite) it is silent again; read
by a convolution it would be missed. A tensor whose removed channels are not zero is *loud*.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor

from slimkit.channels.record import Record

aten = torch.ops.aten
_SAMPLES = (0.7, -1.3, 2.1, -0.2)  # stand in for values that are not zero

ALWAYS = {  # operators that make removed channels loud, whatever they read
    aten.softmax, aten._softmax, aten._log_softmax, aten.logsumexp, aten.ones_like, aten.full_like,
    aten.rand_like, aten.randn_like, aten.native_layer_norm,
}  # fmt: skip


def follow(
    record: Record, func: Any, args: tuple[Any, ...], inputs: list[Tensor], out: Any, pointwise: bool
) -> None:
    """Say for the outputs of an operator whether removed channels are zero in them; call after its rule."""
    outs = [o for o in (out if isinstance(out, (list, tuple)) else (out,)) if isinstance(o, Tensor)]
    why = None
    if func.overloadpacket in ALWAYS or (func.overloadpacket is aten.constant_pad_nd and any(args[2:])):
        why = _because(record, func)
    elif pointwise:
        if not _keeps_zero(record, func, args):
            why = next((w for w in map(record.loud, inputs) if w), None) or _because(record, func)
    else:
        why = next((w for w in map(record.loud, inputs) if w), None)
    for o in outs:
        record.put_loud(o, why)
    if (
        why is not None
        and isinstance(args[0], Tensor)
        and outs
        and outs[0] is args[0]
        and args[0]._base is not None
    ):
        record.put_loud(args[0]._base, why)  # written in place, through a view


def _because(record: Record, func: Any) -> str:
    return f"{func.overloadpacket.__name__.strip('_')} in {record.place()!r}"


def _keeps_zero(record: Record, func: Any, args: tuple[Any, ...]) -> bool:
    """Tell whether an element-wise operator gives 0 where its silent inputs are 0, whatever the rest."""
    key: list[Any] = []
    for arg in args:
        if isinstance(arg, Tensor):
            silent = bool(record.axes(arg)[0]) and record.loud(arg) is None
            key.append((arg.dtype, silent))
        else:
            key.append(tuple(arg) if isinstance(arg, list) else arg)
    try:
        return _result_is_zero(func, tuple(key))
    except TypeError:  # an argument that cannot be hashed: ask anew
        return _result_is_zero.__wrapped__(func, tuple(key))


@cache
def _result_is_zero(func: Any, key: tuple[Any, ...]) -> bool:
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
        return True
    return all(
        bool((o == 0).all())
        for o in (out if isinstance(out, (list, tuple)) else (out,))
        if isinstance(o, Tensor)
    )
