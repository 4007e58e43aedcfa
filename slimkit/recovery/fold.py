"""What a removed channel output on average, added to what read it.

A removed channel does not output zero but E[act(gamma z + beta)], z ~ N(0, 1), under its BatchNorm's own
statistics. That mean, through the weights that read it, is a constant, and a constant can move into the bias
of the reader or into the mean of the BatchNorm after it: exact, but for zero-padded borders.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from slimkit.channels import Example, Graph, stays
from slimkit.channels.graph import check_left
from slimkit.errors import DataError
from slimkit.example import call, on
from slimkit.hardware import device_of
from slimkit.modules import named_tensors, private, unwrapped
from slimkit.recovery.norms import estimated
from slimkit.recovery.readers import Reader, WeightNames, reader
from slimkit.selection.mask import Mask
from slimkit.surgery.remove import kept_indices, take

aten = torch.ops.aten
_NODES = 16  # Gauss-Hermite nodes: exact for polynomials up to degree 31
_SAMPLES = "_slimkit_samples"
_NORMS = {aten.native_batch_norm, aten._native_batch_norm_legit, aten._native_batch_norm_legit_no_training,
          aten.cudnn_batch_norm}  # fmt: skip
# The largest of neighbours lies above their mean: through a max pool the constant is a lower bound.
_KEEP_MEAN = {aten._adaptive_avg_pool2d, aten.avg_pool2d, aten.mean, aten.clone, aten.native_dropout,
              aten.max_pool2d_with_indices}  # fmt: skip
_REJOIN = {aten.cat, aten.view, aten._unsafe_view, aten.expand}
_SUMS = {aten.add, aten.add_, aten.sub, aten.sub_, aten.rsub}
_UNTAGGED = {aten.hardswish, aten.hardswish_, aten.rsub, aten.fill_, aten.zero_}  # work element by element all the same


def _nodes(device: torch.device) -> tuple[Tensor, Tensor]:
    """Return nodes z and weights w, [Q] each, with sum w f(z) = E[f(z)] for z ~ N(0, 1)."""
    z, w = np.polynomial.hermite_e.hermegauss(_NODES)
    numbers = torch.tensor(np.stack([z, w / w.sum()]), dtype=torch.float32, device=device)
    return numbers[0], numbers[1]


class _Means(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Collects the mean of every input channel of the weights that read removed channels.

    `measured`: average what arrives; otherwise carry the distribution that BatchNorm promises, as samples
    [Q, C] beside each tensor, through the operators that work element by element.
    """

    def __init__(self, names: WeightNames, measured: bool, device: torch.device) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names = names
        self.measured = measured
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}
        self.z, self.w = _nodes(device)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        packet = func.overloadpacket
        found = reader(func, args, self.names)
        if found is not None:
            self._read(*found)
        elif not self.measured:
            self._carry(packet, func, args, kwargs or {}, out)
        return out

    def _read(self, found: Reader, x: Tensor) -> None:
        if found.makes:  # then what it reads lies along dimension 0
            return
        name, dim = found.name, found.channels(x)
        if self.measured:
            mean = x.float().mean(dim=[d for d in range(x.dim()) if d != dim])
        else:
            samples = getattr(x, _SAMPLES, None)
            if samples is None or samples.shape[1] != x.shape[dim]:
                return
            mean = (samples * self.w[:, None]).sum(0)
        self.sums[name] = self.sums.get(name, torch.zeros_like(mean)) + mean
        self.counts[name] = self.counts.get(name, 0) + 1

    def _carry(self, packet: Any, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        samples = None
        if packet in _NORMS:
            gamma, beta, mean, variance = args[1:5]
            if estimated(mean, variance):  # else they promise nothing
                samples = self.z[:, None] * (torch.ones_like(mean) if gamma is None else gamma).float()
                samples = samples if beta is None else samples + beta.float()
            out = out[0]
        elif packet is aten.cat:
            samples = _join([getattr(t, _SAMPLES, None) for t in args[0]], args)
        elif packet in _KEEP_MEAN or packet in _REJOIN:
            given = getattr(args[0], _SAMPLES, None)
            first = out if isinstance(out, Tensor) else out[0]
            if given is not None and first.dim() >= 2:
                repeat = first.shape[1] // given.shape[1] if first.shape[1] % given.shape[1] == 0 else 0
                samples = given.repeat_interleave(repeat, 1) if repeat and first.dim() == 2 else given
                out = first
        elif _by_element(func):
            samples = self._pointwise(func, args, kwargs, out)
        if isinstance(out, Tensor):
            setattr(out, _SAMPLES, samples)

    def _pointwise(self, func: Any, args: Any, kwargs: Any, out: Any) -> Tensor | None:
        inputs = [a for a in args if isinstance(a, Tensor) and a.numel() > 1]  # a single number is a constant
        given = [getattr(a, _SAMPLES, None) for a in inputs]
        if not inputs or given[0] is None:
            return None
        samples = given[0]

        def of(values: dict[int, Tensor]) -> Any:
            """Return what the operator, by its own settings, makes of other values for its inputs."""
            copies = [values[id(a)].clone() if id(a) in values else a for a in args]
            apart = {k: torch.empty_like(samples) if isinstance(v, Tensor) else v for k, v in kwargs.items()}  # `out`
            return func(*copies, **apart)

        first, last = inputs[0], inputs[-1]
        if all(a is first for a in inputs):
            result = of({id(first): samples})
            return result if isinstance(result, Tensor) and result.shape == samples.shape else None
        if func.overloadpacket in _SUMS and given[1] is not None and samples.shape == given[1].shape:
            nothing = torch.zeros_like(samples)
            terms = of({id(first): samples, id(last): nothing}), of({id(first): nothing, id(last): given[1]})
            return self._sum_of_independent(*terms)
        return None

    def _sum_of_independent(self, a: Tensor, b: Tensor) -> Tensor:
        """Return samples of a normal with the mean and variance of a + b, taken as independent."""
        w = self.w[:, None]
        mean_a, mean_b = (a * w).sum(0), (b * w).sum(0)
        variance = (a.square() * w).sum(0) - mean_a**2 + (b.square() * w).sum(0) - mean_b**2
        return mean_a + mean_b + self.z[:, None] * variance.clamp(min=0).sqrt()


def _by_element(func: Any) -> bool:
    """Tell whether an operator works element by element; those in place often lack the tag of the others."""
    packet = func.overloadpacket
    plain = getattr(aten, packet.__name__.removesuffix("_"), packet)
    variants = [func, *(getattr(plain, name) for name in plain.overloads())]
    return packet in _UNTAGGED or any(torch.Tag.pointwise in variant.tags for variant in variants)


def _join(parts: list[Tensor | None], args: Any) -> Tensor | None:
    if any(part is None for part in parts) or (args[1] if len(args) > 1 else 0) != 1:
        return None
    return torch.cat([part for part in parts if part is not None], 1)


def input_means(
    model: nn.Module, graph: Graph, mask: Mask, inputs: Sequence[Example], measured: bool
) -> dict[str, Tensor]:
    """Return the mean input, [channels], of every weight that reads removed units.

    Args:
        model: the dense network.
        inputs: what to run it on: real batches if `measured`, else any example input.
        measured: average the inputs that arrive; otherwise use each BatchNorm's own gamma and beta. Readers
            whose input does not come from a BatchNorm through known operators are then left out.

    Raises:
        MaskError: graph or mask are of another network.
    """
    graph.check_of(model)
    gone = dict.fromkeys(name for name, _ in _readers(graph, mask))
    tensors = dict(unwrapped(model).named_parameters())
    device = device_of(model)
    names: WeightNames = {tensors[name].data_ptr(): (name, tensors[name]) for name in gone}
    collect = _Means(names, measured, device)
    with torch.no_grad(), collect:
        for example in inputs:
            call(unwrapped(private(model)), on(device, example))
    return {name: total / collect.counts[name] for name, total in collect.sums.items()}


def _readers(graph: Graph, mask: Mask) -> list[tuple[str, Tensor]]:
    """Return the weights that read removed units, and the units of their input channels."""
    mask.check_fits(graph)
    return [
        (axis.tensor, axis.unit_of)
        for axis in graph.axes
        if axis.reads
        and axis.dim == 1
        and axis.tensor in graph.shapes
        and not bool(stays(mask.keep, axis.unit_of).all())
    ]


@torch.no_grad()
def fold_(slim: nn.Module, model: nn.Module, graph: Graph, mask: Mask, means: dict[str, Tensor]) -> tuple[int, int]:
    """Add to a smaller network, in place, what its removed channels contributed on average.

    Args:
        slim: `remove(model, graph, mask)`.
        model: the dense network, read only.
        means: of `input_means`.

    Returns:
        The number of readers that took up their constant, and of all that read removed channels.

    Raises:
        MaskError: graph, mask and networks do not belong together. DataError: means are not finite.
    """
    graph.check_of(model)
    indices = kept_indices(graph, mask)
    check_left(model, slim, indices)
    if wrong := [name for name, mean in means.items() if not bool(mean.isfinite().all())]:
        raise DataError(f"the mean input of {wrong[0]} is not finite.\n  Take the means of inputs without NaN")
    dense, small = (named_tensors(unwrapped(net)) for net in (model, slim))
    readers = _readers(graph, mask)
    done = 0
    for name, units in readers:
        weight, (target, sign) = dense[name], graph.sinks.get(name, ("", 0.0))
        if name not in means or target not in small or len(means[name]) % len(units):
            continue
        gone = ~stays(mask.keep, units)
        flat = weight.flatten(2).sum(2) if weight.dim() > 2 else weight  # [O, I of one group]
        mean = means[name].to(weight).reshape(-1, len(units))  # [groups, I]
        rows = flat.reshape(len(mean), -1, len(units))  # [groups, O / groups, I]
        constant = (rows[:, :, gone] * mean[:, None, gone]).sum(2).flatten()  # [O]
        kept_rows = indices[name].get(0)
        constant = constant if kept_rows is None else take(constant, {0: kept_rows})
        small[target].add_((sign * constant).to(small[target].device))
        done += 1
    return done, len(readers)
