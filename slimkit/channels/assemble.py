"""From the observations of a tracing pass to units, groups and reasons."""

import numpy as np
import torch
from torch import Tensor, nn

from slimkit.channels.graph import Axis, Graph, Group, Kept, Width, Work
from slimkit.channels.observed import Observed

Array = np.ndarray


def assemble(seen: Observed) -> Graph:
    """Turn the observations of a pass into the graph."""
    component = seen.names.components()
    frozen = np.zeros(len(component), bool)
    for kept in seen.names.frozen:
        frozen[component[kept.names.numpy()]] = True
    made = _Made(seen, component, frozen)
    unit_of_component = np.full(len(component), -1)
    unit_of_component[made.removable] = np.arange(len(made.removable))
    unit_of_name = unit_of_component[component]
    units = len(made.removable)

    def unit(label: Tensor | int) -> Tensor:
        if isinstance(label, int):
            return torch.full((label,), -1)
        return torch.from_numpy(unit_of_name[label.numpy()])

    axes = _axes(seen, unit_of_name)

    def among(found: list[Tensor]) -> Tensor:
        marked = torch.zeros(units + 1, dtype=torch.bool)  # the last is for index -1
        for names in found:
            marked[unit(names)] = True
        return marked[:-1]

    widths = (
        Width(layer, values, tuple(map(unit, parts)), node, place) for layer, values, parts, node, place in seen.widths
    )
    return Graph(
        units=units,
        axes=axes,
        groups=_groups(seen, axes, unit_of_name, made, units),
        kept=_kept(seen, component, made, frozen),
        widths=tuple(w for w in widths if any(bool((part >= 0).any()) for part in w.parts)),
        works=tuple(Work(layer, weight, tuple(map(unit, sides)), each) for layer, weight, sides, each in seen.works),
        shapes={name: tuple(t.shape) for name, t in seen.tensors.items() if isinstance(t, nn.Parameter)},
        sinks=_sinks(seen, shared := _shared(seen)),
        shared=shared,
        loud=among(seen.names.loud),
        statistics=among(seen.names.statistics),
        products=among(seen.names.products),
        cuts=among(seen.names.cuts),
        computed=tuple(seen.computed),
    )


def _shared(seen: Observed) -> frozenset[str]:
    """Return the biases that something else reads than the calls of one weight."""
    found = set()
    every = [bias for calls in seen.biases.values() for bias in calls]
    for calls in seen.biases.values():
        for bias in set(calls) - {None}:
            assert bias is not None
            reads = max(every.count(bias), seen.touched[id(seen.tensors[bias])])
            if reads > calls.count(bias):
                found.add(bias)
    return frozenset(found)


def _sinks(seen: Observed, shared: frozenset[str]) -> dict[str, tuple[str, float]]:
    """Return what takes up a constant after each weight: see `Graph.sinks`."""
    found = {
        weight: (mean, -1.0)
        for weight, mean in seen.absorbs.items()
        if seen.uses.get(weight) == 1 and seen.uses[mean] == 1
    }
    for weight, (bias, *others) in seen.biases.items():
        if bias is not None and bias not in shared and set(others) <= {bias}:
            found[weight] = (bias, 1.0)
    return found


class _Made:
    """What layers make, one entry a channel, in order of execution.

    Attributes:
        names: [P], the name of each channel.
        layer: [P], the number of the layer that makes it.
        layers: the layers by number.
        call: [P], the number of the call that makes it: a layer may be called twice.
        removable: [U], the components that may be removed, in the order in which they are first made.
    """

    def __init__(self, seen: Observed, component: Array, frozen: Array) -> None:
        produced = seen.names.produced
        number: dict[str, int] = {}
        for _, layer in produced:
            number.setdefault(layer, len(number))
        sizes = [len(names) for names, _ in produced]
        self.layers = list(number)
        self.names = np.concatenate([np.zeros(0, int), *(names.numpy() for names, _ in produced)])
        self.layer = np.repeat(np.array([number[layer] for _, layer in produced], int), sizes)
        self.call = np.repeat(np.arange(len(produced)), sizes)
        candidates = component[self.names]
        candidates = candidates[~frozen[candidates]]
        _, first = np.unique(candidates, return_index=True)
        self.removable = candidates[np.sort(first)]


def _axes(seen: Observed, unit_of_name: Array) -> tuple[Axis, ...]:
    contracted, divides = np.zeros((2, seen.names.count + 1), bool)
    for names in seen.names.contracted:
        contracted[names.numpy()] = True
    for names, _ in seen.names.produced:
        contracted[names.numpy()] = False  # a dimension that is read and made is silent when made silent
    for names in seen.names.divisors:
        divides[names.numpy()] = True
    before = np.concatenate([[0], np.cumsum(unit_of_name >= 0)])  # names of units before each name
    nothing = torch.zeros(0)
    shared: dict[bytes, Tensor] = {}
    axes: list[Axis] = []
    for name, tensor in seen.tensors.items():
        for dim in range(tensor.dim()):
            start, names = seen.own.get((id(tensor), dim), (0, nothing))
            end = start + len(names)
            if before[end] > before[start]:
                of_index = unit_of_name[start:end]
                units = shared.setdefault(of_index.tobytes(), torch.from_numpy(of_index))
                axes.append(Axis(name, dim, units, bool(contracted[start]), bool(divides[start])))
    return tuple(axes)


def _common(seen: Observed, unit_of_name: Array, units: int) -> Array:
    """Return [U], the largest number that divides the channels of a unit in each call that makes or reads it."""
    common = np.zeros(units, int)
    for names in (*(names for names, _ in seen.names.produced), *seen.names.arrived):
        of_name = unit_of_name[names.numpy()]
        own, counts = np.unique(of_name[of_name >= 0], return_counts=True)
        common[own] = np.gcd(common[own], counts)
    return common


def _groups(seen: Observed, axes: tuple[Axis, ...], unit_of_name: Array, made: _Made, units: int) -> tuple[Group, ...]:
    """Gather units that index exactly the same dimensions of the same tensors."""
    if not units:
        return ()
    made_units, common = unit_of_name[made.names], _common(seen, unit_of_name, units)
    rng = np.random.default_rng(0)
    code = np.zeros(units + 1, np.uint64)  # the last entry takes what must stay, index -1
    sums = rng.integers(1, 2**63, len(axes), dtype=np.uint64)
    for axis, number in zip(axes, sums, strict=True):  # a sum of random codes identifies a set of axes
        of_index = axis.unit_of.numpy()
        code[of_index] = code[of_index] + number  # repeated indices are assigned once
    _, group_of = np.unique(code[:-1], return_inverse=True)
    count = int(group_of.max()) + 1

    places = np.nonzero(made_units >= 0)[0]
    pairs = group_of[made_units[places]] * len(made.layers) + made.layer[places]
    pairs, first = np.unique(pairs, return_index=True)
    layers: list[list[str]] = [[] for _ in range(count)]
    start = np.full(count, len(made_units))  # where the first channel of each group is made
    for place in np.argsort(first):
        group, layer = divmod(int(pairs[place]), len(made.layers))
        layers[group].append(made.layers[layer])
        start[group] = min(start[group], places[first[place]])

    norms: list[list[str]] = [[] for _ in range(count)]
    by_name = {axis.tensor: axis.unit_of.numpy() for axis in axes if axis.tensor in seen.norms}
    for gamma in seen.norms:
        of_index = by_name.get(gamma, np.zeros(0, int))
        for group in np.unique(group_of[of_index[of_index >= 0]]):
            norms[group].append(gamma)

    members = np.split(np.argsort(group_of, kind="stable"), np.cumsum(np.bincount(group_of))[:-1])
    result = []
    taken: dict[str, int] = {}
    for group in np.argsort(start):
        first_layer = layers[group][0]
        taken[first_layer] = taken.get(first_layer, 0) + 1
        name = first_layer if taken[first_layer] == 1 else f"{first_layer}#{taken[first_layer]}"
        call = made.call[start[group]]
        same_call = made_units[np.searchsorted(made.call, call) : np.searchsorted(made.call, call, "right")]
        per_unit = int((same_call == members[group][0]).sum())
        own = torch.from_numpy(members[group])
        divides = int(np.gcd.reduce(common[members[group]]))
        result.append(Group(name, tuple(layers[group]), tuple(norms[group]), own, max(per_unit, 1), max(divides, 1)))
    return tuple(result)


def _kept(seen: Observed, component: Array, made: _Made, frozen: Array) -> tuple[Kept, ...]:
    """Say for every channel that a layer makes and that must stay, why: the first reason seen for it."""
    why = np.zeros(len(component), int)
    for number in reversed(range(len(seen.names.frozen))):
        why[component[seen.names.frozen[number].names.numpy()]] = number
    of_name = component[made.names]
    stay = np.nonzero(frozen[of_name])[0]
    _, first = np.unique(of_name[stay], return_index=True)
    places = stay[np.sort(first)]  # where each component is first made
    pairs = made.layer[places] * len(seen.names.frozen) + why[of_name[places]]
    _, first, counts = np.unique(pairs, return_index=True, return_counts=True)
    rows: dict[tuple[str, str, bool], int] = {}
    for order in np.argsort(first):
        layer, number = divmod(int(pairs[first[order]]), len(seen.names.frozen))
        kept = seen.names.frozen[number]
        reason = f"{kept.reason} (in {kept.layer})" if kept.layer else kept.reason
        key = (made.layers[layer], reason, kept.output)
        rows[key] = rows.get(key, 0) + int(counts[order])
    return tuple(Kept(layer, channels, reason, output) for (layer, reason, output), channels in rows.items())
