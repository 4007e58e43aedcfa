"""Cut a network in the middle of its training: choose, remove, prove, fold constants, measure statistics."""

from collections.abc import Callable
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from slimkit import provenance, recovery, training
from slimkit.channels import Graph
from slimkit.measure import accuracy
from slimkit.methods.job import Job
from slimkit.methods.shrink import Cut
from slimkit.recovery import fold
from slimkit.results import records
from slimkit.runs import start
from slimkit.surgery.prove import Slimmed
from slimkit.training.penalty import gammas, has_gap, share_near_zero

FOLD_BATCHES, STATISTICS_BATCHES = 4, 20


def cutter(job: Job, graph: Graph, solver: Any) -> Callable[[nn.Module], Cut]:
    """Return what cuts a network on the CPU: choose, remove, prove, fold constants, measure statistics."""
    spec, dataset = job.spec, job.dataset

    def cut(dense: nn.Module) -> Cut:
        job.progress("removing channels and proving it", None)
        provenance.attach(dense, provenance.of(job.dense) if graph is job.graph else provenance.of(dense))
        slimmed = start.slim(spec, dense, graph, job.inputs, start.context(spec, dataset), solver)
        small = slimmed.model
        gamma_row = records.gammas(dense, small)
        if spec.constants == "fold" and spec.init == "inherit":
            batches = [images for images, _ in islice(dataset.train.batches(128, seed=spec.seed), FOLD_BATCHES)]
            means = fold.input_means(dense, graph, slimmed.mask, batches, measured=True)
            fold.fold_(small, dense, graph, slimmed.mask, means)
        recovery.reestimate(small, dataset.train, batches=STATISTICS_BATCHES, seed=spec.seed)
        row = {
            "constants": spec.constants,
            "batch_norm": "re-estimated",
            "accuracy": accuracy.accuracy(small, dataset.validation),
        }
        values = _penalised(dense, graph, spec.penalty)
        kept = {
            "fixed": slimmed.fixed,
            "error": slimmed.error,
            "failing": list(slimmed.failing),
            "near_zero": share_near_zero(values),
            "gap": has_gap(values, slimmed.mask.removed / max(1, graph.units)),
            "rows": {
                "gammas": gamma_row,
                "after_cut": [row],
                "budget": solver.record() if solver else None,
            },
        }
        return Cut(small, slimmed.mask, kept)

    return cut


def _penalised(model: nn.Module, graph: Graph, penalty: str) -> Tensor:
    """Return the sizes that the penalty acts on, [n]: |gamma|, or norms of units, 1 where training begins."""
    if penalty == "group" and graph.units:
        return training.unit_norms(model, graph) / graph.coupled.tensors[:-1].sqrt()
    return torch.cat([gamma.detach().abs() for _, gamma in gammas(model)] or [torch.zeros(1)])


def slimmed(graph: Graph, cut: Cut) -> Slimmed:
    kept = cut.kept
    return Slimmed(cut.model, graph, cut.mask, kept["fixed"], kept["error"], tuple(kept["failing"]))
