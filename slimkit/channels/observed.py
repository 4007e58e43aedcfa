"""What one traced forward pass has shown, beside the names on its tensors: widths, work, what reads what."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, fx, nn

from slimkit.channels import written
from slimkit.channels.labelled import Labelled
from slimkit.channels.labels import alone

# Layers whose attributes follow the shape of their weight.
_OF_THEIR_WEIGHT = (nn.Linear, nn.modules.conv._ConvNd, nn.RNNBase)
_LEAST = 0.5  # of a multiply-add: less is rounding
Args = tuple[Any, ...]  # of an operator
Kwargs = dict[str, Any]
Product = tuple[str, str | None, Sequence[Tensor | int], float]  # as `Work`, with names in place of units


class Observed(Labelled):
    """The labelled tensors of a network, and what was seen to happen to them.

    Attributes:
        batch: images in the example input.
        norms: gammas, in order of use.
        works: multiply-adds.
        ran: of every operator that has some, where its works begin and end, and its multiply-adds of the whole batch.
        widths: numbers in the code that repeat a count of channels.
        uses: direct output of a convolution, or a running mean -> the number of operators that read it.
        biases: weight of a convolution or a product -> of each call, the bias that is added to what it makes.
        absorbs: weight of a convolution -> running mean of the BatchNorm that reads its output.
        computed: modules that read a weight computed by operators that do not let its channels go.
        touched: id of a parameter or buffer, with names or without -> how many operators have read it.
        layout: size, stride and offset of the first argument, before the operator ran.
        training: the second pass, for branches that run only in training.
        sized: classes of modules that take counts from the shape of their input.
    """

    def __init__(self, model: nn.Module, batch: int, sized: frozenset[type[nn.Module]] = frozenset()) -> None:
        super().__init__(model)
        self.batch = batch
        self.sized = sized
        self.norms: dict[str, None] = {}
        self.works: list[Product] = []
        self.ran: list[tuple[int, int, int]] = []
        self.widths: list[tuple[str, tuple[int, ...], tuple[Tensor, ...], str | None, written.Place]] = []
        self.uses: dict[str, int] = {}
        self.biases: dict[str, list[str | None]] = {}
        self.absorbs: dict[str, str] = {}
        self.computed: dict[str, None] = {}
        self.training = False
        self.touched: Counter[int] = Counter()
        self.layout: tuple[Sequence[int], Sequence[int], int] | None = None
        self._counted: dict[tuple[int, str], tuple[Tensor, ...]] = {}  # attribute -> what it counts

    def uncalled(self) -> list[str]:
        """Return the modules with parameters of their own that the pass has not reached."""
        used = {key for key, _ in self.own} | self.touched.keys()
        return [
            path
            for path, module in self.at.modules.items()
            if id(module) not in self.at.called
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
        self.at.back()
        return {self.at.modules[path] for path in above}

    def before(self, args: Any) -> None:
        """Note, before an operator runs, what of the network it reads, and how its first argument lies."""
        first = args[0] if args and isinstance(args[0], Tensor) else None
        self.layout = None if first is None else (first.shape, first.stride(), int(first.storage_offset()))
        for arg in args:
            self.touched.update(id(one) for one in (arg if isinstance(arg, (list, tuple)) else (arg,)))
            origin = self.origin(arg) if isinstance(arg, Tensor) else None
            if origin is not None:
                self.uses[origin] = self.uses.get(origin, 0) + 1

    def call(self, out: Tensor, weight: Tensor) -> None:
        """Note that a weight makes a tensor, to which a bias may be added yet."""
        if (name := self.name_of.get(id(weight))) is not None:
            calls = self.biases.setdefault(name, [])
            calls.append(None)
            self.put_call(out, (name, len(calls) - 1))

    def add_bias(self, made: Tensor, bias: Tensor) -> None:
        """Note that a bias is added to what a weight makes."""
        if (call := self.call_of(made)) is not None:
            self.biases[call[0]][call[1]] = self.name_of.get(id(bias))

    def absorb(self, tensor: Tensor, mean: Tensor) -> None:
        """Say that the running mean of a BatchNorm can take up a constant added to `tensor`."""
        origin, name = self.origin(tensor), self.name_of.get(id(mean))
        if name is not None:
            self.uses[name] = self.uses.get(name, 0) + 1
            if origin is not None:
                self.absorbs[origin] = name

    def read(self, weight: Tensor, names: Mapping[int, Tensor | None]) -> None:
        """Note that the running module reads a weight, whose channels lie along some dimensions; it may be computed."""
        stored = weight if weight._base is None else weight._base
        if self.training or id(stored) in self.name_of:
            return
        known = [own for own in names.values() if own is not None]
        lost = len(known) < sum(weight.shape[dim] > 1 for dim in names)
        if lost or any(bool(torch.isin(own, kept.names).any()) for own in known for kept in self.names.frozen):
            self.computed[self.at.path] = None

    def work(self, weight: Tensor | None, sides: Sequence[Tensor | int], each: float = 1.0) -> None:
        """Note multiply-adds: `each` for one of every side, of the whole batch.

        Args:
            weight: what is multiplied with, whose outputs and inputs are the first sides; None: an activation.
            sides: the names along each dimension that the work grows with, or its size where it has none.
        """
        if not self.training:
            name = self.name_of.get(id(weight)) if weight is not None else None
            own = 0 if name is None else 2
            named = [side for place, side in enumerate(sides) if place < own or isinstance(side, Tensor)]
            each *= prod(side for side in sides[own:] if isinstance(side, int))
            self.works.append((self.at.path, name, named, each / self.batch))

    def account(self, since: int, counted: int) -> None:
        """Note as one that no mask changes what an operator computes and its rule has not noted.

        Args:
            since: how many works there were before the operator.
            counted: its multiply-adds, of the whole batch.
        """
        if self.training or not (counted or len(self.works) > since):
            return
        noted = sum(
            each * prod(side if isinstance(side, int) else len(side) for side in sides)
            for _, _, sides, each in self.works[since:]
        )
        rest = counted / self.batch - noted
        if abs(rest) * self.batch >= _LEAST:
            self.works.append((self.at.path, None, (), rest))
        if counted:
            self.ran.append((since, len(self.works), counted))

    def share(self, single: Observed) -> None:
        """Mend multiply-adds of one image by a pass of one: what is made of weights alone takes as many for any batch.

        Where other operators ran, nothing is known, and each has its share of the batch.
        """
        if len(single.ran) != len(self.ran):
            return
        for (begin, end, counted), (_, _, of_one) in zip(self.ran, single.ran, strict=True):
            factor = of_one * self.batch / counted
            self.works[begin:end] = [(path, w, sides, each * factor) for path, w, sides, each in self.works[begin:end]]

    def shape(self, sizes: Sequence[int], names: Mapping[int, Tensor], *places: written.Place) -> None:
        """Note a shape that the code used, of which the dimensions with `names` count channels; see `width`.

        Args:
            sizes: the shape.
            names: dimension -> the names along it; the sizes of the others stay.
            places: where an fx node would hold it.
        """
        values = tuple(map(int, sizes))
        held = vars(self.at.module).values()
        if self.at.node is not None or any(written.repeats(value, values) for value in held):
            parts = [names[dim] if dim in names else self._fixed(size) for dim, size in enumerate(values)]
            self.width(values, tuple(parts), *places, listed=True)

    def _fixed(self, size: int) -> Tensor:
        names = self.names.fresh(size)
        self.freeze(names, "has a number written in the code")
        return names

    def width(
        self, values: tuple[int, ...], parts: tuple[Tensor, ...], *places: written.Place, listed: bool = False
    ) -> bool:
        """Note a count of channels that the code used; True if something that can follow repeats it.

        One attribute of the running module that counts channels in two places ties them, and so does its input, for
        modules that are `sized` by it.

        Args:
            values: one count, or the sizes of a split.
            parts: per value, the names counted.
            places: where an fx node would hold it, among the arguments of the operator.
            listed: the node would hold a list.
        """
        module, node = self.at.module, self.at.node
        if id(module) not in self.at.paths or isinstance(module, _OF_THEIR_WEIGHT):
            return False
        if node is not None and isinstance(module, fx.GraphModule):
            value = list(values) if listed else values[0]
            found = [place for place in places if written.holds(node, place, value)]
            self.widths += [(self.at.path, values, parts, node.name, place) for place in found]
            return bool(found)
        held = self._held(self.at.path, values, parts)
        of_input = type(module) in self.sized and len(parts) == 1 and self._of_input(parts[0])
        return held or of_input

    def _held(self, path: str, values: tuple[int, ...], parts: tuple[Tensor, ...]) -> bool:
        """Note a count of channels that attributes of a module repeat, which ties what they count; True if any do."""
        module = self.at.modules[path]
        holders = [name for name, held in vars(module).items() if written.repeats(held, values)]
        if holders:
            self.widths.append((path, values, parts, None, ()))
        if all(len(set(part.tolist())) == len(part) for part in parts):  # else it counts some twice
            for attribute in holders:
                known = self._counted.setdefault((id(module), attribute), parts)
                for part, other in zip(parts, known, strict=True):
                    self.names.tie(part, other)
        return bool(holders)

    def width_within(self, values: tuple[int, ...], parts: tuple[Tensor, ...], *places: written.Place) -> bool:
        """Note a count as `width` does, also one that modules of somebody's own within the running one hold.

        All of one class follow, and are tied: which cell of several begins is not seen.
        """
        if self.width(values, parts, *places):
            return True
        within = f"{self.at.path}." if self.at.path else ""
        holders = {
            path: type(module)
            for path, module in self.at.modules.items()
            if path.startswith(within) and any(written.repeats(held, values) for held in vars(module).values())
        }
        own = [path for path, kind in holders.items() if path and not kind.__module__.startswith("torch.")]
        return any([self._held(path, values, parts) for path in own if holders[path] is holders[own[0]]])

    def _of_input(self, counted: Tensor) -> bool:
        """Tie what was counted to what the running module was given as many of; False if there is nothing like it.

        What must stay counts nothing that could follow: heads, of which a scale beside the channels has one each.
        """
        if any(bool(torch.isin(counted, kept.names).any()) for kept in self.names.frozen):
            return False
        alike = [
            names
            for tensor in self.at.given
            for names in alone(self.axes(tensor)[0]).values()
            if len(names) == len(counted)
        ]
        for names in alike:
            self.names.tie(names, counted)
        return bool(alike)
