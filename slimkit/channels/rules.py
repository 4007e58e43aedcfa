"""How every operator passes channel names on: the one table of operators.

A rule reads the labels of the inputs and puts labels on the outputs. What no rule knows keeps its channels, with
the operator's name as the reason: nothing is guessed, nothing raises.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from slimkit.channels import shape_rules
from slimkit.channels.labels import varying
from slimkit.channels.pointwise import merge, pointwise
from slimkit.channels.record import Record

aten = torch.ops.aten
Rule = Callable[[Record, Any, tuple[Any, ...], dict[str, Any], Any], None]
FIXED_INPUT = "reads channels of fixed number: the network's input, or an operator without a rule"


def apply(record: Record, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Pass labels through one operator call."""
    inputs = _tensors(args) + _tensors(tuple(kwargs.values()))
    if not any(record.labels(t) for t in inputs):
        return
    rule = RULES.get(func.overloadpacket) or (pointwise if _is_pointwise(func.overloadpacket) else _unknown)
    rule(record, func, args, kwargs, out)


@cache
def _is_pointwise(operator: Any) -> bool:
    """Tell whether an operator works element by element; in-place variants may lack the tag of their twin."""
    if any(torch.Tag.pointwise in getattr(operator, overload).tags for overload in operator.overloads()):
        return True
    name = operator.__name__
    twin = getattr(aten, name[:-1], None) if name.endswith("_") else None
    return twin is not None and (_is_pointwise(twin) or RULES.get(twin) is pointwise)


def _tensors(args: tuple[Any, ...]) -> list[Tensor]:
    found: list[Tensor] = []
    for arg in args:
        if isinstance(arg, Tensor):
            found.append(arg)
        elif isinstance(arg, (list, tuple)):
            found += [item for item in arg if isinstance(item, Tensor)]
    return found


def _unknown(record: Record, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    name = func.overloadpacket.__name__
    reason = ATTENTION if "attention" in name else f"passes through {name}, for which there is no rule"
    for tensor in _tensors(args) + _tensors(tuple(kwargs.values())):
        labels = record.labels(tensor)
        for label in labels.axes if labels else ():
            record.freeze(label, reason)


ATTENTION = "enters attention over channels"


def _convolution(record: Record, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    x, weight, bias, _, _, _, transposed, _, groups = args
    reason = "varies over space before a convolution"
    given = record.along(x, 1, reason)
    record.others(x, {1}, reason)
    rows = record.along(weight, 0, reason)  # out channels; in channels when transposed
    columns = record.along(weight, 1, reason)  # one group's in channels; out channels when transposed
    spatial = out[0, 0].numel() if not transposed else x[0, 0].numel()
    each = float(spatial * weight[0, 0].numel() * x.shape[0])
    width = int(x.shape[1])

    if groups == 1:
        reads, makes = (rows, columns) if transposed else (columns, rows)
        _contract(record, given, reads, width)
        _produce(record, makes)
        record.work(weight, _or_count(makes, out.shape[1]), _or_count(reads, width), each)
    elif weight.shape[1] == 1 and groups == width and (not transposed or out.shape[1] == width):
        makes = _depthwise(record, given, rows, int(out.shape[1]) // width)
        record.work(weight, _or_count(makes, out.shape[1]), 1, each)
    else:
        reads, makes = _grouped(record, given, rows, columns, groups, transposed)
        if not transposed:
            record.work(weight, _or_count(makes, out.shape[1]), _or_count(reads, width // groups), each)
        else:
            record.work(weight, _or_count(reads, width), _or_count(columns, out.shape[1] // groups), each)
    if bias is not None and makes is not None:
        _tie_vector(record, bias, makes)
    _put_channels(record, out, makes)
    record.mark_origin(out, weight)


def _contract(record: Record, given: Tensor | None, reads: Tensor | None, width: int) -> None:
    """Tie the channels that arrive to the input channels of a weight."""
    if reads is not None:
        record.names.contracted.append(reads)
        if given is not None:
            record.names.tie(given, reads)
        else:
            record.freeze(reads, FIXED_INPUT)
    elif given is not None:
        record.freeze(given, "is read by a weight that is computed, not stored")


def _produce(record: Record, makes: Tensor | None) -> None:
    if makes is not None:
        record.names.produced.append((makes, record.place()))


def _depthwise(record: Record, given: Tensor | None, rows: Tensor | None, multiplier: int) -> Tensor | None:
    """Pass names on: each input channel makes `multiplier` output channels of its own."""
    if given is None or rows is None:
        for names in (given, rows):
            if names is not None:
                record.freeze(names, FIXED_INPUT)
        return rows
    makes = given.repeat_interleave(multiplier)
    record.names.tie(rows, makes)
    record.width((len(given),), (given,))
    if multiplier > 1:
        record.width((len(makes),), (makes,))
    return makes


def _grouped(
    record: Record, given: Tensor | None, rows: Tensor | None, columns: Tensor | None, groups: int, transposed: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Tie the j-th channel of every convolution group, so that the groups stay of equal width."""
    if given is None:
        for names in (rows, columns):
            if names is not None:
                record.freeze(names, FIXED_INPUT)
        return None, None
    if rows is None:
        record.freeze(given, "is read by a weight that is computed, not stored")
        return None, None
    arriving = given.reshape(groups, -1)
    record.names.tie(arriving, arriving[:1])
    of_group = rows.reshape(groups, -1)
    record.names.tie(of_group, of_group[:1])
    if transposed:
        record.names.contracted.append(rows)
        record.names.tie(rows, given)
        makes = columns.repeat(groups) if columns is not None else None
        _produce(record, columns)
        if columns is None:
            record.freeze(given, "feeds a transposed convolution with one channel a group")
        return rows, makes
    if columns is not None:
        record.names.contracted.append(columns)
        record.names.tie(columns, arriving[0])
    else:  # one channel a group, several made of it, or a count that is not the group's
        record.freeze(given, "feeds a grouped convolution with one channel a group")
    _produce(record, rows)
    return columns, rows


def _or_count(names: Tensor | None, count: int) -> Tensor | int:
    return int(count) if names is None else names


def _tie_vector(record: Record, vector: Tensor, names: Tensor) -> None:
    """Tie a bias or a scale, [C], to the names of C channels."""
    own = record.along(vector, 0, "has no name")
    if own is not None:
        record.names.tie(own, names)


def _put_channels(record: Record, out: Tensor, names: Tensor | None) -> None:
    if names is not None:
        record.put(out, (names.reshape(1, -1, *[1] * (out.dim() - 2)),))


def _batch_norm(record: Record, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    x, vectors = args[0], [a for a in args[1:5] if isinstance(a, Tensor)]
    record.others(x, {1}, "is normalised over by BatchNorm")
    names = record.along(x, 1, "is normalised over by BatchNorm")
    for vector in vectors:
        if names is not None:
            _tie_vector(record, vector, names)
        else:
            own = record.along(vector, 0, "")
            if own is not None:
                record.freeze(own, FIXED_INPUT)
    labels = record.labels(x)
    weight = args[1]
    if isinstance(weight, Tensor) and id(weight) in record.name_of:
        record.norms[record.name_of[id(weight)]] = None
    if len(vectors) == 4:
        record.absorb(x, vectors[2])
    _put_channels(record, out[0], names)
    if names is None and labels is not None and labels.weight:
        record.put(out[0], (), weight=True)


def _layer_norm(record: Record, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    x, shape = args[0], args[1]
    over = set(range(x.dim() - len(shape), x.dim()))
    labels = record.labels(x)
    kept = []
    for label in labels.axes if labels else ():
        if over & set(varying(label)):
            record.freeze(label, "is normalised across channels (LayerNorm)")
        else:
            kept.append(label)
    _freeze_all(record, args[2:4], "belongs to a normalisation across channels (LayerNorm)")
    record.put(out[0], tuple(kept))


def _group_norm(record: Record, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    _freeze_all(record, (args[0], args[1], args[2]), "is normalised across channels (GroupNorm)")


def _freeze_all(record: Record, tensors: tuple[Any, ...], reason: str) -> None:
    for tensor in tensors:
        labels = record.labels(tensor) if isinstance(tensor, Tensor) else None
        for label in labels.axes if labels else ():
            record.freeze(label, reason)


def _matmul(record: Record, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    a, b = args[0], args[1]
    if a.dim() == 1 or b.dim() == 1:
        _freeze_all(record, (a, b), "enters a product with a vector")
        return
    la, lb = record.labels(a), record.labels(b)
    wa, wb = bool(la and la.weight), bool(lb and lb.weight)
    inner_a = record.along(a, -1, "enters a matrix product")
    inner_b = record.along(b, -2, "enters a matrix product")
    rows = record.along(a, -2, "enters a matrix product")
    columns = record.along(b, -1, "enters a matrix product")
    each = float(out.shape[:-2].numel()) if out.dim() > 2 else 1.0
    n, k, m = int(a.shape[-2]), int(a.shape[-1]), int(b.shape[-1])
    if wa == wb:  # two activations: attention; two weights: a product computed anew at every call
        for names in (inner_a, inner_b):
            if names is not None:
                record.freeze(names, ATTENTION)
        record.work(None, n * m, k, each)
        made_rows, made_columns = (None, None) if wa else (rows, columns)
        if wa:
            _freeze_all(record, (a, b), "is multiplied with another weight")
    elif wb:
        _contract(record, inner_a, inner_b, k)
        _produce(record, columns)
        record.work(b, _or_count(columns, m), _or_count(inner_b, k), each * n)
        made_rows, made_columns = rows, columns
        record.mark_origin(out, _base(b))
    else:
        _contract(record, inner_b, inner_a, k)
        _produce(record, rows)
        record.work(a, _or_count(rows, n), _or_count(inner_a, k), each * m)
        made_rows, made_columns = rows, columns
    put = []
    for names, dim in ((made_rows, out.dim() - 2), (made_columns, out.dim() - 1)):
        if names is not None:
            shape = [1] * out.dim()
            shape[dim] = -1
            put.append(names.reshape(shape))
    for tensor, labels in ((a, la), (b, lb)):
        for label in labels.axes if labels else ():
            if varying(label) and max(varying(label)) < tensor.dim() - 2:
                put.append(label)  # batch dimensions pass
    record.put(out, tuple(put))


def _base(weight: Tensor) -> Tensor:
    """Return the parameter that a transposed weight is a view of."""
    return weight if weight._base is None else weight._base


def _addmm(record: Record, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    _matmul(record, func, args[1:], {}, out)
    bias = args[0]
    axes, _ = merge(record, [bias, out], out.shape)
    record.put(out, axes)


def _embedding(record: Record, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    _freeze_all(record, (args[0],), "is looked up in a table")


RULES: dict[Any, Rule] = {
    aten.convolution: _convolution,
    aten.native_batch_norm: _batch_norm,
    aten._native_batch_norm_legit: _batch_norm,
    aten._native_batch_norm_legit_no_training: _batch_norm,
    aten.cudnn_batch_norm: _batch_norm,
    aten.miopen_batch_norm: _batch_norm,
    aten.native_layer_norm: _layer_norm,
    aten.native_group_norm: _group_norm,
    aten.mm: _matmul,
    aten.bmm: _matmul,
    aten.addmm: _addmm,
    aten.baddbmm: _addmm,
    aten.embedding: _embedding,
    **shape_rules.RULES,
}
