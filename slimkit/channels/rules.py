"""How every operator passes channel names on: the one table of operators.

A rule reads the labels of the inputs and puts labels on the outputs. What no rule knows keeps its channels,
with the operator's name as the reason: nothing is guessed, nothing raises.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from slimkit.channels import shape_rules, silence, space_rules
from slimkit.channels.labels import varying
from slimkit.channels.pointwise import merge, pointwise
from slimkit.channels.record import Record

aten = torch.ops.aten
Rule = Callable[[Record, Any, tuple[Any, ...], dict[str, Any], Any], None]
FIXED_INPUT = "reads channels of fixed number: the network's input, or an operator without a rule"
COMPUTED = "is read by a weight that is computed, not stored"
ATTENTION = "enters attention over channels"


def apply(record: Record, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Pass labels through one operator call."""
    packet = func.overloadpacket
    inputs = _tensors(args)
    if kwargs:
        inputs += _tensors(tuple(kwargs.values()))
    if not any(record.has_labels(t) for t in inputs) and packet not in MULTIPLIES:
        return
    rule = RULES.get(packet) or (pointwise if _is_pointwise(packet) else _unknown)
    rule(record, func, args, kwargs, out)
    if packet not in SILENT:
        silence.follow(record, func, args, inputs, out, rule is pointwise)


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


def _convolution(record: Record, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    x, weight, bias, _, _, _, transposed, _, groups = args
    reason = "lies along a dimension that a convolution runs over"
    given = record.along(x, 1, reason)
    record.others(x, {1}, reason)
    rows = record.along(weight, 0, reason)  # out channels; in channels when transposed
    columns = record.along(weight, 1, reason)  # one group's in channels; out channels when transposed
    record.others(weight, {0, 1}, "varies over the kernel of a convolution")
    width, made = int(x.shape[1]), int(out.shape[1])
    positions = x[0, 0].numel() if transposed else out[0, 0].numel()
    each = float(positions * weight[0, 0].numel() * x.shape[0])

    if groups == 1:
        reads, makes = (rows, columns) if transposed else (columns, rows)
        _contract(record, x, 1, given, reads, weight)
        _produce(record, weight, 1 if transposed else 0, makes)
        record.work(weight, _or_count(makes, made), _or_count(reads, width), each)
    elif groups == width:
        makes = _depthwise(record, weight, given, rows, columns if transposed else None, made // width)
        record.work(weight, _or_count(makes, made), 1, each)
    elif transposed:
        makes = _grouped_transposed(record, x, weight, given, rows, columns, groups)
        record.work(weight, _or_count(rows, width), _or_count(columns, made // groups), each)
    else:
        makes = _grouped(record, x, weight, given, rows, columns, groups)
        record.work(weight, _or_count(makes, made), _or_count(columns, width // groups), each)
    if bias is not None and makes is not None:
        _tie_vector(record, bias, makes)
    _put_channels(record, out, makes)
    record.mark_origin(out, weight)


def _contract(record: Record, x: Tensor, dim: int, given: Tensor | None, reads: Tensor | None, weight: Tensor) -> None:
    """Tie the channels that arrive along `dim` of x to the inputs of a weight, which sums over them."""
    if reads is not None:
        record.names.contracted.append(reads)
        if given is not None:
            record.names.tie(given, reads)
        else:
            record.freeze(reads, FIXED_INPUT)
    elif given is not None:
        record.freeze(given, COMPUTED)
    why = record.loud(x).get(dim % x.dim())
    if given is not None and why is not None:
        record.names.loud.append(given)
        if record.loud(weight):
            record.freeze(given, f"is not zero where it is removed ({why}), nor is the weight that reads it")


def _produce(record: Record, weight: Tensor, dim: int, makes: Tensor | None) -> None:
    if makes is not None:
        record.names.produced.append((makes, record.place()))
        if (why := record.loud(weight).get(dim % weight.dim())) is not None:
            record.freeze(makes, f"is made by a weight that is not zero where it is removed ({why})")


def _depthwise(
    record: Record,
    weight: Tensor,
    given: Tensor | None,
    rows: Tensor | None,
    columns: Tensor | None,
    multiplier: int,
) -> Tensor | None:
    """Pass names on: each input channel makes `multiplier` output channels of its own.

    A transposed weight has its input channels in `rows` and the outputs of one of them in `columns`.
    """
    if columns is not None:
        record.freeze(columns, "is made from each channel alike (transposed depthwise convolution)")
    if given is None or rows is None:
        for names in (given, rows):
            if names is not None:
                record.freeze(names, FIXED_INPUT)
        if columns is None:
            _produce(record, weight, 0, rows)
            return rows
        return None
    makes = given.repeat_interleave(multiplier)
    record.names.tie(rows, makes if len(rows) == len(makes) else given)
    record.width((len(given),), (given,))
    if multiplier > 1:
        record.width((len(makes),), (makes,))
    return makes


def _grouped(
    record: Record,
    x: Tensor,
    weight: Tensor,
    given: Tensor | None,
    rows: Tensor | None,
    columns: Tensor | None,
    groups: int,
) -> Tensor | None:
    """Tie the j-th channel of every convolution group, so that the groups stay of equal width."""
    if rows is None:
        _contract(record, x, 1, given, None, weight)
        return None
    of_group = rows.reshape(groups, -1)
    record.names.tie(of_group, of_group[:1])
    _produce(record, weight, 0, rows)
    _contract(record, x, 1, None if given is None else _tie_groups(record, given, groups), columns, weight)
    return rows


def _grouped_transposed(
    record: Record,
    x: Tensor,
    weight: Tensor,
    given: Tensor | None,
    rows: Tensor | None,
    columns: Tensor | None,
    groups: int,
) -> Tensor | None:
    if rows is not None:
        _tie_groups(record, rows, groups)
    _contract(record, x, 1, given, rows, weight)
    _produce(record, weight, 1, columns)
    return None if columns is None else columns.repeat(groups)


def _tie_groups(record: Record, names: Tensor, groups: int) -> Tensor:
    """Tie the j-th of the names of each group; return those of the first, [channels of one group]."""
    parts = names.reshape(groups, -1)
    record.names.tie(parts, parts[:1])
    return parts[0]


def _or_count(names: Tensor | None, count: int) -> Tensor | int:
    return int(count) if names is None else names


def _tie_vector(record: Record, vector: Tensor, names: Tensor) -> None:
    """Tie a bias or a scale, [C], to the names of C channels."""
    own = record.along(vector, 0, "has no name")
    if own is not None:
        record.names.tie(own, names)


def _put_channels(record: Record, out: Tensor, names: Tensor | None, weight: bool = False) -> None:
    axes = () if names is None else (names.reshape(1, -1, *[1] * (out.dim() - 2)),)
    record.put(out, axes, weight)


def _batch_norm(record: Record, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    x, weight = args[0], args[1]
    vectors = [a for a in args[1:5] if isinstance(a, Tensor)]
    record.others(x, {1}, "is normalised over by BatchNorm")
    names = record.along(x, 1, "is normalised over by BatchNorm")
    for vector in vectors:
        if names is not None:
            _tie_vector(record, vector, names)
        else:
            own = record.along(vector, 0, "")
            if own is not None:
                record.freeze(own, FIXED_INPUT)
    if isinstance(weight, Tensor) and id(weight) in record.name_of:
        record.norms[record.name_of[id(weight)]] = None
    if len(vectors) == 4:
        record.absorb(x, vectors[2])
    if names is not None and not vectors:
        record.width((len(names),), (names,))
    only_weights = record.axes(x)[1]
    _put_channels(record, out[0], names, only_weights)
    why = record.loud(x).get(1) if weight is None else record.loud(weight).get(0)
    record.put_loud(out[0], {1: why} if why else {})


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
    """Products of matrices, or of batches of them: [.., n, k] x [.., k, m]."""
    a, b = args[0], args[1]
    (axes_a, weight_a), (axes_b, weight_b) = record.axes(a), record.axes(b)
    inner_a = record.along(a, -1, "enters a matrix product")
    inner_b = record.along(b, -2, "enters a matrix product")
    rows = record.along(a, -2, "enters a matrix product")
    columns = record.along(b, -1, "enters a matrix product")
    each = float(out.shape[:-2].numel())
    n, k, m = int(a.shape[-2]), int(a.shape[-1]), int(b.shape[-1])
    if weight_a == weight_b:  # two activations: attention; two weights: a product computed anew at every call
        for names in (inner_a, inner_b):
            if names is not None:
                reason = ATTENTION if axes_a and axes_b else "enters a product with a tensor that is no parameter"
                record.freeze(names, "is multiplied with another weight" if weight_a else reason)
        record.work(None, _or_count(rows, n), _or_count(columns, m), each * k)
    elif weight_b:
        _contract(record, a, -1, inner_a, inner_b, b)
        _produce(record, b, -1, columns)
        record.work(_stored(b), _or_count(columns, m), _or_count(inner_b, k), each * n)
        record.mark_origin(out, _stored(b))
    else:
        _contract(record, b, -2, inner_b, inner_a, a)
        _produce(record, a, -2, rows)
        record.work(_stored(a), _or_count(rows, n), _or_count(inner_a, k), each * m)
    put = []
    for names, dim in ((rows, -2), (columns, -1)):
        if names is not None:
            shape = [1] * out.dim()
            shape[dim] = -1
            put.append(names.reshape(shape))
    if a.dim() == 3:
        put += _batches(record, a, b)
    record.put(out, tuple(put), weight_a and weight_b)
    kept = ((record.loud(a), a.dim() - 2), (record.loud(b), b.dim() - 1))
    record.put_loud(out, {dim: loud[dim] for loud, dim in kept if dim in loud})


def _batches(record: Record, a: Tensor, b: Tensor) -> list[Tensor]:
    """Return the label of the batch dimension of a batch of products, the names of both factors tied."""
    names = [record.along(t, 0, "enters a matrix product") for t in (a, b)]
    found = [n for n in names if n is not None]
    if len(found) == 2:
        record.names.tie(*found)
    elif found and a.shape[0] > 1:
        record.freeze(found[0], "is combined with a tensor of fixed width")
    return [n.reshape(-1, 1, 1) for n in found[:1]]


def _stored(weight: Tensor) -> Tensor:
    """Return the parameter that a transposed weight is a view of."""
    return weight if weight._base is None else weight._base


def _vector_product(record: Record, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    _freeze_all(record, tuple(args), "enters a product with a vector")


def _addmm(record: Record, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    _matmul(record, func, args[1:], {}, out)
    loud = record.loud(out)
    if why := record.loud(args[0]).get(args[0].dim() - 1):
        loud = {**loud, out.dim() - 1: why}
    axes, weight = merge(record, [args[0], out], out.shape)
    record.put(out, axes, weight)
    record.put_loud(out, loud)


def _embedding(record: Record, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    _freeze_all(record, (args[0],), "is looked up in a table")


MULTIPLIES = (aten.convolution, aten.mm, aten.bmm, aten.addmm, aten.baddbmm)  # counted with or without names
RULES: dict[Any, Rule] = {
    aten.convolution: _convolution,
    aten.native_batch_norm: _batch_norm,
    aten._native_batch_norm_legit: _batch_norm,
    aten._native_batch_norm_legit_no_training: _batch_norm,
    aten.cudnn_batch_norm: _batch_norm,
    aten.miopen_batch_norm: _batch_norm,
    aten.native_layer_norm: _layer_norm,
    aten.native_group_norm: _group_norm,
    aten.mv: _vector_product,
    aten.dot: _vector_product,
    aten.addmv: _vector_product,
    aten.mm: _matmul,
    aten.bmm: _matmul,
    aten.addmm: _addmm,
    aten.baddbmm: _addmm,
    aten.embedding: _embedding,
    **shape_rules.RULES,
    **space_rules.RULES,
}
# Removed channels are silent after these, or the rule itself says that they are not.
SILENT = frozenset((*MULTIPLIES, *(packet for packet, rule in RULES.items() if rule is _batch_norm)))
