"""Retraining without labels: outputs that are no scores of one class are imitated as values, or left as they were."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import slimkit
from slimkit.example import are_labels, have_several
from slimkit.measure.quality import agreement
from tests.test_values import network

SOME = torch.randn(256, 6, generator=torch.Generator().manual_seed(0))
CENTRED = SOME - SOME.mean(1, keepdim=True)


@pytest.mark.parametrize(
    ("rows", "labels"),
    [
        (CENTRED, False),  # training by softmax moves no sum
        (CENTRED * 20, False),
        (CENTRED + 0.1, False),
        (CENTRED * 4 - 3, True),  # most answers are no
        (CENTRED * 4 + 3, True),
        (SOME * 4, True),  # half of them, each on its own
        ((CENTRED * 3).log_softmax(1), False),  # of one class, in other forms
        ((CENTRED * 3).softmax(1), False),
        ((CENTRED * 4 - 3).sigmoid(), True),
        (torch.zeros(8, 4), False),
        (torch.zeros(0, 4), False),
        (torch.full((8, 4), torch.nan), False),
    ],
)
def test_what_labels_are(rows: Tensor, labels: bool) -> None:
    assert are_labels(rows) is labels


def test_logits_of_several_labels_agree_on_no_class_but_those_of_one_by_sigmoids_do() -> None:
    several, one = SOME * 4 - 1, 8 * nn.functional.one_hot(SOME.argmax(1), 6) - 4.0
    assert are_labels(several) and are_labels(one)
    assert have_several(several) and not have_several(one)
    assert agreement(nn.Identity(), nn.Identity(), [several]) is None
    assert agreement(nn.Identity(), nn.Identity(), [one]) is not None


class Maps(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = network()[0][:-2]

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x)
        return out[:, :3]


OUTPUTS: dict[str, Callable[[nn.Sequential], nn.Module]] = {
    "values": lambda net: net,
    "maps of values": lambda net: Maps().eval(),
    "labels": lambda net: nn.Sequential(*net, _Shift(-2.0)).eval(),
    "one value": lambda net: nn.Sequential(*net, nn.Linear(4, 1)).eval(),
}


class _Shift(nn.Module):
    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = by

    def forward(self, x: Tensor) -> Tensor:
        return x + self.by


@pytest.mark.parametrize(
    ("case", "share"), [("values", 1), ("maps of values", 0.95), ("labels", 1), ("one value", 0.95)]
)
def test_retraining_without_labels_leads_no_values_away(case: str, share: float) -> None:
    """As scores of classes they all were left 1.08 to 1.2 times as far from the original."""
    net, _ = network()
    net = OUTPUTS[case](net)
    images, fresh = torch.randn(1024, 2, 8, 8), torch.randn(256, 2, 8, 8)

    def error(epochs: float) -> float:
        made = slimkit.compress(net, images[:1], 0.4, calibration=images, epochs=epochs)
        with torch.no_grad():
            return float((made.model(fresh) - net(fresh)).square().mean())

    assert error(10) <= share * error(0)


def test_a_retraining_without_labels_that_leads_away_is_not_delivered() -> None:
    net, images = network()
    made = slimkit.compress(net, images[:1], 0.4, calibration=images, epochs=1, learning_rate=0.4)
    fitted = slimkit.compress(net, images[:1], 0.4, calibration=images, epochs=0)
    assert made.report.recovery is not None and not made.report.recovery.delivered
    assert any("further from the original" in said for said in made.report.warnings)
    state, expected = made.model.state_dict(), fitted.model.state_dict()
    assert all(torch.equal(state[name], expected[name]) for name in expected)
