"""Edge-popup: a subnetwork of random weights, none of them trained, Ramanujan et al. 2020, arXiv:1911.13299.

Every weight gets a score; a layer computes with the share `density` of its weights whose |score| is largest, and
only the scores are trained, straight through the choice. Or every channel gets one, and of each group of channels
that share is read, see `slimkit.selection.unread`. Malach et al. 2020, arXiv:2002.00585, prove that a subnetwork of
weights exists in a network wide enough, and that subnetworks of whole channels are weaker: choosing channels of an
untrained network is no substitute for training it.

What it gives is a network of the same architecture with zeros in it, that stands alone; the zeros save no time.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils import parametrize

from slimkit.channels import Graph
from slimkit.channels.graph import Axis
from slimkit.errors import SpecError
from slimkit.methods.cut import named
from slimkit.methods.job import Job
from slimkit.methods.method import Found, Method, leg
from slimkit.methods.train import train
from slimkit.methods.zeros import NO_FASTER, masked
from slimkit.modules import copied
from slimkit.results import Search
from slimkit.selection import unread
from slimkit.selection.unread import read_only_by, readers
from slimkit.selection.weight_mask import prunable
from slimkit.settings import Settings, setting
from slimkit.settings.checks import choice, number


@dataclass(frozen=True, kw_only=True)
class EdgePopupConfig(Settings):
    """How many of the random weights stay."""

    density: float = setting(
        0.5, "share of each layer's weights, or channels, that stays, in (0, 1]", number(0, 1, above=True)
    )
    choose: str = setting(
        "weights", "what is chosen: weights one by one, or whole channels (the weaker)", choice("weights", "channels")
    )


class ScoredWeight(nn.Module):
    """Gives a layer its weight where the score says so, 0 elsewhere: a parametrisation of the weight."""

    def __init__(self, shape: torch.Size, density: float, random: torch.Generator) -> None:
        """Draw scores of a shape that broadcasts to the weight's, as the paper does: uniform, by fan-in."""
        super().__init__()
        bound = 1 / math.sqrt(max(1, math.prod(shape[1:])))  # Kaiming uniform with a = sqrt 5
        self.scores = nn.Parameter(torch.empty(shape).uniform_(-bound, bound, generator=random))
        self.density = density

    def forward(self, weight: Tensor) -> Tensor:
        """Mask a weight; the gradient reaches every score, also of weights left out."""
        return weight * straight_through(self.scores, self.density)


class ScoredUnits(nn.Module):
    """One score a channel, U of them."""

    def __init__(self, units: int, groups: Sequence[Tensor], density: float, random: torch.Generator) -> None:
        """Draw the scores, uniform, by how many compete: `groups` are the units that do with one another."""
        super().__init__()
        self.scores = nn.Parameter(torch.zeros(units))
        for members in groups:
            bound = 1 / math.sqrt(len(members))
            self.scores[members] = torch.empty(len(members)).uniform_(-bound, bound, generator=random)
        self.groups = groups
        self.density = density

    def forward(self) -> Tensor:
        """Return the choice, [U + 1]."""
        return unread.straight_through(self.scores, self.groups, self.density)


class ReadByScore(nn.Module):
    """Gives a layer its weight, 0 where it reads channels that are left out: a parametrisation of the weight."""

    def __init__(self, units: ScoredUnits, axes: Sequence[Axis]) -> None:
        super().__init__()
        self.units = units
        self.axes = axes

    def forward(self, weight: Tensor) -> Tensor:
        """Mask a weight; the gradient reaches every score, also of channels left out."""
        return unread.unread(weight, self.axes, self.units())


def chosen(scores: Tensor, density: float) -> Tensor:
    """Return bool of the scores' shape: the share `density` of the largest |score|, at least one.

    The order is that of the indices, whatever the memory layout.
    """
    sizes = scores.detach().abs().flatten()
    mask = torch.zeros(sizes.shape, dtype=torch.bool, device=sizes.device)
    mask[sizes.topk(max(1, round(density * sizes.numel())), sorted=False).indices] = True
    return mask.view(scores.shape)


def straight_through(scores: Tensor, density: float) -> Tensor:
    """Return the choice as 0 and 1, with the gradient of |scores|."""
    sizes = scores.abs()
    return chosen(scores, density).to(sizes.dtype) + (sizes - sizes.detach())


def signed_constant(weight: Tensor, density: float, random: torch.Generator) -> Tensor:
    """Return +-sqrt(2 / (density fan_in)), by fair coins; of the weight's shape."""
    size = math.sqrt(2 / (math.prod(weight.shape[1:]) * density))
    return torch.where(torch.rand(weight.shape, generator=random) < 0.5, -size, size)


def layers(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the convolutions and linear layers, by path."""
    return [(name, m) for name, m in model.named_modules() if isinstance(m, (_ConvNd, nn.Linear))]


@torch.no_grad()
def scored(model: nn.Module, config: EdgePopupConfig, seed: int) -> nn.Module:
    """Return a copy with signed constants as weights and scores on them, drawn by the seed; only scores want gradients.

    Raises:
        SpecError: there is no convolution or linear layer to choose weights of.
    """
    model = _untrained(model)
    random = torch.Generator().manual_seed(seed)
    by_weight: dict[int, nn.Module] = {}  # layers that share a weight share its scores
    for weight in prunable(model).values():
        weight.copy_(signed_constant(weight, config.density, random))
        by_weight[id(weight)] = ScoredWeight(weight.shape, config.density, random)
    _register(model, by_weight)
    return model


@torch.no_grad()
def scored_channels(model: nn.Module, graph: Graph, config: EdgePopupConfig, seed: int) -> nn.Module:
    """Return the same with scores on channels: of those that only convolutions and linear layers read.

    Args:
        model: its architecture is used, its weights are not; not changed.
        graph: its channels.

    Raises:
        SpecError: there is no such channel.
    """
    model = _untrained(model)
    random = torch.Generator().manual_seed(seed)
    units = ScoredUnits(graph.units, choosable(model, graph), config.density, random)
    reading = readers(graph)
    by_weight: dict[int, nn.Module] = {}
    for name, weight in prunable(model).items():
        read = ReadByScore(units, reading.get(name, []))
        weight.copy_(signed_constant(weight, float(read(torch.ones(weight.shape)).mean()), random))
        by_weight[id(weight)] = read
    _register(model, by_weight)
    return model


def choosable(model: nn.Module, graph: Graph) -> list[Tensor]:
    """Return the units of each group that weights of convolutions and linear layers read, and nothing else.

    Raises:
        SpecError: there is no such group.
    """
    groups = read_only_by(graph, prunable(model))
    if not groups:
        raise SpecError(
            "choose is channels, but the network has none that convolutions and linear layers alone read.\n"
            "  Choose weights"
        )
    return groups


@torch.no_grad()
def _untrained(model: nn.Module) -> nn.Module:
    """Return a copy in which nothing wants gradients; biases and betas are 0, gammas 1, as in the paper."""
    model = copied(model)
    model.requires_grad_(False)
    for module in model.modules():
        if isinstance(module, _BatchNorm) and module.weight is not None:
            module.weight.fill_(1.0)
        bias = getattr(module, "bias", None)
        if isinstance(bias, nn.Parameter):
            bias.zero_()
    if not layers(model):
        raise SpecError("the network has no convolution and no linear layer, so there are no weights to choose.")
    return model


def _register(model: nn.Module, by_weight: Mapping[int, nn.Module]) -> None:
    for layer, choice_of in [(layer, by_weight[id(layer.weight)]) for _, layer in layers(model)]:
        parametrize.register_parametrization(layer, "weight", choice_of)


@torch.no_grad()
def merged(model: nn.Module, like: nn.Module) -> nn.Module:
    """Return what a scored network computes as an ordinary one: weights that were left out are 0.

    Args:
        model: a network that `scored` or `scored_channels` made.
        like: the network it was made of; not changed.
    """
    state = {name: value for name, value in model.state_dict().items() if ".parametrizations." not in f".{name}"}
    state |= {f"{path}.weight".lstrip("."): cast(Tensor, layer.weight) for path, layer in layers(model)}
    alone = copied(like)
    alone.load_state_dict(state)
    return alone


def left(model: nn.Module) -> dict[str, int]:
    """Return how many weights of each layer are not 0, by name of the parameter."""
    return {name: int(weight.count_nonzero()) for name, weight in prunable(model).items()}


def run(job: Job, config: EdgePopupConfig) -> Found:
    """Train scores, and give the subnetwork they choose, which stands alone."""
    seed = job.recipe.seed
    channels = config.choose == "channels"
    model = scored_channels(job.dense, job.graph, config, seed) if channels else scored(job.dense, config, seed)
    trained = train(job, model)
    alone = named(merged(trained.model, job.dense).eval(), job.dense)
    masked(alone, left(alone), "trained")
    search = Search(method=METHOD.name, history=trained.history)
    legs = (leg(job.macs(), trained.phases, search=False),)
    return Found(alone, (trained,), legs, search, notes=(NO_FASTER,))


METHOD = Method(
    name="edge-popup",
    summary="choose a subnetwork of random weights, none of them trained (Ramanujan et al. 2020); no channel goes",
    config=EdgePopupConfig,
    run=run,
    ranking="group-norm",
    removes=False,
    needs=lambda job, config: choosable(job.dense, job.graph) if config.choose == "channels" else prunable(job.dense),
)
