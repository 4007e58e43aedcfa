"""Rules of convolutions and matrix products: they sum over the channels they read and make new ones."""

from typing import Any

import torch
from torch import Tensor, nn

from slimkit.channels.labelled import COMPUTED
from slimkit.channels.observed import Observed
from slimkit.channels.operators.attention import meet
from slimkit.channels.operators.pointwise import merge

aten = torch.ops.aten
FIXED_INPUT = "reads channels of fixed number: the network's input, or an operator without a rule"
STATE = "is the state of a recurrent layer"
NOT_STORED = f"is read by a weight that is computed, not stored{COMPUTED}"


def convolution(seen: Observed, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    x, weight, bias, _, _, _, transposed, _, groups = args
    reason = "lies along a dimension that a convolution runs over"
    given = seen.along(x, 1, reason)
    seen.others(x, {1}, reason)
    rows = seen.along(weight, 0, reason)  # out channels; in channels when transposed
    columns = seen.along(weight, 1, reason)  # one group's in channels; out channels when transposed
    seen.others(weight, {0, 1}, "varies over the kernel of a convolution")
    seen.read(weight, {0: rows, 1: columns})
    width, made = int(x.shape[1]), int(out.shape[1])
    positions = x[0, 0].numel() if transposed else out[0, 0].numel()
    each = float(positions * weight[0, 0].numel() * x.shape[0])

    if groups == 1:
        reads, makes = (rows, columns) if transposed else (columns, rows)
        contract(seen, x, 1, given, reads, weight)
        produce(seen, weight, 1 if transposed else 0, makes)
        seen.work(weight, (count_or_names(makes, made), count_or_names(reads, width)), each)
    elif groups == width:
        makes = _depthwise(seen, weight, given, rows, columns if transposed else None, made // width)
        seen.work(weight, (count_or_names(makes, made), 1), each)
    elif transposed:
        makes = _grouped_transposed(seen, x, weight, given, rows, columns, groups)
        seen.work(weight, (count_or_names(rows, width), count_or_names(columns, made // groups)), each)
    else:
        makes = _grouped(seen, x, weight, given, rows, columns, groups)
        seen.work(weight, (count_or_names(makes, made), count_or_names(columns, width // groups)), each)
    if bias is not None and makes is not None:
        tie_vector(seen, bias, makes)
    put_channels(seen, out, makes)
    seen.put_origin(out, weight)
    seen.call(out, weight)
    if bias is not None:
        seen.add_bias(out, bias)


def contract(seen: Observed, x: Tensor, dim: int, given: Tensor | None, reads: Tensor | None, weight: Tensor) -> None:
    """Tie the channels that arrive along `dim` of x to the inputs of a weight, which sums over them."""
    if reads is not None:
        seen.names.contracted.append(reads)
        if given is not None:
            seen.names.arrived.append(given)
            seen.names.tie(given, reads)
        else:
            seen.freeze(reads, STATE if isinstance(seen.at.module, nn.RNNBase) else FIXED_INPUT)
    elif given is not None:
        seen.freeze(given, NOT_STORED)
    why = seen.loud(x).get(dim % x.dim())
    if given is not None and why is not None:
        seen.names.loud.append(given)
        if seen.loud(weight):
            seen.freeze(given, f"is not zero where it is removed ({why.reason}), nor is the weight that reads it")


def produce(seen: Observed, weight: Tensor, dim: int, makes: Tensor | None) -> None:
    if makes is not None:
        seen.names.produced.append((makes, seen.at.name))
        if (why := seen.loud(weight).get(dim % weight.dim())) is not None:
            seen.freeze(makes, f"is made by a weight that is not zero where it is removed ({why.reason})")


def _depthwise(
    seen: Observed,
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
        seen.freeze(columns, "is made from each channel alike (transposed depthwise convolution)")
    if given is not None and rows is None and not weight.stride(0) and columns is None and multiplier == 1:
        seen.width((len(given),), (given,))
        return given  # one kernel that was expanded to as many channels as there are, as blurs do
    if given is None or rows is None:
        for names in (given, rows):
            if names is not None:
                seen.freeze(names, FIXED_INPUT)
        if columns is None:
            produce(seen, weight, 0, rows)
            return rows
        return None
    makes = given.repeat_interleave(multiplier)
    seen.names.tie(rows, makes if len(rows) == len(makes) else given)
    seen.width((len(given),), (given,))
    if multiplier > 1:
        seen.width((len(makes),), (makes,))
    return makes


def _grouped(
    seen: Observed,
    x: Tensor,
    weight: Tensor,
    given: Tensor | None,
    rows: Tensor | None,
    columns: Tensor | None,
    groups: int,
) -> Tensor | None:
    """Tie the j-th channel of every convolution group, so that the groups stay of equal width."""
    if rows is None:
        contract(seen, x, 1, given, None, weight)
        return None
    of_group = rows.reshape(groups, -1)
    seen.names.tie(of_group, of_group[:1])
    produce(seen, weight, 0, rows)
    contract(seen, x, 1, None if given is None else given.reshape(groups, -1), columns, weight)
    return rows


def _grouped_transposed(
    seen: Observed,
    x: Tensor,
    weight: Tensor,
    given: Tensor | None,
    rows: Tensor | None,
    columns: Tensor | None,
    groups: int,
) -> Tensor | None:
    if rows is not None:
        _tie_groups(seen, rows, groups)
    contract(seen, x, 1, given, rows, weight)
    produce(seen, weight, 1, columns)
    return None if columns is None else columns.repeat(groups)


def _tie_groups(seen: Observed, names: Tensor, groups: int) -> Tensor:
    """Tie the j-th of the names of each group; return those of the first, [channels of one group]."""
    parts = names.reshape(groups, -1)
    seen.names.tie(parts, parts[:1])
    return parts[0]


def count_or_names(names: Tensor | None, count: int) -> Tensor | int:
    return int(count) if names is None else names


def matmul(seen: Observed, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Products of matrices, or of batches of them: [.., n, k] x [.., k, m]."""
    a, b = args[0], args[1]
    weight_a, weight_b = seen.axes(a)[1], seen.axes(b)[1]
    inner_a = seen.along(a, -1, "enters a matrix product")
    inner_b = seen.along(b, -2, "enters a matrix product")
    rows = seen.along(a, -2, "enters a matrix product")
    columns = seen.along(b, -1, "enters a matrix product")
    made = count_or_names(columns, b.shape[-1]), count_or_names(rows, a.shape[-2])
    weight: Tensor | None = None
    inner: Tensor | int = count_or_names(inner_a, a.shape[-1])
    if weight_a and weight_b:  # a product computed anew at every call
        for names in (inner_a, inner_b):
            if names is not None:
                seen.freeze(names, "is multiplied with another weight")
    elif not weight_a and not weight_b:
        meet(seen, a, b, (inner_a, inner_b))
    elif weight_b:
        seen.read(b, {-2: inner_b, -1: columns})
        contract(seen, a, -1, inner_a, inner_b, b)
        produce(seen, b, -1, columns)
        weight, inner = _stored(b), count_or_names(inner_b, b.shape[-2])
        seen.put_origin(out, weight)
        seen.call(out, weight)
    else:
        seen.read(a, {-2: rows, -1: inner_a})
        contract(seen, b, -2, inner_b, inner_a, a)
        produce(seen, a, -2, rows)
        weight, made = _stored(a), made[::-1]
    put = []
    for names, dim in ((rows, -2), (columns, -1)):
        if names is not None:
            shape = [1] * out.dim()
            shape[dim] = -1
            put.append(names.reshape(shape))
    batches = _batches(seen, a, b) if a.dim() == 3 else None
    if batches is not None:
        put.append(batches.reshape(-1, 1, 1))
    seen.work(weight, (made[0], inner, made[1], count_or_names(batches, out.shape[:-2].numel())))
    seen.put(out, tuple(put), weight_a and weight_b)
    kept = ((seen.loud(a), a.dim() - 2), (seen.loud(b), b.dim() - 1))
    seen.put_loud(out, {dim: loud[dim] for loud, dim in kept if dim in loud})


def _batches(seen: Observed, a: Tensor, b: Tensor) -> Tensor | None:
    """Return the names along the batch dimension of a batch of products, of both factors, tied; heads, say."""
    names = [seen.along(t, 0, "enters a matrix product") for t in (a, b)]
    found = [n for n in names if n is not None]
    if len(found) == 2:
        seen.names.tie(*found)
    elif found and a.shape[0] > 1:
        seen.freeze(found[0], "is combined with a tensor of fixed width")
    return found[0] if found else None


def _stored(weight: Tensor) -> Tensor:
    """Return the parameter that a transposed weight is a view of."""
    return weight if weight._base is None else weight._base


def vector_product(seen: Observed, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    seen.freeze_all(tuple(args), "enters a product with a vector")


def addmm(seen: Observed, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    matmul(seen, func, args[1:], {}, out)
    loud = seen.loud(out)
    if why := seen.loud(args[0]).get(args[0].dim() - 1):
        loud = {**loud, out.dim() - 1: why}
    axes, weight = merge(seen, [args[0], out], out.shape)
    seen.put(out, axes, weight)
    seen.put_loud(out, loud)
    follow_bias(seen, aten.add, (out, args[0]), kwargs, out)


def follow_bias(seen: Observed, packet: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Find the bias that is added to a product of matrices, maybe behind a view that leaves its columns alone."""
    product, other = args[:2]
    call = seen.call_of(product)
    if call is None or not product.dim() or out.shape[-1:] != product.shape[-1:]:
        return
    if packet in (aten.view, aten._unsafe_view):
        seen.put_call(out, call)
    elif isinstance(other, Tensor) and other.shape == out.shape[-1:] and set(kwargs.values()) <= {1}:
        seen.add_bias(product, other)


def put_channels(seen: Observed, out: Tensor, names: Tensor | None, weight: bool = False) -> None:
    axes = () if names is None else (names.reshape(1, -1, *[1] * (out.dim() - 2)),)
    seen.put(out, axes, weight)


def tie_vector(seen: Observed, vector: Tensor, names: Tensor) -> None:
    """Tie a bias or a scale, [C], to the names of C channels."""
    own = seen.along(vector, 0, "has no name")
    if own is not None:
        seen.names.tie(own, names)
