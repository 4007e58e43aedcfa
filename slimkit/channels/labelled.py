"""The labels that hang on tensors while a network is traced."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from weakref import ref

from torch import Tensor, nn

from slimkit.channels.labels import Labels, Names, varying
from slimkit.channels.position import Position

_LABELS = "_slimkit_labels"
_ORIGIN = "_slimkit_origin"  # weight of the convolution whose direct output a tensor is
_CALL = "_slimkit_call"  # weight whose product a tensor is, and which call of it
_LOUD = "_slimkit_loud"  # why removed channels would not be zero in a tensor

COMPUTED = "; slimkit.plain_weights stores what a layer computes from weights alone"


@dataclass(frozen=True)
class Loud:
    """Why removed channels would not be zero; `below` says that they would be negative, so that a max pool ends it."""

    reason: str
    below: bool = False


def advice(module: nn.Module, path: str) -> str:
    """Return what makes a weight that the forward pass computes a plain one; "" where it is that."""
    if ".parametrizations." in f".{path}.":
        return "; torch.nn.utils.parametrize.remove_parametrizations makes the weight a plain one"
    if hasattr(module, "weight_g"):
        return "; torch.nn.utils.remove_weight_norm makes the weight a plain one"
    if hasattr(module, "weight_orig"):
        return "; torch.nn.utils.remove_spectral_norm, or prune.remove, makes the weight a plain one"
    if type(module).__name__.startswith(("FakeQuantize", "FusedMovingAvgObsFakeQuantize")):
        return "; slim the network first, then prepare it for quantisation"
    return ""


class Labelled:
    """Names and labels of the tensors of one network, and what hangs on tensors beside them.

    Labels hang on the tensors themselves, so that they live as long; `clear` takes them off again.

    Attributes:
        names: all names given out.
        at: where the pass is.
        tensors: name -> parameter or buffer, each once.
        name_of: id of a parameter or buffer -> its name.
        own: (id of a parameter or buffer, dimension) -> the first of its names, and all of them.
    """

    def __init__(self, model: nn.Module) -> None:
        self.names = Names()
        self.at = Position(model)
        self.tensors: dict[str, Tensor] = {}
        self.name_of: dict[int, str] = {}
        for path, module in self.at.modules.items():
            prefix = f"{path}." if path else ""
            for name, tensor in (*module._parameters.items(), *module._buffers.items()):
                if tensor is not None and id(tensor) not in self.name_of:
                    self.tensors[prefix + name] = tensor
                    self.name_of[id(tensor)] = prefix + name
        self.own: dict[tuple[int, int], tuple[int, Tensor]] = {}
        self._marked: list[ref[Tensor]] = []

    def named(self, parameter: Tensor, dim: int) -> Tensor:
        """Return the names along one dimension of a parameter or buffer, [size]."""
        key = (id(parameter), dim)
        if key not in self.own:
            start = self.names.count
            self.own[key] = (start, self.names.fresh(parameter.shape[dim]))
        return self.own[key][1]

    def labels(self, tensor: Tensor) -> Labels | None:
        """Return the labels of a tensor, None where no dimension has names."""
        if id(tensor) in self.name_of:
            shapes = [(d, [1] * d + [-1] + [1] * (tensor.dim() - d - 1)) for d in range(tensor.dim())]
            axes = tuple(self.named(tensor, d).reshape(s) for d, s in shapes if tensor.shape[d] > 1)
            return Labels(axes, weight=True)
        labels: Labels | None = tensor.__dict__.get(_LABELS)
        return labels

    def has_labels(self, tensor: Tensor) -> bool:
        """Tell whether any dimension of a tensor has names."""
        return id(tensor) in self.name_of or tensor.__dict__.get(_LABELS) is not None

    def axes(self, tensor: Tensor) -> tuple[tuple[Tensor, ...], bool]:
        """Return the labels of a tensor, maybe none, and whether it holds only weights."""
        labels = self.labels(tensor)
        return (labels.axes, labels.weight) if labels else ((), False)

    def put(self, tensor: Tensor, axes: tuple[Tensor, ...], weight: bool = False) -> None:
        """Attach labels to a tensor that an operator made."""
        if axes or weight:
            self._mark(tensor, _LABELS, Labels(axes, weight))
        elif _LABELS in tensor.__dict__:
            del tensor.__dict__[_LABELS]

    def loud(self, tensor: Tensor) -> dict[int, Loud]:
        """Return the dimensions along which removed channels would not be zero, and why."""
        return tensor.__dict__.get(_LOUD) or {}

    def put_loud(self, tensor: Tensor, loud: dict[int, Loud]) -> None:
        if loud or _LOUD in tensor.__dict__:
            self._mark(tensor, _LOUD, loud)

    def origin(self, tensor: Tensor) -> str | None:
        """Return the weight of the convolution whose direct output a tensor is."""
        return tensor.__dict__.get(_ORIGIN)

    def put_origin(self, tensor: Tensor, weight: Tensor) -> None:
        """Say that a tensor is the direct output of a convolution with this weight."""
        name = self.name_of.get(id(weight))
        if name is not None:
            self._mark(tensor, _ORIGIN, name)

    def call_of(self, tensor: Tensor) -> tuple[str, int] | None:
        """Return the weight, and the number of its call, that makes a tensor, maybe but for a bias."""
        return tensor.__dict__.get(_CALL)

    def put_call(self, tensor: Tensor, call: tuple[str, int]) -> None:
        self._mark(tensor, _CALL, call)

    def _mark(self, tensor: Tensor, attribute: str, value: Any) -> None:
        tensor.__dict__[attribute] = value
        self._marked.append(ref(tensor))

    def clear(self) -> None:
        """Take off all that still hangs on tensors: those that the network keeps, and the outputs."""
        for marked in self._marked:
            tensor = marked()
            if tensor is not None:
                for attribute in (_LABELS, _LOUD, _ORIGIN, _CALL):
                    vars(tensor).pop(attribute, None)

    def freeze(self, names: Tensor, reason: str) -> None:
        """Keep these names, with the module that runs, and what would help, in the reason."""
        self.names.freeze(names, self.at.name, reason + advice(self.at.module, self.at.name))

    def freeze_all(self, tensors: Iterable[Any], reason: str) -> None:
        """Keep all names of some tensors; what is none of them is passed over."""
        for tensor in tensors:
            for label in self.axes(tensor)[0] if isinstance(tensor, Tensor) else ():
                self.freeze(label, reason)

    def along(self, tensor: Tensor, dim: int, reason: str) -> Tensor | None:
        """Return the names along one dimension, [size]; names that vary along others too are frozen."""
        if tensor.dim() == 0:
            return None
        dim %= tensor.dim()
        if id(tensor) in self.name_of:
            return self.named(tensor, dim) if tensor.shape[dim] > 1 else None
        labels: Labels | None = tensor.__dict__.get(_LABELS)
        for label in labels.axes if labels else ():
            if label.shape[dim] > 1:
                if varying(label) == [dim]:
                    return label.reshape(-1)
                self.freeze(label, reason)
        return None

    def others(self, tensor: Tensor, dims: set[int], reason: str) -> None:
        """Freeze the names that vary along any dimension but `dims`."""
        if id(tensor) in self.name_of:
            return  # kernel sizes and the like: made by no layer, so never removed
        for label in self.axes(tensor)[0]:
            if any(d not in dims for d in varying(label)):
                self.freeze(label, reason)
