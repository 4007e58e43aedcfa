"""Evidence that two networks compute the same function; 1e-4 is the bound, see `difference.relative_error`."""

import io
import math
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from typing import Any

import torch
from torch import Tensor, nn

from slimkit.channels import Graph
from slimkit.channels.left_out import left_out
from slimkit.dtypes import cast, in_precision
from slimkit.errors import ProofError
from slimkit.example import Example, call, drawn_like, tensors
from slimkit.hardware import seeded
from slimkit.modules import copied, private, unwrapped
from slimkit.selection.mask import Mask, apply_
from slimkit.surgery.difference import relative_error
from slimkit.surgery.evidence import TOLERANCE, Evidence, differ, evidence, runs
from slimkit.surgery.remove import remove
from slimkit.surgery.trials import Trial, placed, trials

_MOST = 1e-2  # that rounding may be taken for: more than that is nothing to deliver
_ROUNDING = 1e-6  # share of its size by which a number may be off

__all__ = [
    "TOLERANCE",
    "as_trials",
    "Evidence",
    "Trial",
    "breaking_groups",
    "compare",
    "evidence",
    "evidence_for",
    "failing_groups",
    "masked",
    "of_file",
    "outputs",
    "random_inputs",
    "random_like",
    "relative_error",
    "require",
    "trials",
]


@torch.no_grad()
def outputs(model: nn.Module, inputs: Sequence[Example]) -> list[Any]:
    """Run a copy of a network in eval mode on each input, with the same random numbers in every call of this."""
    with seeded(0):
        return [call(unwrapped(private(model)), example) for example in inputs]


def compare(expected: Sequence[Any], model: nn.Module, inputs: Sequence[Example]) -> float:
    """Return the largest relative error of a network against expected outputs; inf where it cannot run."""
    try:
        with redirect_stderr(io.StringIO()):  # an fx network prints the code that raised
            found = outputs(model, inputs)
    except Exception:  # a network that cannot run is the strongest disproof there is
        return float("inf")
    return max(relative_error(a, b) for a, b in zip(expected, found, strict=True))


@torch.no_grad()
def of_file(
    model: nn.Module, inputs: Sequence[Example], found: Sequence[Any], seen: Callable[[Any], Any] = tensors
) -> tuple[float, float]:
    """Return how far what a file computes is from what its network does, and how far float32 lets it be.

    Engines add in another order, which some networks enlarge: an output that is off by more than `TOLERANCE` counts
    from what the network computes in double precision, and may be twice as much as its own float32 is off there, or
    some units in the last places where numbers are large beside their spread. Each output is judged by itself.

    Args:
        found: outputs of the file for each input.
        seen: takes those outputs that are to be compared, a sequence of tensors.

    Returns:
        Of the output that is the worst for what it may be: how far it is off, and how far it may be.
    """
    expected = outputs(model, inputs)
    pairs = list(zip(map(seen, expected), map(seen, found), strict=True))
    error = max(relative_error(a, b) for a, b in pairs)
    if error <= TOLERANCE or any(len(a) != len(b) for a, b in pairs):
        return error, TOLERANCE
    try:
        twin = in_precision(copied(model), torch.float64)
        exact = outputs(twin, [placed(one, twin, torch.float64) for one in inputs])
    except Exception:  # its code may know of float32 alone
        return error, TOLERANCE
    near = [seen([cast(tensor, torch.float32) for tensor in tensors(one)]) for one in exact]
    judged = [
        _beside_rounding(*three)
        for (wanted, got), right in zip(pairs, near, strict=True)
        for three in zip(wanted, got, right, strict=True)
    ]
    return max(judged, key=lambda one: one[0] / one[1])


def _beside_rounding(expected: Tensor, found: Tensor, exact: Tensor) -> tuple[float, float]:
    """Return how far an output of a file is off, and how far it may be; `exact`: that of double precision."""
    error = relative_error(expected, found)
    if error <= TOLERANCE:
        return error, TOLERANCE
    own, nudged = relative_error(exact, expected), relative_error(exact, exact * (1 + _ROUNDING))
    allowed = max([TOLERANCE, *(min(one, _MOST) for one in (2 * own, nudged) if math.isfinite(one))])
    return relative_error(exact, found), allowed


def masked(model: nn.Module, graph: Graph, mask: Mask) -> nn.Module:
    """Return a copy of a network in which the removed units are silent, and left out of statistics across channels."""
    silent = copied(unwrapped(model))
    apply_(silent, graph, mask)
    return left_out(silent, graph, mask.keep)


def evidence_for(model: nn.Module, graph: Graph, mask: Mask, inputs: Sequence[Example | Trial]) -> Evidence:
    """Hold the smaller network against the masked one, on inputs of several kinds."""
    reference = masked(model, graph, mask)
    return evidence(reference, remove(model, graph, mask), as_trials(inputs))


def as_trials(inputs: Sequence[Example | Trial]) -> tuple[Trial, ...]:
    """Return inputs with what kind they are of."""
    return tuple(one if isinstance(one, Trial) else Trial("as given", one) for one in inputs)


def failing_groups(model: nn.Module, graph: Graph, mask: Mask, inputs: Sequence[Example | Trial]) -> list[int]:
    """Find by bisection the groups (by index) whose removal changes the function; none if the mask passes."""

    def passes(left: Mask) -> bool:
        return not differ(masked(model, graph, left), remove(model, graph, left), as_trials(inputs))

    return _to_blame(graph, mask, passes)


def breaking_groups(model: nn.Module, graph: Graph, mask: Mask, trial: Trial) -> list[int]:
    """Find by bisection the groups (by index) whose removal lets the network raise on an input."""
    return _to_blame(graph, mask, lambda left: runs(remove(model, graph, left), trial))


def _to_blame(graph: Graph, mask: Mask, passes: Callable[[Mask], bool]) -> list[int]:
    touched = [i for i, g in enumerate(graph.groups) if not bool(mask.keep[g.members].all())]

    def only(groups: Sequence[int]) -> Mask:
        keep = torch.ones_like(mask.keep)
        for i in groups:
            units = graph.groups[i].members
            keep[units] = mask.keep[units]
        return Mask(keep)

    def search(groups: Sequence[int], known_bad: bool) -> list[int]:
        if not groups or (not known_bad and passes(only(groups))):
            return []
        if len(groups) == 1:
            return list(groups)
        left, right = groups[: len(groups) // 2], groups[len(groups) // 2 :]
        bad = search(left, False)
        bad += search(right, not bad)
        return bad

    return search(touched, False)


def require(error: float, what: str, so: str = "Nothing was written.", allowed: float = TOLERANCE) -> float:
    """Return the error if it is within what is allowed.

    Args:
        error: relative, as `compare` gives it.
        what: was compared, for the message.
        so: what follows from it where it is not.
        allowed: as `of_file` gives it.

    Raises:
        ProofError: it is not; nothing may be written.
    """
    if not error <= allowed:
        raise ProofError(
            f"{what}: the outputs differ by {error:.2g} of their standard deviation, "
            f"more than {allowed:.0e}.\n"
            f"  {so} Please report the network: this is what the proof is for."
        )
    return error


def random_inputs(shape: Sequence[int], count: int = 4, seed: int = 0) -> list[Tensor]:
    """Return `count` standard normal inputs of shape (1, *shape), a fixed seed."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(1, *shape, generator=generator) for _ in range(count)]


def random_like(example: Example, count: int = 4, seed: int = 0) -> list[Example]:
    """Return `count` standard normal inputs of the shapes of an example, a fixed seed; whole numbers stay."""
    generator = torch.Generator().manual_seed(seed)
    return [drawn_like(example, generator) for _ in range(count)]
