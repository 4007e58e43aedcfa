"""Which arm is better than which, and how sure that is: paired differences over seeds, with Student's intervals."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from slimkit.results.study import Arm

CONFIDENCE = 0.95
_MOST_SEEDS = 1000
BETTER, WORSE, SAME, ONE = "better", "worse", "no difference at this many seeds", "one seed: nothing can be told"
MORE, LESS = "better, for more", "worse, for less"
_APART = 1.05  # what is made equal came within 1.034 of it in the studies of this repository


@dataclass(frozen=True)
class Mean:
    """A mean over seeds, and its interval; None where there is one seed only."""

    value: float
    interval: tuple[float, float] | None
    seeds: int


@dataclass(frozen=True)
class Difference:
    """An arm against another of the same budget, seed by seed, on test.

    Attributes:
        arm, against: their names.
        budget: of the arm.
        mean: arm minus other, in the unit of the metric, with its interval; of shares in [-1, 1].
        verdict: `better` or `worse`; `better, for more` where it has more of anything that is unequal; `worse, for
            less` where it has only less; or that the interval holds zero.
        more: how many more seeds it would take to tell, if difference and spread stayed as they are; None where it
            is told already, or would take more than a thousand.
        unequal: `macs` and `params` of the network and `cost` of its training, where they are more than 5 % apart:
            those of the arm over those of the other, means over seeds.
    """

    arm: str
    against: str
    budget: str
    mean: Mean
    verdict: str
    more: int | None
    unequal: Mapping[str, float]


def student(values: Sequence[float], least: float = 0.0) -> Mean:
    """Return the mean of independent values and its interval by Student's t (two-sided, 95 %).

    Args:
        values: one a seed.
        least: standard deviation that is assumed at least, of values that come in steps: few of them may be equal
            by chance.
    """
    mean = statistics.fmean(values)
    if len(values) < 2:
        return Mean(mean, None, len(values))
    half = _half(max(statistics.stdev(values), least), len(values))
    return Mean(mean, (mean - half, mean + half), len(values))


def difference(arms: Sequence[Arm], others: Sequence[Arm]) -> Difference | None:
    """Compare the trainings of one arm with those of another of the same seeds; None where no seed has both."""
    theirs = {other.seed: other for other in others}
    pairs = [(arm, theirs[arm.seed]) for arm in arms if arm.seed in theirs]
    if not pairs:
        return None
    one, other = pairs[0]
    values = [mine.test.value - their.test.value for mine, their in pairs]
    step = step_of(one)
    mean = student(values, step)
    unequal = _unequal(pairs)
    verdict = _verdict(mean, one.better, unequal)
    return Difference(one.arm, other.arm, one.budget, mean, verdict, _more(values, step, mean), unequal)


# What an arm may have more of than another, by its name in `Difference.unequal`: what it is called, and how much.
SPENT: dict[str, tuple[str, Callable[[Arm], float]]] = {
    "macs": ("multiply-adds", lambda arm: arm.macs),
    "params": ("parameters", lambda arm: arm.params),
    "cost": ("training", lambda arm: arm.spent.dense_trainings),
}


def _unequal(pairs: Sequence[tuple[Arm, Arm]]) -> dict[str, float]:
    found = {
        name: statistics.fmean(of(mine) / of(their) for mine, their in pairs)
        for name, (_, of) in SPENT.items()
        if all(of(their) for _, their in pairs)
    }
    return {name: share for name, share in found.items() if not 1 / _APART <= share <= _APART}


def step_of(arm: Arm) -> float:
    """Return the least that a metric can differ by: one image, where each is right or wrong; else nothing is known."""
    return 1 / arm.test.images if arm.test.right is not None and arm.test.images else 0.0


def differences(arms: Sequence[Arm], against: Sequence[str]) -> list[Difference]:
    """Compare every arm with each of some others, at every budget, in the order of the arms."""
    found = []
    groups = grouped(arms)
    for (name, budget), own in groups.items():
        for other in against:
            theirs = groups.get((other, budget)) or groups.get((other, ""))
            if other != name and theirs and (made := difference(own, theirs)):
                found.append(made)
    return found


def grouped(arms: Sequence[Arm]) -> dict[tuple[str, str], list[Arm]]:
    """Return the trainings of every arm at every budget: (arm, budget) -> one a seed."""
    found: dict[tuple[str, str], list[Arm]] = {}
    for arm in arms:
        found.setdefault((arm.arm, arm.budget), []).append(arm)
    return found


_OPPONENTS = (
    "uniform", "uniform-params", "random-channels", "permuted", "scratch-E", "scratch-B", "scratch-B-strict",
    "fine-tune", "dense",
)  # fmt: skip


def opponents(arms: Sequence[Arm]) -> list[str]:
    """Return whom to compare with: the controls that are there, uniform widths first; else the first arm."""
    names = list(dict.fromkeys(arm.arm for arm in arms))
    return [name for name in _OPPONENTS if name in names] or names[:1]


def _verdict(mean: Mean, better: str, unequal: Mapping[str, float]) -> str:
    if mean.interval is None:
        return ONE
    low, high = mean.interval
    if low <= 0 <= high:
        return SAME
    more = any(share > 1 for share in unequal.values())
    if (mean.value > 0) == (better == "higher"):
        return MORE if more else BETTER
    return LESS if unequal and not more else WORSE


def _more(values: Sequence[float], least: float, mean: Mean) -> int | None:
    if mean.interval is None or not mean.interval[0] <= 0 <= mean.interval[1] or mean.value == 0:
        return None
    spread = max(statistics.stdev(values), least)
    wanted = range(len(values) + 1, len(values) + _MOST_SEEDS + 1)
    return next((count - len(values) for count in wanted if _half(spread, count) < abs(mean.value)), None)


def _half(spread: float, count: int) -> float:
    from scipy.stats import t  # imports half a second of others

    return float(t.ppf((1 + CONFIDENCE) / 2, count - 1)) * spread / math.sqrt(count)
