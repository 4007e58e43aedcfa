"""Rules of recurrent layers: what they read may be narrower, their state stays."""

from typing import Any

from slimkit.channels.observed import Observed
from slimkit.channels.operators.multiply import STATE, contract, count_or_names, produce


def fused_layer(seen: Observed, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """One layer and direction of an LSTM: x [T, N, I], weights [4 H, I] and [4 H, H], biases [4 H]."""
    x, into, state, *rest = args
    reason = "lies along a dimension that a recurrent layer runs over"
    given = seen.along(x, 2, reason)
    seen.others(x, {2}, reason)
    rows, columns = seen.along(into, 0, reason), seen.along(into, 1, reason)
    contract(seen, x, 2, given, columns, into)
    produce(seen, into, 0, rows)
    seen.freeze_all((state, *rest), STATE)
    if rows is not None:
        seen.freeze(rows, STATE)
    steps = float(x.shape[0] * x.shape[1])
    seen.work(into, (count_or_names(rows, into.shape[0]), count_or_names(columns, into.shape[1])), steps)
    seen.work(state, (int(state.shape[0]), int(state.shape[1])), steps)
