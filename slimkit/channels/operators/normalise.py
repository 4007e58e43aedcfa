"""Rule of BatchNorm, whose statistics are each channel's own."""

from typing import Any

import torch
from torch import Tensor

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
