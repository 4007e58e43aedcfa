"""What a tracing pass writes down: the names every tensor carries, and what was seen to happen to them."""

from __future__ import annotations

from typing import Any
from weakref import ref

from torch import Tensor, fx, nn

from slimkit.channels import written
from slimkit.channels.labels import Labels, Names, varying

_LABELS = "_slimkit_labels"
_ORIGIN = "_slimkit_origin"  # weight of the convolution whose direct output a tensor is
_LOUD = "_slimkit_loud"  # why removed channels would not be zero in a tensor

Work = tuple[str, str | None, Tensor | int, Tensor | int, float]


class Record:
    """Names, labels and observations of one network while it is traced.

    Labels hang on the tensors themselves, so that they live as long; `clear` takes them off again.
    """

    def __init__(self, model: nn.Module, batch: int) -> None:
        self.names = Names()
        self.batch = batch
        self.modules = dict(model.named_modules())
        self.paths: dict[int, str] = {id(module): path for path, module in self.modules.items()}
        self.tensors: dict[str, Tensor] = {}
        self.name_of: dict[int, str] = {}
        for path, module in self.modules.items():
            prefix = f"{path}." if path else ""
            for name, tensor in (*module._parameters.items(), *module._buffers.items()):
                if tensor is not None and id(tensor) not in self.name_of:
                    self.tensors[prefix + name] = tensor
                    self.name_of[id(tensor)] = prefix + name
        self.own: dict[tuple[int, int], tuple[int, Tensor]] = {}  # parameter, dimension -> first name, names
        self.norms: dict[str, None] = {}  # gammas, in order of use
        self.works: list[Work] = []
        self.widths: list[tuple[str, tuple[int, ...], tuple[Tensor, ...], str | None, written.Place]] = []
        self.uses: dict[str, int] = {}  # direct output of a convolution, or a running mean -> operators that read it
        self.absorbs: dict[str, str] = {}
        self.training = False  # the second pass, for branches that run only in training
        self._stack: list[nn.Module] = [model]
        self._node: fx.Node | None = None  # that runs, of an fx network
        self._called: set[int] = set()
        self._marked: list[ref[Tensor]] = []
        self._counted: dict[tuple[int, str], tuple[Tensor, ...]] = {}  # attribute -> what it counts

    # where the pass is

    def enter(self, module: nn.Module) -> None:
        self._stack.append(module)
        self._called.add(id(module))

    def leave(self, module: nn.Module) -> None:
        if len(self._stack) > 1 and self._stack[-1] is module:
            self._stack.pop()

    @property
    def module(self) -> nn.Module:
        return self._stack[-1]

    @property
    def path(self) -> str:
        """The path of the module that is running; "" for the network itself."""
        for module in reversed(self._stack):
            path = self.paths.get(id(module))
            if path is not None:
                return path
        return ""

    def place(self) -> str:
        """Return the path of the module that is running, the class of the network where it is that."""
        return self.path or type(self._stack[0]).__name__

    def place_of(self, error: BaseException) -> str:
        """Return the path of the innermost module in whose code an exception was raised."""
        path, frame = "", error.__traceback__
        while frame is not None:
            path = self.paths.get(id(frame.tb_frame.f_locals.get("self")), path)
            frame = frame.tb_next
        return path or type(self._stack[0]).__name__

    def uncalled(self) -> list[str]:
        """Return the modules with parameters of their own that the pass has not reached."""
        used = {key for key, _ in self.own}
        return [
            path
            for path, module in self.modules.items()
            if id(module) not in self._called
            and (own := [id(p) for p in module._parameters.values() if p is not None])
            and used.isdisjoint(own)
        ]

    def start_training_pass(self) -> set[nn.Module]:
        """Return the modules above the ones not reached: their `training` flag may open the branch.

        From here on multiply-adds are no longer noted: they are those of inference.
        """
        above = {""}
        for path in self.uncalled():
            parts = path.split(".")
            above |= {".".join(parts[:i]) for i in range(1, len(parts))}
        self.training = True
        self.uses = {name: 2 for name in self.uses}  # read again, or not: nothing more is learnt of them
        self._stack = self._stack[:1]
        return {self.modules[path] for path in above}

    # labels

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

    def loud(self, tensor: Tensor) -> dict[int, str]:
        """Return the dimensions along which removed channels would not be zero, and why."""
        return tensor.__dict__.get(_LOUD) or {}

    def put_loud(self, tensor: Tensor, loud: dict[int, str]) -> None:
        if loud or _LOUD in tensor.__dict__:
            self._mark(tensor, _LOUD, loud)

    def _mark(self, tensor: Tensor, attribute: str, value: Any) -> None:
        tensor.__dict__[attribute] = value
        self._marked.append(ref(tensor))

    def clear(self) -> None:
        """Take off all that still hangs on tensors: those that the network keeps, and the outputs."""
        for marked in self._marked:
            tensor = marked()
            if tensor is not None:
                for attribute in (_LABELS, _LOUD, _ORIGIN):
                    vars(tensor).pop(attribute, None)

    def freeze(self, names: Tensor, reason: str) -> None:
        self.names.freeze(names, self.place(), reason)

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

    # observations

    def read(self, args: Any) -> None:
        """Note, before an operator runs, which direct outputs of convolutions it reads."""
        for arg in args:
            origin = arg.__dict__.get(_ORIGIN) if isinstance(arg, Tensor) else None
            if origin is not None:
                self.uses[origin] = self.uses.get(origin, 0) + 1

    def mark_origin(self, tensor: Tensor, weight: Tensor) -> None:
        """Say that a tensor is the direct output of a convolution with this weight."""
        name = self.name_of.get(id(weight))
        if name is not None:
            self._mark(tensor, _ORIGIN, name)

    def absorb(self, tensor: Tensor, mean: Tensor) -> None:
        """Say that the running mean of a BatchNorm can take up a constant added to `tensor`."""
        origin, name = tensor.__dict__.get(_ORIGIN), self.name_of.get(id(mean))
        if name is not None:
            self.uses[name] = self.uses.get(name, 0) + 1
            if origin is not None:
                self.absorbs[origin] = name

    def at_node(self, node: fx.Node | None) -> None:
        self._node = node

    def width(
        self, values: tuple[int, ...], parts: tuple[Tensor, ...], *places: written.Place, listed: bool = False
    ) -> bool:
        """Note a count of channels that the code used; True if something that can follow repeats it.

        One attribute of the running module that counts channels in two places ties them.

        Args:
            values: one count, or the sizes of a split.
            parts: per value, the names counted.
            places: where an fx node would hold it, among the arguments of the operator.
            listed: the node would hold a list.
        """
        module = self.module
        if id(module) not in self.paths:
            return False
        found = False
        if self._node is not None and isinstance(module, fx.GraphModule):
            for place in places:
                if written.holds(self._node, place, list(values) if listed else values[0]):
                    self.widths.append((self.path, values, parts, self._node.name, place))
                    found = True
            return found
        for attribute, held in vars(module).items():
            one = type(held) is int and len(values) == 1 and held == values[0]
            if one or (type(held) in (list, tuple) and tuple(held) == values):
                found = True
                if all(len(set(part.tolist())) == len(part) for part in parts):  # else it counts some twice
                    known = self._counted.setdefault((id(module), attribute), parts)
                    for part, other in zip(parts, known, strict=True):
                        self.names.tie(part, other)
        if found:
            self.widths.append((self.path, values, parts, None, ()))
        return found

    def work(self, weight: Tensor | None, outputs: Tensor | int, inputs: Tensor | int, each: float) -> None:
        if not self.training:
            name = self.name_of.get(id(weight)) if weight is not None else None
            self.works.append((self.path, name, outputs, inputs, each / self.batch))
