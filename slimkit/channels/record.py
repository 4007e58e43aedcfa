"""What a tracing pass writes down, and the graph made of it."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from slimkit.channels.graph import Axis, Graph, Group, Kept, Width, Work
from slimkit.channels.labels import Labels, Names, varying

_LABELS = "_slimkit_labels"
_ORIGIN = "_slimkit_origin"  # weight of the convolution whose direct output a tensor is


class Record:
    """Names, labels and observations of one network while it is traced."""

    def __init__(self, model: nn.Module, batch: int) -> None:
        self.names = Names()
        self.batch = batch
        self.paths = {id(module): path for path, module in model.named_modules()}
        self.modules = dict(model.named_modules())
        self.tensors = {name: t for name, t in _named_tensors(model)}
        self.name_of = {id(t): name for name, t in self.tensors.items()}
        self.own: dict[int, Labels] = {}  # labels of parameters and buffers
        self.norms: dict[str, None] = {}  # gammas, in order of use
        self.works: list[tuple[str, str | None, Tensor | int, Tensor | int, float]] = []
        self.widths: list[tuple[str, tuple[int, ...], tuple[Tensor, ...]]] = []
        self.uses: dict[str, int] = {}  # direct output of a convolution -> operators that read it
        self.absorbs: dict[str, str] = {}
        self._stack: list[nn.Module] = [model]
        self.training = False  # the second pass, for branches that run only in training
        self._called: set[int] = set()

    # where the pass is

    def enter(self, module: nn.Module) -> None:
        self._stack.append(module)
        self._called.add(id(module))

    def leave(self, module: nn.Module) -> None:
        if self._stack[-1] is module:
            self._stack.pop()

    @property
    def module(self) -> nn.Module:
        return self._stack[-1]

    def place(self) -> str:
        """Return the path of the module that is running."""
        return self.paths.get(id(self.module), "") or type(self.module).__name__

    def uncalled(self) -> list[str]:
        """Return the modules with parameters of their own that the pass has not reached."""
        return [
            path
            for path, module in self.modules.items()
            if id(module) not in self._called and any(True for _ in module.parameters(recurse=False))
            and not any(id(p) in self.own for p in module.parameters(recurse=False))
        ]

    def start_training_pass(self) -> set[nn.Module]:
        """Return the modules above the ones not reached: their `training` flag may open the branch.

        From here on multiply-adds are no longer noted: they are those of inference.
        """
        parents = {path.rpartition(".")[0] for path in self.uncalled()}
        above = {"", *parents}
        for path in parents:
            parts = path.split(".")
            above |= {".".join(parts[:i]) for i in range(1, len(parts))}
        self.training = True
        self.uses.clear()
        return {self.modules[path] for path in above}

    # labels

    def labels(self, tensor: Tensor) -> Labels | None:
        """Return the labels of a tensor, None where no dimension has names."""
        key = id(tensor)
        if key in self.name_of:
            if key not in self.own:
                self.own[key] = self._name_parameter(tensor)
            return self.own[key]
        return getattr(tensor, _LABELS, None)

    def _name_parameter(self, tensor: Tensor) -> Labels:
        axes = []
        for dim, size in enumerate(tensor.shape):
            if size > 1:
                shape = [1] * tensor.dim()
                shape[dim] = size
                axes.append(self.names.fresh(size).reshape(shape))
        return Labels(tuple(axes), weight=True)

    def put(self, tensor: Tensor, axes: tuple[Tensor, ...], weight: bool = False) -> None:
        """Attach labels to a tensor that an operator made."""
        setattr(tensor, _LABELS, Labels(axes, weight) if axes else None)

    def freeze(self, names: Tensor, reason: str) -> None:
        self.names.freeze(names, self.place(), reason)

    def along(self, tensor: Tensor, dim: int, reason: str) -> Tensor | None:
        """Return the names along one dimension, [size]; names that vary along others too are frozen."""
        labels = self.labels(tensor)
        dim %= max(tensor.dim(), 1)
        for label in labels.axes if labels else ():
            if label.shape[dim] > 1:
                if varying(label) == [dim]:
                    return label.reshape(-1)
                self.freeze(label, reason)
        return None

    def others(self, tensor: Tensor, dims: set[int], reason: str) -> None:
        """Freeze the names that vary along any dimension but `dims`."""
        labels = self.labels(tensor)
        for label in labels.axes if labels else ():
            if any(d not in dims for d in varying(label)):
                self.freeze(label, reason)

    # observations

    def read(self, args: Any) -> None:
        """Note, before an operator runs, which direct outputs of convolutions it reads."""
        for arg in args:
            origin = getattr(arg, _ORIGIN, None) if isinstance(arg, Tensor) else None
            if origin is not None:
                self.uses[origin] = self.uses.get(origin, 0) + 1

    def mark_origin(self, tensor: Tensor, weight: Tensor) -> None:
        """Say that a tensor is the direct output of a convolution with this weight."""
        if id(weight) in self.name_of:
            setattr(tensor, _ORIGIN, self.name_of[id(weight)])

    def absorb(self, tensor: Tensor, mean: Tensor) -> None:
        """Say that the running mean of a BatchNorm can take up a constant added to `tensor`."""
        origin = getattr(tensor, _ORIGIN, None)
        if origin is not None and id(mean) in self.name_of:
            self.absorbs[origin] = self.name_of[id(mean)]

    def width(self, values: tuple[int, ...], parts: tuple[Tensor, ...]) -> bool:
        """Note a count of channels that the running module's code used; True if one of its attributes repeats it."""
        held = [v for v in vars(self.module).values() if isinstance(v, (int, list, tuple))]
        repeats = any(
            (type(v) is int and len(values) == 1 and v == values[0])
            or (isinstance(v, (list, tuple)) and tuple(v) == values)
            for v in held
        )
        if repeats:
            self.widths.append((self.place_path(), values, parts))
        return repeats

    def place_path(self) -> str:
        return self.paths.get(id(self.module), "")

    def work(self, weight: Tensor | None, outputs: Tensor | int, inputs: Tensor | int, each: float) -> None:
        if self.training:
            return
        name = self.name_of.get(id(weight)) if weight is not None else None
        self.works.append((self.place_path(), name, outputs, inputs, each / self.batch))


def _named_tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    return [*model.named_parameters(), *((n, b) for n, b in model.named_buffers() if b.dim() > 0)]


def build(record: Record) -> Graph:
    """Turn the observations of a pass into units, groups and reasons."""
    names = record.names
    component = names.components()
    n = int(component.max()) + 1 if len(component) else 0

    frozen = np.zeros(n, bool)
    for names_kept, _, _ in names.frozen:
        frozen[component[names_kept.numpy()]] = True
    made = np.zeros(n, bool)
    for label, _ in names.produced:
        made[component[label.numpy()]] = True
    removable = made & ~frozen
    unit_of = np.full(n, -1)
    first = _first_seen(names, component, removable)
    unit_of[first] = np.arange(len(first))
    units = len(first)

    def unit(label: Tensor) -> Tensor:
        return torch.from_numpy(unit_of[component[label.numpy()]])

    contracted = np.zeros(names.count + 1, bool)
    for label in names.contracted:
        contracted[label.numpy()] = True

    axes: list[Axis] = []
    for name, tensor in record.tensors.items():
        labels = record.own.get(id(tensor))
        for label in labels.axes if labels else ():
            of_index = unit(label.reshape(-1))
            if bool((of_index >= 0).any()):
                dim = varying(label)[0]
                axes.append(Axis(name, dim, of_index, bool(contracted[label.reshape(-1)[0]])))

    def side(label: Tensor | int) -> Tensor:
        return torch.full((label,), -1) if isinstance(label, int) else unit(label)

    works = tuple(Work(layer, weight, side(o), side(i), each) for layer, weight, o, i, each in record.works)
    widths = tuple(
        Width(layer, values, tuple(unit(p) for p in parts))
        for layer, values, parts in record.widths
        if any(bool((unit(p) >= 0).any()) for p in parts)
    )
    shapes = {name: tuple(record.tensors[name].shape) for name in record.tensors if _is_parameter(record, name)}
    folds = {w: mean for w, mean in record.absorbs.items() if record.uses.get(w, 0) == 1}
    return Graph(
        units=units,
        axes=tuple(axes),
        groups=_groups(record, axes, unit, units),
        kept=_kept(record, component, removable),
        widths=widths,
        works=works,
        shapes=shapes,
        folds=folds,
    )


def _is_parameter(record: Record, name: str) -> bool:
    return isinstance(record.tensors[name], nn.Parameter)


def _first_seen(names: Names, component: np.ndarray, removable: np.ndarray) -> np.ndarray:
    """Return the removable components, in the order in which layers first make them."""
    if not names.produced:
        return np.zeros(0, int)
    made = component[torch.cat([label for label, _ in names.produced]).numpy()]
    made = made[removable[made]]
    _, index = np.unique(made, return_index=True)
    return np.asarray(made[np.sort(index)])


def _groups(record: Record, axes: list[Axis], unit: Any, units: int) -> tuple[Group, ...]:
    """Gather units that index exactly the same dimensions of the same tensors."""
    rng = np.random.default_rng(0)
    code = np.zeros(units, np.uint64)
    for axis in axes:  # a sum of random codes identifies a set; repeated indices are assigned once
        found = axis.units.numpy()
        found = found[found >= 0]
        code[found] = code[found] + rng.integers(1, 2**63, dtype=np.uint64)
    _, group_of = np.unique(code, return_inverse=True)

    layers: dict[int, dict[str, Tensor]] = {}
    for label, layer in record.names.produced:
        of_index = unit(label)
        of_index = of_index[of_index >= 0]
        if len(of_index):
            for group in set(group_of[of_index.numpy()].tolist()):
                layers.setdefault(group, {}).setdefault(layer, of_index)
    gammas: dict[int, list[str]] = {}
    by_name = {axis.tensor: axis for axis in axes if axis.tensor in record.norms}
    for gamma in record.norms:
        if gamma in by_name:
            of_index = by_name[gamma].units
            for group in set(group_of[of_index[of_index >= 0].numpy()].tolist()):
                gammas.setdefault(group, []).append(gamma)

    result = []
    taken: dict[str, int] = {}
    order = np.argsort(group_of, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(group_of))[:-1]) if units else []
    for group, made_by in sorted(layers.items(), key=lambda item: int(members[item[0]][0])):
        first = next(iter(made_by))
        taken[first] = taken.get(first, 0) + 1
        name = first if taken[first] == 1 else f"{first}#{taken[first]}"
        own = torch.from_numpy(members[group])
        per_unit = int((made_by[first] == own[0]).sum())
        result.append(Group(name, tuple(made_by), tuple(gammas.get(group, ())), own, per_unit))
    return tuple(result)


def _kept(record: Record, component: np.ndarray, removable: np.ndarray) -> tuple[Kept, ...]:
    """Say for every channel that a layer makes and that must stay, why: the first reason seen for it."""
    why: dict[int, str] = {}
    for names_kept, layer, reason in record.names.frozen:
        for c in set(component[names_kept.numpy()].tolist()):
            why.setdefault(c, f"{reason} (in {layer})" if layer else reason)
    counted: set[int] = set()
    rows: dict[tuple[str, str], int] = {}
    for label, layer in record.names.produced:
        for c in component[label.numpy()].tolist():
            if not removable[c] and c not in counted:
                counted.add(c)
                key = (layer, why[c])
                rows[key] = rows.get(key, 0) + 1
    return tuple(Kept(layer, channels, reason) for (layer, reason), channels in rows.items())
