"""A network and a budget to a proven, smaller network."""

import pytest
import torch
from torch import Tensor, nn

from slimkit.channels import Graph, trace
from slimkit.errors import BudgetError, MaskError, ProofError
from slimkit.methods import Selection
from slimkit.runs.start import allowed_widths, context
from slimkit.settings import CompressSpec
from slimkit.surgery import proof
from slimkit.surgery.prove import Slimmed


class Two(nn.Module):
    """Two convolutions with BN, then a linear pair without: 24 units in all."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.na = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.b, self.nb = nn.Conv2d(8, 10, 3, padding=1, bias=False), nn.BatchNorm2d(10)
        self.c, self.d = nn.Linear(10, 6), nn.Linear(6, 4)
        nn.init.constant_(self.c.bias, 1.0)  # alive, whatever goes

    def forward(self, x: Tensor) -> Tensor:
        x = self.nb(self.b(self.na(self.a(x)).relu())).relu().mean((2, 3))
        return self.d(self.c(x).relu())


class Literal(nn.Module):
    """Its code holds a width as a number, so that one of its two groups cannot go."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.na = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.b, self.nb = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.na(self.a(x)).relu()
        x = self.nb(self.b(x)).relu()
        return self.fc(x.mean((2, 3)).view(len(x), 8))


INPUTS = proof.random_inputs((3, 8, 8), count=2)


def spec(**settings: object) -> CompressSpec:
    return CompressSpec(**{"round_to": 1, **settings})  # type: ignore[arg-type]


def slimmed(model: nn.Module, graph: Graph, spec: CompressSpec) -> Slimmed:
    asked = Selection(
        budget=spec.budget,
        widths=allowed_widths(spec),
        ranking="group-norm" if spec.ranking == "auto" else spec.ranking,
        scope=spec.scope,
        context=context(spec, None),
        inputs=INPUTS,
        keep=spec.keep,
        without_bn=spec.without_bn,
    )
    return asked.slim(model, graph)


def spread(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.1, 1.0)
            nn.init.normal_(module.bias, 0.0, 0.2)
    return model.eval()


def test_the_share_asked_for_is_removed_and_proven() -> None:
    model = spread(Two())
    found = slimmed(model, trace(model, INPUTS[0]), spec(ratio=0.5))
    assert found.mask.removed == 12
    assert found.error < proof.TOLERANCE
    assert found.failing == ()


def test_the_channels_with_the_smallest_gamma_go() -> None:
    model = spread(Two())
    with torch.no_grad():
        model.na.weight[[1, 4, 6]] = 1e-3  # type: ignore[operator]
    by_gamma = spec(ratio=3 / 18, ranking="gamma", scope="global", without_bn="keep")
    found = slimmed(model, trace(model, INPUTS[0]), by_gamma)
    group = found.graph.groups[0]
    assert (~found.mask.keep[group.members]).nonzero().flatten().tolist() == [1, 4, 6]


def test_units_without_batch_norm_lose_their_share_or_stay_on_request() -> None:
    model = spread(Two())
    graph = trace(model, INPUTS[0])
    without = next(g for g in graph.groups if not g.norms)
    found = slimmed(model, graph, spec(ratio=0.5))
    assert 0 < int((~found.mask.keep[without.members]).sum()) < len(without.members)
    kept = slimmed(model, graph, spec(ratio=0.5, without_bn="keep"))
    assert bool(kept.mask.keep[without.members].all())
    assert kept.mask.removed == 9  # half of the 18 that have one


def test_a_width_written_in_the_code_is_kept_and_named() -> None:
    model = spread(Literal())
    found = slimmed(model, trace(model, INPUTS[0]), spec(ratio=0.25))
    removed = found.mask.removed
    assert found.error < proof.TOLERANCE
    kept = [k for k in found.graph.kept if k.layer == "b"]
    assert found.failing == ("b",) or kept
    assert removed > 0
    assert found.model(INPUTS[0]).shape == (1, 4)


def test_a_budget_in_macs_is_met() -> None:
    model = spread(Two())
    graph = trace(model, INPUTS[0])
    full = graph.macs(torch.ones(graph.units, dtype=torch.bool))
    found = slimmed(model, graph, spec(max_macs=0.4))
    assert graph.macs(found.mask.keep) <= 0.4 * full


def test_a_budget_out_of_reach_is_refused_with_the_best() -> None:
    model = spread(Two())
    with pytest.raises(BudgetError, match="the smallest that the allowed widths reach"):
        slimmed(model, trace(model, INPUTS[0]), spec(max_macs=0.0001))


def test_nothing_removable_is_an_error_with_the_reason() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(MaskError, match="reaches the output"):
        slimmed(model, trace(model, INPUTS[0]), spec(ratio=0.5))


def test_without_batch_norm_gamma_says_what_to_rank_by() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 6), nn.ReLU(), nn.Linear(6, 4))
    graph = trace(model, INPUTS[0])
    with pytest.raises(MaskError, match="ranking='group-norm'"):
        slimmed(model, graph, spec(ratio=0.5, ranking="gamma"))
    found = slimmed(model, graph, spec(ratio=0.5))
    assert found.mask.removed == 3


def test_a_network_that_has_diverged_is_said_to_have() -> None:
    model = spread(Two())
    graph = trace(model, INPUTS[0])
    with torch.no_grad():
        for layer in (model.b, model.c, model.d):
            layer.weight.fill_(1e30)
    with pytest.raises(ProofError, match="not finite.*\n.*lower learning rate"):
        slimmed(model, graph, spec(ratio=0.5))
