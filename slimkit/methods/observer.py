"""Watches masks until they settle: the search of early-bird tickets, You et al. 2020, arXiv:1909.11957.

U = units of the graph. Departs from the released code: masks have an exact count and never empty a group;
gammas that do not move, or that tie at the cut, are no evidence of a settled mask; those that the penalty has brought
to zero are ranked by how long they have been there.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from slimkit.channels import Graph
from slimkit.errors import MaskError, SpecError
from slimkit.methods import settled as rules
from slimkit.methods.settled import Rule
from slimkit.selection import exact, ranking
from slimkit.selection.mask import Mask
from slimkit.selection.ranking import criterion as ranked_by
from slimkit.selection.scope import by_scope, fill_unranked, pools
from slimkit.settings import SCOPE

_EVEN = 1e-3  # gammas whose range is below this share of the largest are tied: they have not left their start
_DEAD = 1e-2  # gammas below this share of the largest are dead: what is left of them is the noise of SGD


@dataclass(frozen=True)
class Draw:
    """A mask that has settled, and the number of the observation (from 0) at which it had."""

    observation: int
    mask: Mask


@dataclass(frozen=True)
class Observation:
    """What one look at a network gave, per ratio: distance to the mask before, None where there is none."""

    distances: dict[float, float | None]
    evidence: bool


def check_ranked(graph: Graph, ranking: str) -> None:
    """Refuse a graph without what ranks its channels.

    Raises:
        MaskError: gammas rank them, and no channel has one.
        SpecError: the criterion is unknown, or needs data.
    """
    if ranked_by(ranking).needs == "data":
        raise SpecError(
            f"ranking is {ranking!r}: it needs data, and a mask is looked at without.\n"
            "  Leave it out, or give `ranking='group-norm'`"
        )
    if ranking == "gamma" and not bool(graph.has_norm.any()):
        raise MaskError(
            "no channel that can be removed has a BatchNorm, so there is no gamma to rank them by.\n"
            "  Use a network with BatchNorm, or rank channels by their weights: `ranking='group-norm'`"
        )


class EarlyBird:
    """Watches the masks that slimming would give during anybody's training, and says when they have settled.

    Attributes:
        graph: channels of the network that is trained.
        ratio: share of the removable units that the ticket lacks.
        rule: when a mask has settled.
        free: int64 [n], the units of groups that can lose some; distances and shares are of them.
        draws: what has settled so far, by ratio.
        observations: one entry a look.
    """

    def __init__(
        self,
        graph: Graph,
        ratio: float = 0.5,
        *,
        rule: Rule | str = "consecutive",
        watch: Sequence[float] = (),
        cap: float = 0.9,
        fixed: Tensor | None = None,
        ranking: str = "gamma",
        scope: str = SCOPE,
    ) -> None:
        """Begin to watch.

        Args:
            graph: of `slimkit.trace`, U units.
            ratio: share of the removable units to remove, in [0, 1).
            rule: a `Rule`, or the name of one with its published settings.
            watch: further ratios, at no further cost.
            cap: largest share of one group that may be removed, in (0, 1).
            fixed: bool [U], units that stay whatever their gamma.
            ranking: criterion of the masks, one that needs no data.
            scope: where channels compete, see `slimkit.selection.scope`.

        Raises:
            MaskError: nothing can be removed, or no unit has a BatchNorm.
            SpecError: the rule or the scope is unknown, or a number is out of range.
        """
        if not isinstance(graph, Graph):
            raise MaskError(f"graph is {type(graph).__name__}: it must be what `slimkit.trace` gives.")
        if not isinstance(watch, Sequence):
            raise SpecError(f"watch is {watch!r}: it must be a list of ratios.")
        for name, value, low in (("cap", cap, False), *(("ratio", r, True) for r in (ratio, *watch))):
            if not isinstance(value, (int, float)) or not (0 < value < 1 or (low and value == 0)):
                raise SpecError(f"{name} is {value!r}: it must be in {'[' if low else '('}0, 1).")
        if not isinstance(rule, (str, Rule)):
            raise SpecError(f"rule is {rule!r}: it must be the name of a rule, or a slimkit.methods.settled.Rule.")
        check_ranked(graph, ranking)
        self.graph, self.ratio = graph, ratio
        self.rule = Rule(rule) if isinstance(rule, str) else rule
        self.ratios = tuple(dict.fromkeys((ratio, *watch)))
        self.ranking, self.scope = ranking, scope
        self._limits = (cap, fixed)
        exact.masks(graph, torch.arange(graph.units).float(), self.ratios, cap, fixed)  # all within reach?
        self._groups = exact.movable(graph, cap, fixed)
        self.free = torch.cat(self._groups)
        ranked = torch.zeros(graph.units, dtype=torch.bool)
        ranked[self.free] = graph.has_norm[self.free] if ranking == "gamma" else True
        self._pools = [units[ranked[units]] for units in pools(graph, scope)]
        self._recent = {r: deque[Mask](maxlen=rules.needed(self.rule)) for r in self.ratios}
        # Where every group loses the same share, widths cannot change: that they agree is no evidence.
        self._fixed_widths = self.rule.name == "architecture" and scope == "group"
        self._last: Tensor | None = None
        self._dead: Tensor | None = None  # rank among the dead, NaN for the living, [U]
        self.draws: dict[float, Draw] = {}
        self.observations: list[Observation] = []

    def __repr__(self) -> str:
        state = "settled" if self.ratio in self.draws else "not settled"
        return f"EarlyBird(ratio={self.ratio}, rule={self.rule.name!r}, {state} in {len(self.observations)} looks)"

    @property
    def mask(self) -> Mask:
        """The ticket of `ratio`.

        Raises:
            MaskError: it has not settled yet.
        """
        if self.ratio not in self.draws:
            raise MaskError(
                f"no mask has settled in {len(self.observations)} observations.\n"
                "  Call `observe` until it returns True, or take `bird.latest`"
            )
        return self.draws[self.ratio].mask

    @property
    def latest(self) -> Mask:
        """The newest mask of `ratio`, settled or not."""
        if not self._recent[self.ratio]:
            raise MaskError("nothing has been observed yet.\n  Call `observe` once an epoch")
        return self.newest(self.ratio)

    def newest(self, ratio: float) -> Mask:
        """The newest mask of one of the ratios watched."""
        return self._recent[ratio][-1]

    def observe(self, model: nn.Module) -> bool:
        """Look at the network; call it once every `rule.interval` epochs.

        Args:
            model: the network that `graph` was traced from, also compiled or wrapped; read only.

        Returns:
            True once the mask of `ratio` has settled; the mask is then in `mask` and stays.
        """
        scores = self.scores(model)
        ranks = self._bury(scores) if self.ranking == "gamma" else scores
        competing = by_scope(self.graph, ranks, self.scope)
        masks = exact.masks(self.graph, competing, self.ratios, *self._limits)
        free = scores[self.free]
        moved = self._last is None or float((free != self._last[self.free]).float().mean()) > 0.5
        spread = float(free.max() - free.min()) > _EVEN * float(free.abs().max())
        self._last = scores
        distances: dict[float, float | None] = {}
        for ratio, mask in masks.items():
            recent = self._recent[ratio]
            undecided = sum(exact.undecided(ranks, mask, units) for units in self._pools) / len(free)
            if not (moved and spread) or undecided > self.rule.calibrated or self._fixed_widths:
                recent.clear()
            before = recent[-1] if recent else None
            recent.append(mask)
            distances[ratio] = None if before is None else self._between((before, mask))[-1]
            if ratio not in self.draws and self._settled(recent):
                self.draws[ratio] = Draw(len(self.observations), mask)
        self.observations.append(Observation(distances, moved and spread))
        return self.ratio in self.draws

    def scores(self, model: nn.Module) -> Tensor:
        """Return what ranks the units, [U]; one without BatchNorm takes the quantile of its weights' norm."""
        scores = ranking.scores(self.ranking, model, self.graph)
        if bool(scores.isnan().any()):
            scores = fill_unranked(scores, ranking.scores("group-norm", model, self.graph))
        return scores

    def _settled(self, recent: deque[Mask]) -> bool:
        """Tell whether masks agree: the last few by the rule, and where looks are close over `SPAN` epochs too."""
        last = list(recent)[-rules.compared(self.rule) :]
        if len(recent) < rules.needed(self.rule) or not rules.settled(self.rule, self._between(last)):
            return False
        return self.rule.interval >= 1 or self._between((recent[0], recent[-1]))[-1] < self.rule.threshold

    def _bury(self, scores: Tensor) -> Tensor:
        """Let dead units keep their order, the longest dead first, below all others.

        Where more units are dead than a ratio removes, the cut lies among them. Their gammas swing about zero by
        a step's length, so that a mask ranked by them would never settle, though all that it could lose does
        nothing: at p = 0.3 masks a hundred steps apart differed on 0.3 of a ResNet-20's channels.
        """
        top = float(scores.max())
        dead = scores < _DEAD * top
        before = torch.full_like(scores, torch.nan) if self._dead is None else self._dead
        rank = torch.where(before.isnan(), scores / (top or 1) - 1, before - 1)
        self._dead = torch.where(dead, rank, torch.nan)
        return torch.where(dead, rank, scores)

    def _between(self, masks: Sequence[Mask]) -> list[float]:
        found = rules.RULES[self.rule.name](masks, self._groups)
        expected = rules.chance(self.rule, masks[-1], self._groups)
        return [d / expected for d in found] if self.rule.normalised and expected > 0 else found

    def state(self) -> dict[str, Any]:
        """Return tensors, numbers, lists and dicts: what `restore` needs to go on."""
        return {
            "ratio": self.ratio,
            "last": self._last,
            "dead": self._dead,
            "recent": {str(r): [mask.keep for mask in masks] for r, masks in self._recent.items()},
            "draws": {str(r): [draw.observation, draw.mask.keep] for r, draw in self.draws.items()},
            "observations": [
                [{str(r): d for r, d in seen.distances.items()}, seen.evidence] for seen in self.observations
            ],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave, with its ratios: one that follows a measured budget may be another now.

        Raises:
            MaskError: it is of another graph.
        """
        sizes = {len(keep) for masks in state["recent"].values() for keep in masks} - {self.graph.units}
        if sizes:
            raise MaskError(
                f"the state is of a graph of {sizes.pop()} units, and this one has {self.graph.units}.\n"
                "  Restore it on a graph of the same network"
            )
        self._last, self._dead, self.ratio = state["last"], state["dead"], state["ratio"]
        self.ratios = tuple(map(float, state["recent"]))
        self._recent = {r: deque[Mask](maxlen=rules.needed(self.rule)) for r in self.ratios}
        for ratio, masks in state["recent"].items():
            self._recent[float(ratio)].extend(Mask(keep) for keep in masks)
        self.draws = {float(r): Draw(number, Mask(keep)) for r, (number, keep) in state["draws"].items()}
        self.observations = [
            Observation({float(r): d for r, d in distances.items()}, evidence)
            for distances, evidence in state["observations"]
        ]
