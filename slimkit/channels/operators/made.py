"""Rule of operators that make tensors of a size that code names, as the states of recurrent cells begin."""

from typing import Any

from torch import Tensor

from slimkit.channels.observed import Args, Kwargs, Observed


def of_size(seen: Observed, func: Any, args: Args, kwargs: Kwargs, out: Tensor) -> None:
    """Its second dimension counts channels where an attribute repeats their number, and follows; else it is fixed."""
    if out.dim() < 2 or out.shape[1] in (1, seen.batch) or not out.is_floating_point():
        return
    size = 0 if isinstance(args[0], (list, tuple)) else 1  # place of the size among the arguments
    names = seen.names.fresh(int(out.shape[1]))
    if seen.width_within((len(names),), (names,), (size, 1)):
        seen.put(out, (names.reshape([1, -1] + [1] * (out.dim() - 2)),))
