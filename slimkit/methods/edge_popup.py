"""Edge-popup: a subnetwork of random weights, none of them trained, Ramanujan et al. 2020, arXiv:1911.13299.

Every weight gets a score; a layer computes with the share `density` of its weights whose |score| is largest, and
only the scores are trained, straight through the choice. Malach et al. 2020, arXiv:2002.00585, prove that such
a subnetwork of weights exists in a network wide enough, and that subnetworks of whole channels are weaker:
choosing channels of an untrained network is no substitute for training it.

What it gives is a network of the same architecture with zeros in it, that stands alone; the zeros save no time.
"""

import copy
import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils import parametrize

from slimkit.errors import SpecError
from slimkit.methods.cut import named
from slimkit.methods.job import Job
from slimkit.methods.method import Found, Method, leg
from slimkit.methods.train import train
from slimkit.methods.zeros import NO_FASTER, masked
from slimkit.results import Search
from slimkit.selection.weight_mask import prunable
from slimkit.settings import Settings, setting
from slimkit.settings.checks import choice, number


@dataclass(frozen=True, kw_only=True)
class EdgePopupConfig(Settings):
    """How many of the random weights stay."""

    density: float = setting(0.5, "share of each layer's weights that stays, in (0, 1]", number(0, 1, above=True))
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

    Biases and betas are 0, gammas 1, as in the paper.

    Raises:
        SpecError: there is no convolution or linear layer to choose weights of.
    """
    model = copy.deepcopy(model)
    random = torch.Generator().manual_seed(seed)
    model.requires_grad_(False)
    for module in model.modules():
        if isinstance(module, _BatchNorm) and module.weight is not None:
            module.weight.fill_(1.0)
        bias = getattr(module, "bias", None)
        if isinstance(bias, nn.Parameter):
            bias.zero_()
    found = layers(model)
    if not found:
        raise SpecError("the network has no convolution and no linear layer, so there are no weights to choose.")
    ones = config.choose == "channels"
    by_weight: dict[int, ScoredWeight] = {}  # layers that share a weight share its scores
    for weight in prunable(model).values():
        weight.copy_(signed_constant(weight, config.density, random))
        shape = torch.Size([len(weight), *([1] * (weight.dim() - 1))]) if ones else weight.shape
        by_weight[id(weight)] = ScoredWeight(shape, config.density, random)
    for layer, scores in [(layer, by_weight[id(layer.weight)]) for _, layer in found]:
        parametrize.register_parametrization(layer, "weight", scores)
    return model


@torch.no_grad()
def merged(model: nn.Module, like: nn.Module) -> nn.Module:
    """Return what a scored network computes as an ordinary one: weights that were left out are 0.

    Args:
        model: a network that `scored` made.
        like: the network it was made of; not changed.
    """
    state = {name: value for name, value in model.state_dict().items() if ".parametrizations." not in f".{name}"}
    state |= {f"{path}.weight".lstrip("."): cast(Tensor, layer.weight) for path, layer in layers(model)}
    alone = copy.deepcopy(like)
    alone.load_state_dict(state)
    return alone


def left(model: nn.Module) -> dict[str, int]:
    """Return how many weights of each layer are not 0, by name of the parameter."""
    return {name: int(weight.count_nonzero()) for name, weight in prunable(model).items()}


def run(job: Job, config: EdgePopupConfig) -> Found:
    """Train scores, and give the subnetwork they choose, which stands alone."""
    trained = train(job, scored(job.dense, config, job.recipe.seed))
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
    needs=lambda job, config: prunable(job.dense),
)
