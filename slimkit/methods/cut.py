"""Cut a network in the middle of its training: choose, remove, prove, fold constants, measure statistics."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from slimkit import data, provenance, recovery, training
from slimkit.channels import Graph
from slimkit.hardware import on_device
from slimkit.measure.quality import quality
from slimkit.methods.job import Choose, Job
from slimkit.modules import copied
from slimkit.recovery import fold
from slimkit.results import AfterCut, Gammas, MeasuredBudget
from slimkit.selection import counted
from slimkit.selection.mask import Mask
from slimkit.surgery import rows
from slimkit.surgery.evidence import Evidence, Shown
from slimkit.surgery.prove import Slimmed
from slimkit.surgery.remove import remove
from slimkit.training.penalty import gammas

FOLD_BATCHES, STATISTICS_BATCHES = 4, 20


@dataclass(frozen=True)
class Cut:
    """A network made smaller.

    Attributes:
        slimmed: the smaller network, weights inherited, and how it came about.
        sizes: what a penalty on gamma acts on, |gamma| of the network before the cut, [n].
        norms: what a penalty on groups acts on, norms of units, 1 where training begins, [U].
        after: how good it was right after the cut.
        gammas: histograms of |gamma| before and after, for the report.
        budget: how the mask meets a measured budget, for the report.
    """

    slimmed: Slimmed
    sizes: Tensor
    norms: Tensor
    after: AfterCut
    gammas: Gammas | None
    budget: MeasuredBudget | None

    @property
    def model(self) -> nn.Module:
        """The smaller network, weights inherited."""
        return self.slimmed.model

    @property
    def mask(self) -> Mask:
        """What stayed."""
        return self.slimmed.mask

    def state(self) -> dict[str, Any]:
        """Return all but the network, as `restored` takes it."""
        made = self.slimmed
        return {
            "keep": made.mask.keep,
            "fixed": made.fixed,
            "evidence": made.evidence.to_dict(),
            "failing": list(made.failing),
            "sizes": self.sizes,
            "norms": self.norms,
            "after": self.after.to_dict(),
            "gammas": self.gammas and self.gammas.to_dict(),
            "budget": self.budget and self.budget.to_dict(),
        }


def restored(state: dict[str, Any], dense: nn.Module, graph: Graph) -> Cut:
    """Return the cut that `state` is of, its weights those of a dense network at hand."""
    mask = Mask(state["keep"])
    small, failing = remove(dense, graph, mask), tuple(state["failing"])
    made = Slimmed(small, graph, mask, state["fixed"], evidence_of(state["evidence"]), failing)
    histograms, budget = state["gammas"], state["budget"]
    return Cut(
        made,
        state["sizes"],
        state["norms"],
        AfterCut.from_dict(state["after"]),
        Gammas.from_dict(histograms) if histograms else None,
        MeasuredBudget.from_dict(budget) if budget else None,
    )


def cut(job: Job, dense: nn.Module, graph: Graph, choose: Choose | None = None, inherit: bool = True) -> Cut:
    """Cut a network on the CPU, in eval mode.

    Args:
        job: what is known of the run.
        dense: the network; untouched but for its provenance.
        graph: its channels.
        choose: chooses the mask; as the run asks for it unless given.
        inherit: the small network goes on with these weights, so that folding constants is of use.
    """
    job.progress("removing channels and proving it", None)
    provenance.attach(dense, provenance.of(job.dense) if graph is job.graph else provenance.of(dense))
    made = job.selection.slim(dense, graph, choose, untrained=dense is job.dense)
    return settle(job, dense, made, fold_constants=job.selection.fold and inherit)


def settle(job: Job, dense: nn.Module, made: Slimmed, fold_constants: bool) -> Cut:
    """Fold the constants of what was removed, measure BatchNorm's statistics anew, and the accuracy."""
    dataset, graph, small, seed = job.dataset, made.graph, made.model, job.recipe.seed
    counted.check(job.selection.budget, job.graph, graph, made.mask, small, job.example)
    histograms = rows.gammas(dense, small)
    if fold_constants:
        batches = [images for images, _ in data.some(dataset.train, 128, FOLD_BATCHES, seed)]
        means = fold.input_means(on_device(dense, job.device), graph, made.mask, batches, measured=True)
        fold.fold_(small, dense, graph, made.mask, means)
    recovery.reestimate(small, dataset.train, batches=STATISTICS_BATCHES, seed=seed, device=job.device)
    after = AfterCut(
        constants="fold" if fold_constants else "zero",
        batch_norm="re-estimated",
        accuracy=quality(small, dataset.validation, dataset.task, device=job.device),
    )
    sizes = torch.cat([gamma.detach().abs() for _, gamma in gammas(dense)] or [torch.zeros(1)])
    norms = training.unit_norms(dense, graph) / graph.coupled.tensors[:-1].sqrt() if graph.units else torch.zeros(1)
    return Cut(
        made, sizes, norms, after, histograms, job.selection.measured.record() if job.selection.measured else None
    )


def evidence_of(state: dict[str, Any]) -> Evidence:
    """Return the evidence that `to_dict` made plain."""
    shown = (one | {"shapes": tuple(map(tuple, one["shapes"]))} for one in state["shown"])
    return Evidence(
        shown=tuple(Shown(**one) for one in shown),
        untouched=tuple(state["untouched"]),
        constant=state["constant"],
        channels=state["channels"],
        random=state["random"],
        stateful=state["stateful"],
    )


def all_shown(found: Sequence[Evidence]) -> Evidence:
    """Return what several proofs, one after the other, have shown together."""
    return replace(found[-1], shown=tuple(shown for one in found for shown in one.shown))


def begun(job: Job, mask: Mask, init: str, weights: dict[str, Any] | None) -> nn.Module | None:
    """Return a small network with fresh weights or those to rewind to; None where it inherits what it has.

    Args:
        job: what is known of the run.
        mask: over the dense network.
        init: `inherit`, `rewind` or `fresh`.
        weights: of the dense network, to rewind to.
    """
    if init == "fresh":
        return remove(job.fresh(), job.graph, mask)
    if init == "rewind" and weights is not None:
        dense = copied(job.dense)
        dense.load_state_dict(weights)
        return remove(dense, job.graph, mask)
    return None


def named(model: nn.Module, like: nn.Module) -> nn.Module:
    """Let a trained network be known as what it was cut from."""
    provenance.attach(model, provenance.of(like))
    return model
