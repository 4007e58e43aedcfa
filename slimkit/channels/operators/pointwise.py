"""Operators that work element by element tie the names of their inputs to each other."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from slimkit.channels.labels import varying
from slimkit.channels.observed import Observed


def pointwise(seen: Observed, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Rule of every operator with the pointwise tag."""
    inputs = [a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)]
    outs = [out] if isinstance(out, Tensor) else [o for o in out if isinstance(o, Tensor)]
    for o in outs:
        axes, weight = merge(seen, inputs, o.shape)
        seen.put(o, axes, weight)


def merge(seen: Observed, inputs: Sequence[Tensor], shape: Sequence[int]) -> tuple[tuple[Tensor, ...], bool]:
    """Tie the labels of tensors that are broadcast against each other to `shape`.

    Names that meet channels without a name, of fixed number, are frozen.

    Returns:
        The labels of the result, and whether it holds only weights.
    """
    rank = len(shape)
    if len(inputs) == 1:
        labels = seen.labels(inputs[0])
        return (labels.axes, labels.weight) if labels else ((), False)
    given = [(t, seen.labels(t)) for t in inputs]
    weight = all(labels is not None and labels.weight for t, labels in given if t.dim() > 0)
    axes = [
        [label.reshape([1] * (rank - label.dim()) + list(label.shape)) for label in (labels.axes if labels else ())]
        for _, labels in given
    ]
    result: list[Tensor] = []
    for mine, own in enumerate(axes):
        for label in own:
            dims = set(varying(label))
            if not dims:
                continue
            for other, (tensor, _) in enumerate(given):
                if other == mine:
                    continue
                named: set[int] = set()
                for theirs in axes[other]:
                    if dims & set(varying(theirs)):
                        if other > mine:
                            seen.names.tie(label, theirs)
                        named |= set(varying(theirs))
                if any(_fixed(tensor, d - rank) for d in dims - named):
                    seen.freeze(label, "is combined with a tensor of fixed width")
            if not any(dims <= set(varying(r)) for r in result):
                result = [r for r in result if not set(varying(r)) <= dims] + [label]
    return tuple(result), weight


def _fixed(tensor: Tensor, dim: int) -> bool:
    """Tell whether a tensor is not broadcast along a dimension, counted from the end."""
    return tensor.dim() >= -dim and tensor.shape[dim] > 1 and tensor.stride(dim) != 0
