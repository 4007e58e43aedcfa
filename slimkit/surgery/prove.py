"""Remove channels and prove it; groups whose removal cannot be proven are found, kept and named.

U = units of a graph.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from slimkit.channels import Graph
from slimkit.errors import ProofError
from slimkit.example import Example
from slimkit.hardware import plain_precision
from slimkit.modules import copied
from slimkit.selection.mask import Mask
from slimkit.surgery import proof
from slimkit.surgery.evidence import Evidence, runs
from slimkit.surgery.remove import remove
from slimkit.surgery.trials import Trial
from slimkit.surgery.whole_numbers import rows

_ROUNDS = 4  # of finding and keeping the groups that cannot be proven
_STEP = 8  # of what is left out to see whether a network runs: many a code asks for such widths


@dataclass(frozen=True)
class Slimmed:
    """A smaller network that is proven, and how it came about.

    Attributes:
        model: the new network; weights inherited, constants of removed channels not yet folded.
        graph: channels of the dense network.
        mask: what stays.
        fixed: bool [U], removable units that were kept all the same: on request, or because they failed.
        evidence: what the smaller network was held against the masked one on, and what that showed.
        failing: groups that could be removed by the graph, but not by the proof, and are kept.
    """

    model: nn.Module
    graph: Graph
    mask: Mask
    fixed: Tensor
    evidence: Evidence
    failing: tuple[str, ...] = ()

    @property
    def error(self) -> float:
        """Relative error of the smaller network against the masked one."""
        return self.evidence.error


@plain_precision()
def prove(
    model: nn.Module,
    graph: Graph,
    choose: Callable[[Tensor], Mask],
    inputs: Sequence[Example | Trial],
    fixed: Tensor | None = None,
) -> Slimmed:
    """Remove what a mask says and prove the smaller network against the masked one.

    Groups without half of which the network does not run are kept from the start, so that what chooses masks may run
    what they leave. Where the two networks differ, the groups to blame are found by bisection and kept, and the mask is
    chosen again.

    Args:
        model: the dense network, untouched.
        graph: its channels, U units.
        choose: (fixed, bool [U]) -> mask that keeps those units.
        inputs: what both networks are run on; inputs of several kinds are made from the first one, see `proof.trials`,
            and added.
        fixed: bool [U], units that must stay from the start.

    Raises:
        ProofError: the network's own outputs are not finite, or never vary; the networks differ and no group can be
            blamed.
    """
    fixed = torch.zeros(graph.units, dtype=torch.bool) if fixed is None else fixed.clone()
    given = proof.as_trials(inputs)
    shown = (*given, *proof.trials(given[0].example, rows(model, given[0].example))[1:])
    failing: list[str] = []

    def keep(culprits: Sequence[int]) -> None:
        for number in culprits:
            failing.append(graph.groups[number].name)
            fixed[graph.groups[number].members] = True

    keep(_unable(model, graph, fixed, given[0]))
    for _ in range(_ROUNDS):
        mask = choose(fixed)
        smaller = remove(model, graph, mask)
        found = proof.evidence(proof.masked(model, graph, mask), smaller, shown)
        if found.proven:
            return Slimmed(smaller, graph, mask, fixed, found, tuple(failing))
        if not found.on or found.error <= proof.TOLERANCE:
            raise ProofError(_no_evidence(model, found, shown))
        culprits = _culprits(model, graph, mask, found, shown)
        if not culprits:
            break
        keep(culprits)
    raise ProofError(
        f"smaller network against masked one: the outputs differ by {found.error:.2g} of their standard deviation, "
        f"more than {proof.TOLERANCE:.0e}, also without {', '.join(failing) or 'any one group'}.\n"
        "  Nothing was written. Please report the network: this is what the proof is for."
    )


def prove_untrained(
    model: nn.Module,
    graph: Graph,
    choose: Callable[[Tensor], Mask],
    inputs: Sequence[Example | Trial],
    fixed: Tensor | None = None,
) -> Slimmed:
    """Do what `prove` does for a network whose training is to come: its head and branches may begin at zero.

    Zeros say nothing, so the proof is on a copy in which they are random numbers.
    """
    made = prove(_without_zeros(model), graph, choose, inputs, fixed)
    return replace(made, model=remove(model, graph, made.mask))


@torch.no_grad()
def _without_zeros(model: nn.Module) -> nn.Module:
    model, random = copied(model), torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if not parameter.any():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=random))
    return model


def _unable(model: nn.Module, graph: Graph, fixed: Tensor, trial: Trial) -> list[int]:
    """Return the groups (by index) without half of which the network does not run, as where code holds their width."""
    keep = torch.ones_like(fixed)
    for group in graph.groups:
        half = len(group.members) // 2
        gone = half - half % _STEP if half > _STEP else half
        if not bool(fixed[group.members].any()):
            keep[group.members[:gone]] = False
    mask = Mask(keep)
    if runs(remove(model, graph, mask), trial) or not runs(model, trial):
        return []
    return proof.breaking_groups(model, graph, mask, trial)


def _culprits(model: nn.Module, graph: Graph, mask: Mask, found: Evidence, inputs: Sequence[Trial]) -> list[int]:
    """Return the groups (by index) to blame, told by the inputs on which the networks differed."""
    wrong = [
        (trial, shown.note)
        for trial, shown in zip(inputs, found.shown, strict=False)  # more were shown where these said little
        if shown.error is not None and not shown.error <= proof.TOLERANCE
    ]
    broken = next((trial for trial, note in wrong if note), None)
    if broken is not None:
        return proof.breaking_groups(model, graph, mask, broken)
    return proof.failing_groups(model, graph, mask, [trial for trial, _ in wrong] or inputs)


def _no_evidence(model: nn.Module, found: Evidence, inputs: Sequence[Trial]) -> str:
    """Say why nothing was shown: diverged weights are told apart from outputs that say nothing."""
    if all(shown.gaps for shown in found.shown) or not all(bool(p.isfinite().all()) for p in model.parameters()):
        return (
            "the network's outputs are not finite, so nothing can be proved about a smaller one.\n"
            "  Its weights have diverged: train it with a lower learning rate, or give another checkpoint"
        )
    whole = proof.evidence(model, model, inputs)
    if whole.channels and whole.constant == whole.channels:
        return (
            f"nothing can be proved about a smaller network: all outputs of the one given, {whole.channels}, are the "
            "same whatever it is called with.\n"
            "  Train it first, or give other weights: a head that begins at zero says nothing"
        )
    if found.on:
        return (
            f"nothing can be proved about the smaller network: its {found.channels} outputs are the same whatever it "
            "is given.\n"
            "  So much was removed that nothing is left, or training has killed it: remove less, or penalise less"
        )
    notes = "; ".join(f"{shown.kind}: {shown.note}" for shown in found.shown)
    return (
        f"nothing can be proved about a smaller network: no output says anything ({notes}).\n"
        "  Give an example input on which the network's outputs are finite and vary"
    )
