"""Which single weights stay: one bit a weight. Zeros in dense layers save no time on dense hardware.

Prunable are the weights of convolutions and linear layers, never biases, gammas and betas.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.parametrize import is_parametrized

from slimkit.channels.labelled import advice
from slimkit.errors import MaskError
from slimkit.example import Example
from slimkit.measure.macs import macs_by_layer
from slimkit.training.run import Hook, Run


@dataclass(frozen=True)
class WeightMask:
    """The weights of one network that stay.

    Attributes:
        keep: name of the parameter -> bool tensor of its shape, true where the weight stays; on the CPU. The last one
            is the output layer's, as far as the order is known.
    """

    keep: Mapping[str, Tensor]

    @classmethod
    def full(cls, model: nn.Module, example: Example | None = None) -> "WeightMask":
        """Return the mask that keeps everything.

        Args:
            model: the network; untouched.
            example: an input; with it weights are in the order of execution, those that never run first, without it
                in that of the modules.

        Raises:
            TraceError: the network does not run on it.
        """
        weights = prunable(model)
        ran = [] if example is None else [f"{path}.weight".lstrip(".") for path in macs_by_layer(model, example)]
        order = {name: place for place, name in enumerate(ran)}
        names = sorted(weights, key=lambda name: order.get(name, -1))
        return cls({name: torch.ones(weights[name].shape, dtype=torch.bool) for name in names})

    @property
    def left(self) -> dict[str, int]:
        """Weights that stay, by parameter."""
        return {name: int(keep.sum()) for name, keep in self.keep.items()}

    @property
    def density(self) -> float:
        """Share of the prunable weights that stay, in (0, 1]."""
        return sum(self.left.values()) / sum(keep.numel() for keep in self.keep.values())

    @property
    def nearly_empty(self) -> tuple[str, ...]:
        """Parameters of which at most a tenth of the outputs have a weight left."""
        reading = {name: keep.flatten(1).any(1) for name, keep in self.keep.items()}
        return tuple(name for name, rows in reading.items() if 10 * int(rows.sum()) <= len(rows))

    def check_fits(self, model: nn.Module) -> None:
        """Check that the mask belongs to a network.

        Raises:
            MaskError: another network's parameters, or other shapes.
        """
        found = {name: tuple(weight.shape) for name, weight in prunable(model).items()}
        given = {name: tuple(keep.shape) for name, keep in self.keep.items()}
        if found != given:
            name = next(n for n in {**found, **given} if found.get(n) != given.get(n))
            raise MaskError(
                f"a weight mask with {name!r} of shape {given.get(name)} was given for a network where it is "
                f"{found.get(name)}.\n  Make the mask from this very network."
            )


def prunable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the weights of convolutions and linear layers by name, in the order of the modules; shared ones once.

    Raises:
        MaskError: a layer computes its weight, as under weight normalisation: what it is computed from would move it.
    """
    found = {name: module for name, module in model.named_modules() if isinstance(module, (_ConvNd, nn.Linear))}
    for name, layer in found.items():
        if layer._parameters.get("weight") is None:
            where = f"{name}.parametrizations" if is_parametrized(layer, "weight") else name
            raise MaskError(
                f"{name or 'the network'} computes its weight from other parameters, so that no single weight can "
                f"be chosen or held{advice(layer, where) or '; make it a plain one'}."
            )
    wanted = {id(layer.weight) for layer in found.values()}
    return {name: p for name, p in model.named_parameters() if id(p) in wanted}


def largest(weights: Mapping[str, Tensor], mask: WeightMask, names: Sequence[str], left: int) -> WeightMask:
    """Keep, of the weights that a mask left in some tensors, the `left` largest; ties go by position.

    Args:
        weights: parameter name -> tensor to rank by its absolute values.
        mask: so far; tensors not named stay as they are.
        names: tensors that compete with one another.
        left: how many stay, at most as many as did.

    Raises:
        MaskError: more are to stay than there are, or none.
    """
    pool = torch.cat([mask.keep[name].flatten() for name in names])
    if not 0 < left <= int(pool.sum()):
        raise MaskError(
            f"{left} weights are to stay of {int(pool.sum())} in {', '.join(names)}.\n"
            "  Give a smaller share to remove, or fewer rounds"
        )
    sizes = torch.cat([weights[name].detach().cpu().abs().flatten() for name in names])
    order = torch.where(pool, sizes, -1.0).argsort(descending=True, stable=True)
    kept = torch.zeros_like(pool)
    kept[order[:left]] = True
    parts = torch.split(kept, [mask.keep[name].numel() for name in names])
    new = {name: part.view(mask.keep[name].shape) for name, part in zip(names, parts, strict=True)}
    return WeightMask({name: new.get(name, keep) for name, keep in mask.keep.items()})


def shuffled(mask: WeightMask, seed: int) -> WeightMask:
    """Return a mask that keeps as many weights of each tensor, drawn at random."""
    random = torch.Generator().manual_seed(seed)
    return WeightMask(
        {
            n: keep.flatten()[torch.randperm(keep.numel(), generator=random)].view_as(keep)
            for n, keep in mask.keep.items()
        }
    )


@torch.no_grad()
def apply_(model: nn.Module, mask: WeightMask) -> None:
    """Set the weights that go to zero, in place.

    Raises:
        MaskError: the mask is another network's.
    """
    mask.check_fits(model)
    for name, weight in prunable(model).items():
        weight.masked_fill_(~mask.keep[name].to(weight.device), 0.0)


def hold(mask: WeightMask) -> Hook:
    """Return a hook for `train` after which the weights that go are zero, to the bit, after every step.

    The weights are set, not their gradients: so neither momentum nor decay can bring one back. The network
    to be trained has the mask applied by its maker.
    """
    gone: dict[str, Tensor] = {}

    @torch.no_grad()
    def silence(run: Run) -> None:
        weights = prunable(run.model)
        if not gone:
            gone.update({name: ~keep.to(weights[name].device) for name, keep in mask.keep.items()})
        for name, where in gone.items():
            weights[name].masked_fill_(where, 0.0)

    return Hook(after_step=silence)
