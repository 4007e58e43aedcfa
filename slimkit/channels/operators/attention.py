"""Rules of attention: channels of queries meet those of keys, and go together; channels of values pass through."""

from collections.abc import Callable
from math import prod, sqrt
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from slimkit.channels.labels import varying
from slimkit.channels.observed import Observed
from slimkit.channels.operators.pointwise import merge

aten = torch.ops.aten
ATTENTION = "enters attention over channels"
_WHOLE = (F.scaled_dot_product_attention, aten.scaled_dot_product_attention.default)  # before a kernel is chosen


def meet(seen: Observed, a: Tensor, b: Tensor, summed: tuple[Tensor | None, Tensor | None]) -> None:
    """Tie the names that a product of two activations sums over, as long as a removed one adds nothing to it.

    Args:
        a: [.., n, k].
        b: [.., k, m].
        summed: names of k in each, [k].
    """
    first, second = summed
    if first is None or second is None:
        both = bool(seen.axes(a)[0]) and bool(seen.axes(b)[0])
        reason = ATTENTION if both else "enters a product with a tensor that is no parameter"
    else:
        seen.names.tie(first, second)
        seen.names.products.append(first)
        loud = seen.loud(a).get(a.dim() - 1), seen.loud(b).get(b.dim() - 2)
        if loud[0] is None or loud[1] is None:
            return
        reason = f"{ATTENTION}, where it is not zero when it is removed ({loud[0].reason})"
    for names in summed:
        if names is not None:
            seen.freeze(names, reason)


def fused(seen: Observed, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Attention of one kernel, [N, heads, places, channels], whose scale is said."""
    queries, keys, values = args[:3]
    asked, told, said = (seen.along(t, -1, ATTENTION) for t in (queries, keys, values))
    meet(seen, queries, keys.mT, (asked, told))
    if asked is not None and kwargs.get("scale") is None:  # of a kernel that an exported network calls by its name
        seen.freeze(asked, f"{ATTENTION}, divided by the root of their number")
    for tensor in (queries, keys, values):
        seen.others(tensor, {0, 1, 3}, ATTENTION)
    heads, _ = merge(
        seen, [_heads(seen, t, out[0].shape[1]) for t in (queries, keys, values)], (*out[0].shape[:2], 1, 1)
    )
    named = () if said is None else (said.reshape(1, 1, 1, -1),)
    seen.put(out[0], (*heads, *named))
    seen.put_loud(out[0], {dim: why for dim, why in seen.loud(values).items() if dim != 2})
    spread = {dim for label in heads for dim in varying(label)}
    each = float(queries.shape[2] * keys.shape[2] * prod(out[0].shape[dim] for dim in {0, 1} - spread))
    along = [label.reshape(-1) for label in heads]
    seen.work(None, (*along, int(queries.shape[3]) if asked is None else asked), each)
    seen.work(None, (*along, int(values.shape[3]) if said is None else said), each)


class Scaled(TorchFunctionMode):
    """Lets attention that is divided by the root of its width say so: not every kernel shows what it divides by.

    Attributes:
        seen: the labels of the network, in which the width is noted as a statistic.
        width: of queries, the channels that count.
    """

    def __init__(self, seen: Observed, width: Callable[[Tensor], int]) -> None:
        super().__init__()
        self.seen = seen
        self.width = width

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in _WHOLE and kwargs.get("scale") is None:
            queries = args[0] if args else kwargs["query"]
            asked = self.seen.along(queries, -1, ATTENTION)
            if asked is not None:
                self.seen.names.statistics.append(asked)
            kwargs["scale"] = 1 / sqrt(self.width(queries))
        return func(*args, **kwargs)


def _heads(seen: Observed, tensor: Tensor, count: int) -> Tensor:
    """Return a tensor of one place and channel, with the labels of images and so many heads: several may share keys."""
    shared = count // tensor.shape[1]
    cut = tensor[:, :, :1, :1].repeat_interleave(shared, 1)
    labels = (label for label in seen.axes(tensor)[0] if set(varying(label)) <= {0, 1})
    seen.put(cut, tuple(label.repeat_interleave(shared, 1) if label.shape[1] > 1 else label for label in labels))
    return cut
