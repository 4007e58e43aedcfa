"""What counts as evidence: faults that hide where two random images do not look, and outputs that say nothing."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from slimkit.channels import trace
from slimkit.errors import ProofError
from slimkit.selection.mask import Mask
from slimkit.surgery import proof
from slimkit.surgery.evidence import Evidence
from slimkit.surgery.prove import prove
from slimkit.surgery.trials import Trial
from tests.nets import randomise_

X = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Hides(nn.Module):
    """A number computed from a width, which surgery cannot follow, in a branch that is not always taken."""

    def __init__(self, how: Callable[["Hides", Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU())
        self.out, self.how = nn.Linear(64, 10), how
        randomise_(self)
        self.eval()

    def wrong(self, h: Tensor) -> Tensor:
        return h * (h.shape[1] / 64)

    def forward(self, x: Tensor) -> Any:
        return self.how(self, x, self.stem(x).mean((2, 3)))


def only_if(condition: Callable[[Tensor], bool]) -> Callable[[Hides, Tensor, Tensor], Any]:
    return lambda net, x, h: net.out(net.wrong(h) if condition(x) else h)


def boxes_beside_scores(net: Hides, x: Tensor, h: Tensor) -> Tensor:
    boxes = 640 * torch.sigmoid(net.out(h)[:, :4]) * torch.arange(1, 9)[:, None, None]  # [8, N, 4], in pixels
    scores = torch.sigmoid(net.out(net.wrong(h))[:, 4:]).expand(8, -1, -1)
    return torch.cat([boxes, scores], -1).transpose(0, 1)


def one_huge_output(net: Hides, x: Tensor, h: Tensor) -> Tensor:
    y = net.out(net.wrong(h))
    return torch.cat([y, 1e6 * net.out(h)[:, :1]], 1)


def saturated(net: Hides, x: Tensor, h: Tensor) -> Tensor:
    return torch.softmax(60 * net.out(net.wrong(h)), 1)


def rows_above_a_threshold(net: Hides, x: Tensor, h: Tensor) -> Tensor:
    y = net.out(net.wrong(h))
    return y[y.amax(1) > 12]


HIDDEN: dict[str, Callable[[Hides, Tensor, Tensor], Any]] = {
    "for pixels in 0..255": only_if(lambda x: bool(x.max() > 100)),
    "for large numbers": only_if(lambda x: bool(x.std() > 5)),
    "for a black image": only_if(lambda x: not bool(x.any())),
    "for another size": only_if(lambda x: x.shape[-1] > 16),
    "for a batch": only_if(lambda x: x.shape[0] > 2),
    "in scores beside boxes": boxes_beside_scores,
    "beside one huge output": one_huge_output,
    "behind a saturated softmax": saturated,
    "in rows above a threshold": rows_above_a_threshold,
}


@pytest.mark.parametrize("case", HIDDEN)
def test_a_fault_that_hides_is_found_and_its_group_kept(case: str) -> None:
    torch.manual_seed(1)
    net = Hides(HIDDEN[case])
    graph = trace(net, X)
    mask = Mask(torch.arange(graph.units) % 2 == 0)
    assert proof.evidence_for(net, graph, mask, proof.trials(X)).error > proof.TOLERANCE
    with pytest.raises(ProofError):
        prove(net, graph, lambda _: mask, [X])


def fully(net: nn.Module, example: Any = X, real: tuple[Any, ...] = ()) -> Evidence:
    """Hold a network against itself."""
    return proof.evidence(net, net, (*proof.trials(example), *(Trial("real data", one) for one in real)))


OUTPUTS: dict[str, tuple[Callable[[Tensor], Any], int]] = {  # of maps [N, 10, H, W]; channels
    "maps": (lambda maps: maps, 10),
    "one number an input": (lambda maps: maps.mean((1, 2, 3)), 1),
    "signals [N, 1, T]": (lambda maps: maps.mean(1).flatten(1)[:, None], 1),
    "positions in a row [N, T]": (lambda maps: maps.mean(1).flatten(1), 1),
    "words [N, T, C]": (lambda maps: maps.flatten(2).transpose(1, 2), 10),
    "boxes and classes of anchors": (lambda maps: (maps.flatten(2), maps[:, :4].flatten(2).transpose(1, 2)), 14),
}


@pytest.mark.parametrize("case", OUTPUTS)
def test_channels_of_outputs_are_no_positions_and_no_images(case: str) -> None:
    """What another size has more of, or another batch, is no channel of which nothing is known."""
    function, channels = OUTPUTS[case]

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Conv2d(3, 10, 3, stride=4)

        def forward(self, x: Tensor) -> Any:
            return function(self.body(x))

    found = fully(Net().eval())
    assert (found.channels, found.constant) == (channels, 0)


def test_the_record_says_what_was_shown_on_what() -> None:
    net = Hides(lambda net, x, h: net.out(h))
    found = fully(net, real=(torch.rand(5, 3, 16, 16),))
    assert found.error == 0 and found.proven
    assert found.on == (
        "as given", "normal, batch of 3", "uniform 0..255", "normal x10", "zeros", "another size", "real data",
    )  # fmt: skip
    assert [s.shapes for s in found.shown][-2:] == [((1, 3, 32, 32),), ((5, 3, 16, 16),)]
    assert (found.channels, found.constant, found.untouched, found.random, found.stateful) == (10, 0, (), False, False)
    record = found.to_dict()
    assert record["shown"][0] == {"kind": "as given", "shapes": [[1, 3, 16, 16]], "error": 0.0, "gaps": 0, "note": ""}


def test_parameters_that_no_run_reads_are_named() -> None:
    net = Hides(lambda net, x, h: net.out(h))
    net.aux = nn.Conv2d(3, 4, 1)  # of a branch that runs only in training
    assert fully(net).untouched == ("aux.weight", "aux.bias")


def test_random_and_stateful_networks_are_recognised_and_can_be_proven() -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.calls = Hides(lambda net, x, h: net.out(h)), 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return self.inner(x) * self.calls

    noisy = Hides(lambda net, x, h: net.out(h) + torch.rand(10))
    for net, random, stateful in ((noisy, True, False), (Counts(), False, True)):
        found = fully(net.eval())
        assert (found.error, found.random, found.stateful) == (0, random, stateful)


@pytest.mark.parametrize(
    "second",
    [lambda y: y / 0 + [].pop(), lambda y: (y, y), lambda y: y[:, :3]],
    ids=["raises", "gives more", "gives another shape"],
)
def test_a_network_whose_second_call_goes_another_way_remembers(second: Callable[[Tensor], Any]) -> None:
    class Once(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.called = Hides(lambda net, x, h: net.out(h)), False

        def forward(self, x: Tensor) -> Any:
            first, self.called = not self.called, True
            return self.inner(x) if first else second(self.inner(x))

    found = fully(Once().eval())
    assert (found.error, found.random, found.stateful) == (0, False, True)


def test_what_is_no_evidence_is_said() -> None:
    cases: dict[str, Callable[[Hides, Tensor, Tensor], Any]] = {
        "the output is empty": lambda net, x, h: net.out(h)[:0],
        "the output is constant": lambda net, x, h: 0 * net.out(h),
        "no number of the output is finite": lambda net, x, h: net.out(h) / 0 * 0,
    }
    for note, how in cases.items():
        found = fully(Hides(how))
        assert found.error == float("inf") and not found.on
        assert {s.note for s in found.shown} == {note}
    refuses = fully(Hides(lambda net, x, h: net.out(h) if x.shape[-1] == 16 else 1 / 0))
    assert refuses.error == 0 and "another size" not in refuses.on
    assert [s.note for s in refuses.shown if s.note] == [
        "the network does not run on it: ZeroDivisionError: division by zero"
    ]


def test_outputs_that_never_vary_are_tried_with_more_inputs_and_counted() -> None:
    net = Hides(lambda net, x, h: torch.cat([net.out(h), torch.ones(len(h), 2)], 1))
    found = fully(net)
    assert (found.channels, found.constant) == (12, 2) and found.proven
    assert [s.kind for s in found.shown].count("scaled and shifted") == 3


@pytest.mark.parametrize(
    ("how", "channels"),
    [
        (lambda net, x, h: 0 * net.out(h) + torch.arange(10), 10),
        (lambda net, x, h: (0 * net.out(h)).sum() + 3.0, 1),
        (lambda net, x, h: [0 * h.mean((0, 1)) + 2.0, 0 * net.out(h) + torch.arange(10)], 11),
    ],
    ids=["channels", "one number", "several tensors"],
)
def test_outputs_that_never_vary_prove_nothing_and_nothing_is_written(how: Any, channels: int) -> None:
    net = Hides(how)
    dead = fully(net)
    assert (dead.error, dead.constant, dead.channels, dead.proven) == (0, channels, channels, False)
    with pytest.raises(ProofError, match=f"all outputs of the one given, {channels}, are the same"):
        prove(net, trace(net, X), lambda _: Mask.full(trace(net, X)), [X])


def test_gaps_are_told_apart_from_a_difference_and_from_weights_that_diverged() -> None:
    def log(net: Hides, x: Tensor, h: Tensor) -> Tensor:
        return net.out(h).log()  # no number below 0

    found = fully(Hides(log))
    assert found.error == 0 and all(s.gaps for s in found.shown if s.error is not None)
    graph = trace(Hides(log), X)
    diverged = Hides(lambda net, x, h: net.out(h))
    with torch.no_grad():
        diverged.out.weight.fill_(float("nan"))
    for net, words in (
        (diverged, "weights have diverged"),
        (Hides(lambda net, x, h: net.out(h)[:0]), "no output says"),
    ):
        with pytest.raises(ProofError, match=words):
            prove(net, graph, lambda _: Mask.full(graph), [X])


def test_each_channel_is_held_against_its_own_spread() -> None:
    a = torch.randn(8, 5, 6) * torch.tensor([1e3, 1.0, 1.0, 1.0, 1.0, 1.0])
    b = a.clone()
    b[..., 3] += 0.01
    assert proof.relative_error(a, b) == pytest.approx(0.01 / float(a[..., 3].double().std()), rel=1e-3)
    still = torch.cat([a, torch.full((8, 5, 1), 1e3)], -1)  # a column that never changes, but for rounding
    assert proof.relative_error(still, still + 1e-4 * (still == 1e3)) < 1e-4
    assert proof.relative_error(still, still + 10.0 * (still == 1e3)) > 0.1


def test_rounding_is_told_from_a_difference_in_double_precision() -> None:
    class Offset(nn.Module):
        """Small differences on a large number: float32 cannot say whether they are right."""

        def __init__(self) -> None:
            super().__init__()
            self.stem, self.out = nn.Conv2d(3, 64, 1), nn.Conv2d(64, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return (self.out(self.stem(x)) * 1e-4 + 1e3) - 1e3

    net = Offset().eval()
    graph = trace(net, X)
    found = proof.evidence_for(net, graph, Mask(torch.arange(64) % 2 == 0), proof.trials(X))
    assert found.error <= proof.TOLERANCE
