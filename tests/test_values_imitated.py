"""Retraining without labels: outputs that are no scores of one class are imitated as values, or left as they were."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import slimkit
from slimkit import data
from slimkit.example import are_labels, are_mostly_no
from slimkit.measure.agreement import agreement
from tests.test_values import network

SOME = torch.randn(256, 6, generator=torch.Generator().manual_seed(0))
CENTRED = SOME - SOME.mean(1, keepdim=True)
TWO_OF_SIX = torch.where(SOME.topk(2, 1).values[:, 1:] <= SOME, 4, -4) + SOME  # which compete, as classes do
ONE_OF_SIX = 8 * nn.functional.one_hot(SOME.argmax(1), 6) - 6 + SOME


@pytest.mark.parametrize(
    ("rows", "labels"),
    [
        (CENTRED, False),
        (CENTRED * 20, False),
        (CENTRED * 4 - 3, False),  # Adam moves the mean of all classes
        (CENTRED * 4 + 3, False),
        (SOME * 4, True),  # each on its own
        (SOME * 4 - 3, True),
        (TWO_OF_SIX, True),  # hardly any is in doubt
        (ONE_OF_SIX, False),
        ((CENTRED * 3).log_softmax(1), False),  # of one class, in other forms
        ((CENTRED * 3).softmax(1), False),
        ((SOME * 4 - 3).sigmoid(), True),
        (TWO_OF_SIX.sigmoid(), True),
        (torch.zeros(8, 4), False),
        (torch.zeros(0, 4), False),
        (torch.full((8, 4), torch.nan), False),
    ],
)
def test_what_labels_are(rows: Tensor, labels: bool) -> None:
    assert are_labels(rows) is labels
    if labels:
        assert agreement(nn.Identity(), nn.Identity(), [rows]) is None


def test_one_class_by_sigmoids_is_mostly_no_and_yet_a_class() -> None:
    for rows in (ONE_OF_SIX, ONE_OF_SIX.sigmoid(), (SOME * 2 - 4)):
        assert are_mostly_no(rows)
    for rows in (CENTRED, CENTRED * 4 - 3, (CENTRED * 3).log_softmax(1), (CENTRED * 3).softmax(1), torch.zeros(8, 4)):
        assert not are_mostly_no(rows)
    assert agreement(nn.Identity(), nn.Identity(), [ONE_OF_SIX]) is not None


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": partial(torch.optim.SGD, lr=0.05, momentum=0.9),
    "adam": partial(torch.optim.Adam, lr=3e-3),
    "adamw": partial(torch.optim.AdamW, lr=5e-3, weight_decay=0.05),
    "rmsprop": partial(torch.optim.RMSprop, lr=2e-3),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_classifier_is_one_whatever_trained_it(optimizer: str) -> None:
    """Adam gives each weight a step of its own, and so moves the mean of all scores, which softmax balances."""
    [(images, classes)] = data.open("digits").train.batches(2000)
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(), nn.Conv2d(24, 32, 3, stride=2),
        nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip
    steps = OPTIMIZERS[optimizer](net.parameters())
    for _ in range(12):
        for some in torch.randperm(len(images)).split(64):
            steps.zero_grad()
            nn.functional.cross_entropy(net(images[some]), classes[some]).backward()
            steps.step()
    net.eval()
    with torch.no_grad():
        scores = net(images)
    assert not are_labels(scores) and not are_mostly_no(scores)
    assert agreement(net, net, [images]) is not None


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


@pytest.mark.parametrize("inputs", [24, 256])
def test_what_leads_away_on_the_very_inputs_is_not_delivered(inputs: int) -> None:
    """Of a few inputs none is held out: what is further from the original on its own is no gain anywhere."""
    net, images = network()
    made = slimkit.compress(net, images[:1], 0.4, calibration=images[:inputs], epochs=2, learning_rate=0.4)
    assert made.report.recovery is not None and not made.report.recovery.delivered


def test_a_retraining_without_labels_that_diverges_costs_nothing_but_itself() -> None:
    net, images = network()
    fitted = slimkit.compress(net, images[:1], 0.4, calibration=images, epochs=0).model.state_dict()
    made = slimkit.compress(net, images[:1], 0.4, calibration=images, epochs=2, learning_rate=1e38)
    assert any(said.startswith("Not retrained: the loss is") for said in made.report.warnings)
    assert all(torch.equal(tensor, fitted[name]) for name, tensor in made.model.state_dict().items())


class Levels(nn.Module):
    """A head on two levels; `form` nests what it returns."""

    def __init__(self, form: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.body = network()[0][:6]
        self.head, self.form = nn.Conv2d(12, 5, 1), form

    def forward(self, x: Tensor) -> Any:
        x = self.body(x)
        return self.form(self.head(x), self.head(x[:, :, ::2]))


@dataclass
class Found:
    maps: tuple[Tensor, ...]


FORMS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "a list of tuples": lambda a, b: [(a, b), (b, a)],
    "a list of dicts": lambda a, b: [{"a": a}, {"b": b}],
    "a dict of tuples": lambda a, b: {"levels": (a, b)},
    "a dataclass of a tuple": lambda a, b: Found((a, b)),
    "one number an input": lambda a, b: a.mean((1, 2, 3)),
    "classes and one number an input": lambda a, b: (a.mean((2, 3)), b.mean((1, 2, 3))),
}


@pytest.mark.parametrize("form", FORMS)
def test_outputs_of_any_form_are_imitated(form: str) -> None:
    images = network()[1]
    net = Levels(FORMS[form]).eval()
    made = slimkit.compress(net, images[:1], 0.4, calibration=images[:128], epochs=1)
    assert made.report.recovery is not None and made.report.recovery.images
    assert made.report.proof.error < 1e-4
