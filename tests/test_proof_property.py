"""Planted faults of surgery: the share that the proof sees is all of those that change the function."""

import random
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import nn

from slimkit.channels import trace
from slimkit.example import mapped
from slimkit.surgery import proof
from slimkit.surgery.difference import relative_error
from slimkit.surgery.remove import remove
from tests.blocks import ACROSS, BLOCKS
from tests.nets import HEADS, example, random_net
from tests.planted import FAULTS
from tests.test_channels_property import random_mask

FIRST = sorted(BLOCKS)
SEEN = 1e-3  # a fault that changes no output by more than this of its spread is none


def case(seed: int, names: Sequence[str] = FIRST) -> tuple[nn.Module, nn.Module, object]:
    """Return a masked network of some of the blocks named, the smaller one, and an example, in float32."""
    choose = random.Random(seed)
    blocks = [(choose.choice(names), choose.randint(2, 6)) for _ in range(choose.randint(1, 3))]
    net = random_net(blocks, choose.choice(HEADS), seed=seed).float()
    given = mapped(example(net, 1), lambda t: t.float())
    graph = trace(net, given)
    mask = random_mask(graph, seed)
    return proof.masked(net, graph, mask), remove(net, graph, mask), given


def changes(masked: nn.Module, slim: nn.Module, given: object) -> bool:
    """Tell, by many inputs in double precision, whether two networks compute different functions."""
    masked, slim = masked.double(), slim.double()
    normal = mapped(given, lambda t: torch.randn(16, *t.shape[1:], dtype=torch.float64))
    for probe in (normal, mapped(normal, lambda t: 127 + 80 * t)):
        if relative_error(*(proof.outputs(net, [probe])[0] for net in (masked, slim))) > SEEN:
            return True
    return False


def planted(seeds: range, names: Sequence[str] = FIRST) -> dict[str, tuple[int, int]]:
    """Return, per kind of fault, how many changed the function, and how many of those were seen."""
    found = dict.fromkeys(FAULTS, (0, 0))
    for seed in seeds:
        name = list(FAULTS)[seed % len(FAULTS)]
        masked, slim, given = case(seed, names)
        with torch.no_grad():
            if not FAULTS[name](slim, torch.Generator().manual_seed(seed)):
                continue
        seen = not proof.evidence(masked, slim, proof.trials(given)).proven
        if seen or changes(masked, slim, given):
            made, caught = found[name]
            found[name] = (made + 1, caught + seen)
    return found


def test_planted_faults_are_seen() -> None:
    found = planted(range(60))
    assert sum(made for made, _ in found.values()) > 40
    assert all(made == caught for made, caught in found.values()), found


@pytest.mark.long
def test_planted_faults_are_seen_behind_statistics_across_channels() -> None:
    found = planted(range(60), sorted(ACROSS))
    assert sum(made for made, _ in found.values()) > 40
    assert all(made == caught for made, caught in found.values()), found


@pytest.mark.planted
def test_five_hundred_planted_faults_are_seen() -> None:
    found = planted(range(500))
    made, caught = (sum(column) for column in zip(*found.values(), strict=True))
    assert made > 350 and caught == made, found


@pytest.mark.slow
def test_ten_thousand_planted_faults_are_seen(record_property: Callable[[str, object], None]) -> None:
    found = planted(range(10_000))
    made, caught = (sum(column) for column in zip(*found.values(), strict=True))
    record_property("share", caught / made)
    assert made > 7_000 and caught == made, found


@pytest.mark.parametrize("seed", [561, 595, 1941])
def test_a_fault_in_a_nearly_dead_network_is_seen(seed: int) -> None:
    """Few images of few pixels leave its channels asleep."""
    found = planted(range(seed, seed + 1))
    assert (1, 1) in found.values(), found


def test_right_surgery_passes() -> None:
    for seed in range(1_000, 1_030):
        masked, slim, given = case(seed)
        found = proof.evidence(masked, slim, proof.trials(given))
        assert found.error <= proof.TOLERANCE, (seed, found)
