"""A mask for a latency or an energy: chosen by the cost table, made, measured, corrected."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from math import log
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from slimkit.channels import Graph
from slimkit.errors import BudgetError, MaskError, OutOfReachError
from slimkit.example import Example
from slimkit.export import export_onnx
from slimkit.measure import energy, layer_table
from slimkit.measure.conditions import Conditions
from slimkit.measure.latency import Latency, measure
from slimkit.measure.layers import layers
from slimkit.progress import Progress, quiet
from slimkit.quantity import number_of, share
from slimkit.results import MeasuredBudget, RoundEntry
from slimkit.selection.budget import Widths, amount, blocks, nothing
from slimkit.selection.hint import hint
from slimkit.selection.mask import Mask
from slimkit.selection.measured.cost import join
from slimkit.selection.measured.knapsack import GroupCounts
from slimkit.selection.measured.problem import Aim, Problem
from slimkit.selection.measured.solve import Remove
from slimkit.settings import Budget

_CORRECTIONS, _MORE = 3, 8  # once a mask is near the target, and while all are far below or above it
_AIM, _CLOSER = 0.98, 0.99  # of the target, by the table and by measured masks: noise must not lift it above
_ENOUGH, _FAR = 0.98, 0.94  # of the target: closer from below needs no correction; below that, it needs some
_SECONDS, _NOISY_SECONDS = 2.0, 6.0  # a file and measurement


@dataclass
class LatencySolver:
    """Chooses masks for a latency or energy budget: a `slimkit.selection.choose.Chooser`.

    Attributes:
        dense: the network before removal.
        remove: (network, graph, mask) -> the smaller network: `slimkit.surgery.remove`.
        budget: of kind `latency` or `energy`.
        example: what it is called with.
        conditions: what the latency is of.
        table: file with the latency table of another machine, to aim at that machine.
        aim: what is wanted of a mask: the least loss of importance, or of scores that are losses and add up over units
            and groups, or the same share of every group.
        write: (network, path, example) -> the ONNX file that is timed, as a run delivers it.
        progress: called with what is being done, and the share done.
        rounds: of the last mask.
        original, target, reached: of the last mask, ms or mJ; `reached` as measured beside the original.
        loss, least_loss: importance that the last mask loses, and about the least that a mask as fast loses.
        where: what the last mask's times are of: processor, engine, threads, batch.
        by_table: they are those of a table that was made elsewhere, not measured.
        noisy: the machine was seen to be too noisy for wall times, so that another clock counts.
        notes: what a reader of the figures has to know.
        tables: the cost table, once it is made; copies of the solver share it.
        seen: the masks of this network that were measured so far; copies of the solver share them, and begin where
            another has ended.
    """

    dense: nn.Module
    remove: Remove
    budget: Budget
    example: Example
    conditions: Conditions = Conditions()
    table: str | None = None
    progress: Progress = quiet
    rounds: list[RoundEntry] = field(default_factory=list)
    original: float = 0.0
    target: float = 0.0
    reached: float = 0.0
    loss: float = 0.0
    least_loss: float = 0.0
    where: str = ""
    by_table: bool = False
    noisy: bool = False
    notes: list[str] = field(default_factory=list)
    aim: Aim = "importance"
    write: Callable[[nn.Module, Path, Example], object] = export_onnx
    tables: list[layer_table.LatencyTable] = field(default_factory=list)
    seen: list[RoundEntry] = field(default_factory=list)
    _hint: str = ""

    def __call__(self, graph: Graph, scores: Tensor, widths: Widths, fixed: Tensor) -> Mask:
        """Return the mask that loses least importance within the budget.

        Raises:
            BudgetError: the network is within it as it is.
            OutOfReachError: no mask reaches it; the message has the best that is reachable, and who holds it.
            EngineError: the latency table is another network's, engine's or thread count's.
        """
        self.rounds, self.notes, self.noisy = [], [], False
        with tempfile.TemporaryDirectory() as folder:
            dense = Path(folder, "dense.onnx")
            self.progress("exporting the network to time it", None)
            self.write(self.dense, dense, self.example)
            costs = self._table(dense)
            found = blocks(graph, scores, widths, fixed)
            if not found.groups:
                raise MaskError(nothing(graph, widths.fitted(graph)))
            allowed = widths.fitted(graph)
            self._hint = hint(allowed, less=allowed.step // 2)
            problem = Problem(graph, scores, found, join(graph, costs), self.aim)
            if self.by_table:
                counts = self._by_table(problem, costs)
            else:
                counts = self._by_measuring(problem, dense, Path(folder, "slim.onnx"))
        self.loss, self.least_loss = problem.loss(counts)
        return Mask(problem.keep(counts))

    def record(self) -> MeasuredBudget:
        """Return how the last mask meets the budget: ms or mJ."""
        return MeasuredBudget(
            kind="energy" if self.budget.kind == "energy" else "latency",
            asked=self.budget.asked,
            original=self.original,
            target=self.target,
            reached=self.reached,
            by_table=self.by_table,
            where=self.where,
            rounds=tuple(self.rounds),
            loss=self.loss,
            least_loss=self.least_loss,
            notes=tuple(self.notes),
        )

    def _table(self, dense: Path) -> layer_table.LatencyTable:
        """Return the cost table: one that was made elsewhere, or this machine's."""
        self.by_table = self.table is not None
        if not self.tables:
            self.tables.append(self._made(dense))
        costs = self.tables[0]
        threads = number_of(costs.threads, "thread")
        self.where = f"{costs.cpu}, {costs.engine}, {threads}, batch {costs.batch}"
        return costs

    def _made(self, dense: Path) -> layer_table.LatencyTable:
        if self.table is None:
            return layer_table.time_layers(dense, **self._conditions, progress=self.progress)
        costs = layer_table.load(self.table)
        layer_table.check_fits(costs, self.table, layers(dense), **self._conditions)
        return costs

    def _by_table(self, problem: Problem, costs: layer_table.LatencyTable) -> GroupCounts:
        """Return counts by a table of another machine: what they reach there cannot be measured here."""
        self._aim_from(costs.network_ms)
        counts, predicted = problem.solve(_AIM * self._goal)
        self.reached = predicted * self.original
        if predicted > self._goal:
            raise OutOfReachError(self._out_of_reach(problem, counts), self.reached / self.original)
        self.notes.append(
            f"That is by the table of {self.where}; the latency shown beside it was measured on this machine, "
            f"in {self.conditions.engine}."
        )
        if costs.clock == "cpu":
            self.notes.append("The machine of the table was too noisy for wall times: its times are CPU times.")
        return counts

    def _by_measuring(self, problem: Problem, dense: Path, slim: Path) -> GroupCounts:
        """Return counts whose network was measured to be within the budget, and as near to it as can be."""
        tried: dict[bytes, tuple[float, GroupCounts]] = {}  # counts as a key, share measured
        self._aim_from(self._value(self._measure([dense])[0]))
        asked = self._next_share() if self.seen else _AIM * self._goal
        for number in itertools.count():
            self.progress("choosing channels and measuring them", min(1.0, number / (1 + _CORRECTIONS)))
            counts, predicted = problem.solve(asked)
            again = counts.tobytes() in tried
            if not again:
                tried[counts.tobytes()] = self._try(problem, counts, predicted, dense, slim), counts
            share = tried[counts.tobytes()][0]
            met = [entry for entry in tried.values() if entry[0] <= self._goal]
            best = max((entry[0] for entry in met), default=0.0)
            last = again or number >= (_CORRECTIONS if best >= _FAR * self._goal else _MORE)
            near = _ENOUGH * self._goal <= share <= self._goal
            stuck = not met and bool(np.all(counts == problem.least))
            if near or stuck or (met and last):
                break
            asked = 0.9 * min(asked, predicted) if last else self._next_share()
        share, counts = max(met or tried.values(), key=lambda entry: entry[0] if met else -entry[0])
        self.reached = share * self.original
        if not met:
            raise OutOfReachError(self._out_of_reach(problem, counts), self.reached / self.original)
        return counts

    def _try(self, problem: Problem, counts: GroupCounts, predicted: float, dense: Path, slim: Path) -> float:
        """Make the network with these counts, measure it beside the dense one, and return its share."""
        smaller = self.remove(self.dense, problem.graph, Mask(problem.keep(counts)))
        self.write(smaller, slim, self.example)
        before, after = map(self._value, self._measure([dense, slim]))
        self._aim_from(before)
        self.rounds.append(RoundEntry(predicted=predicted, reached=after / before))
        self.seen.append(self.rounds[-1])
        return after / before

    def _next_share(self) -> float:
        """Return the share to ask of the table, through what was measured: real = a x predicted ^ power.

        Through the nearest below and the nearest above the target; through the two nearest where all are on one
        side, with a power of 0.5 at least: widths come in steps, so a slope of near neighbours says little.
        """
        aim = _CLOSER * self._goal
        near = sorted(self.rounds or self.seen, key=lambda entry: abs(log(entry.reached / aim)))
        first = near[0]
        across = [entry for entry in near if (entry.reached > aim) != (first.reached > aim)]
        power = 1.0
        for second in [*across, *near[1:]][:1]:
            if second.predicted != first.predicted:
                power = log(first.reached / second.reached) / log(first.predicted / second.predicted)
                power = min(max(power, 0.2 if across else 0.5), 5.0 if across else 3.0)
        return first.predicted * float((aim / first.reached) ** (1 / power))

    def _aim_from(self, original: float) -> None:
        """Set the target from what the original takes.

        Raises:
            BudgetError: the original is within the budget already.
        """
        budget = self.budget
        self.original = original
        self.target = budget.value if budget.absolute else budget.value * original
        if self.target >= original:
            raise BudgetError(
                f"max_{budget.kind} is {amount(self.target, budget.kind)}: the network already needs no more "
                f"than {amount(original, budget.kind)}, so nothing would be removed.\n  Lower the budget"
            )

    @property
    def _conditions(self) -> dict[str, Any]:
        return asdict(self.conditions)

    @property
    def _goal(self) -> float:
        return self.target / self.original

    def _measure(self, paths: list[Path]) -> list[Latency]:
        found = measure(paths, **self._conditions, seconds=_NOISY_SECONDS if self.noisy else _SECONDS)
        if not self.noisy and any(latency.noisy for latency in found):
            self.noisy = True
            self.notes.append(f"The machine was too noisy to time the network: the budget is met in {self._by(found)}.")
        return found

    def _by(self, found: list[Latency]) -> str:
        """Say by what a noisy machine is judged."""
        if self.budget.kind == "energy" and all(latency.energy_mj is not None for latency in found):
            return "the quieter half of the readings of its energy counter"
        of_cpu = self.budget.kind == "energy" or self.conditions.threads == 1
        return "CPU time of the process" if of_cpu else "the fastest of many runs"

    def _value(self, latency: Latency) -> float:
        """Return what the budget is about: ms or mJ; by another clock once the machine was seen to be noisy."""
        if self.budget.kind == "energy":
            return energy.per_inference(latency).value
        return replace(latency, noisy=self.noisy).typical_ms

    def _out_of_reach(self, problem: Problem, counts: GroupCounts) -> str:
        kind = self.budget.kind
        least = bool(np.all(counts == problem.least))
        how = "the smallest that the allowed widths reach" if least else "the nearest that was reached"
        return (
            f"max_{kind} is {amount(self.target, kind)} ({share(self._goal)} of the original): {how} is "
            f"{amount(self.reached, kind)} ({share(self.reached / self.original)}); most of it is held by "
            f"{', '.join(problem.holders(counts)[:3])}.\n"
            f"  Raise the budget{self._hint}"
        )
