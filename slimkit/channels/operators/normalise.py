"""Rules of normalisations."""

from typing import Any

import torch
from torch import Tensor

from slimkit.channels.labels import varying
from slimkit.channels.observed import Observed
from slimkit.channels.operators.multiply import FIXED_INPUT, put_channels, tie_vector

aten = torch.ops.aten


def batch_norm(seen: Observed, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    x, weight = args[0], args[1]
    vectors = [a for a in args[1:5] if isinstance(a, Tensor)]
    seen.others(x, {1}, "is normalised over by BatchNorm")
    names = seen.along(x, 1, "is normalised over by BatchNorm")
    for vector in vectors:
        if names is not None:
            tie_vector(seen, vector, names)
        else:
            own = seen.along(vector, 0, "")
            if own is not None:
                seen.freeze(own, FIXED_INPUT)
    if isinstance(weight, Tensor) and id(weight) in seen.name_of:
        seen.norms[seen.name_of[id(weight)]] = None
    if len(vectors) == 4:
        seen.absorb(x, vectors[2])
    if names is not None and not vectors:
        seen.width((len(names),), (names,))
    only_weights = seen.axes(x)[1]
    put_channels(seen, out[0], names, only_weights)
    why = seen.loud(x).get(1) if weight is None else seen.loud(weight).get(0)
    seen.put_loud(out[0], {1: why} if why else {})


def layer_norm(seen: Observed, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    x, shape = args[0], args[1]
    over = set(range(x.dim() - len(shape), x.dim()))
    labels = seen.labels(x)
    kept = []
    for label in labels.axes if labels else ():
        if over & set(varying(label)):
            seen.freeze(label, "is normalised across channels (LayerNorm)")
        else:
            kept.append(label)
    seen.freeze_all(args[2:4], "belongs to a normalisation across channels (LayerNorm)")
    seen.put(out[0], tuple(kept))


def group_norm(seen: Observed, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Whole groups of channels live and die together; each channel alone where there are as many groups.

    Their number has to follow, so it must be an attribute of the module.
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
    if groups == 1 or not seen.width((groups,), (of_group[:, 0],)):
        what = "across channels" if groups == 1 else f"in {groups} groups, a number written in the code"
        seen.freeze_all((x, *vectors), f"is normalised {what} (GroupNorm)")
        return
    seen.names.tie(of_group, of_group[:, :1])
    if groups < len(names):
        seen.width((len(names),), (names,))
    for vector in vectors:
        tie_vector(seen, vector, names)
    put_channels(seen, out[0], names)
    why = seen.loud(x).get(1) if weight is None else seen.loud(weight).get(0)
    seen.put_loud(out[0], {1: why} if why else {})
