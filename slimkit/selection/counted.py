"""Budgets of multiply-adds and parameters, held against the network that a mask leaves.

Masks are chosen by what the graph says, which costs nothing. What counts is the network.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from torch import nn

from slimkit.channels import Graph
from slimkit.errors import OutOfReachError, TraceError
from slimkit.example import Example, of_batch
from slimkit.measure.macs import count_macs
from slimkit.measure.size import count_params
from slimkit.results import Figures
from slimkit.selection.budget import Widths, amount
from slimkit.selection.mask import Mask
from slimkit.settings import Budget

Found = TypeVar("Found")

_ROUNDS = 4  # of choosing again
_NEAR = 0.9  # of a budget: what takes less is said to


def limit_of(budget: Budget, graph: Graph) -> float | None:
    """Return how many multiply-adds or parameters may be left; None for budgets of something else.

    A share is one of what the graph says of one image, which is what `count` counts, however many its example held.
    """
    if budget.kind not in ("macs", "params"):
        return None
    return budget.value if budget.absolute else budget.value * said(budget.kind, graph, Mask.full(graph))


def said(kind: str, graph: Graph, mask: Mask) -> int:
    """Return the multiply-adds, or the parameters, that a mask leaves as the graph has it."""
    return graph.macs(mask.keep) if kind == "macs" else graph.params(mask.keep)


def count(kind: str, model: nn.Module, example: Example) -> int | None:
    """Return the multiply-adds of one image, or the parameters, of a network; None where it does not run."""
    try:
        return count_macs(model, of_batch(example, 1)) if kind == "macs" else count_params(model)
    except TraceError:
        return None


def held(
    kind: str,
    limit: float,
    choose: Callable[[float], Sequence[Found]],
    more: Callable[[Found], float],
) -> list[Found]:
    """Return what is within a limit by count; chosen again, for less, where none is.

    Args:
        kind: `macs` or `params`.
        limit: largest number of them.
        choose: limit -> what is within it as the graph says, one or several.
        more: of one of these, by how much its network is over the limit; 0 or less where it is not.

    Raises:
        OutOfReachError: none is found; or what `choose` raises.
    """
    asked = limit
    for _ in range(_ROUNDS):
        over = [(one, more(one)) for one in choose(asked)]
        within = [one for one, excess in over if excess <= 0]
        if within:
            return within
        least = min(excess for _, excess in over)
        asked -= least
        if asked <= 0:
            break
    raise OutOfReachError(
        f"max_{kind} is {amount(limit, kind)}: the nearest network that was found takes {amount(limit + least, kind)} "
        "by count.\n  Raise the budget"
    )


def check(budget: Budget, whole: Graph, graph: Graph, mask: Mask, small: nn.Module, example: Example) -> None:
    """Refuse a network that is within a budget as its graph says, and not by count.

    Args:
        budget: of whatever kind.
        whole: the graph of the network that a share is one of.
        graph, mask: what the network was cut by.
        small: the network.
        example: what it is called with.

    Raises:
        OutOfReachError: it takes more.
    """
    limit = limit_of(budget, whole)
    if limit is None or said(budget.kind, graph, mask) > limit:  # a control may be of another budget
        return
    found = count(budget.kind, small, example)
    if found is not None and found > limit:
        raise OutOfReachError(
            f"max_{budget.kind} is {amount(limit, budget.kind)}: the network that was chosen for it takes "
            f"{amount(found, budget.kind)} by count.\n  Lower the budget, until what is chosen for it takes so little"
        )


def note_on_budget(
    budget: Budget, before: Figures, after: Figures, graph: Graph, mask: Mask, widths: Widths
) -> list[str]:
    """Say where a network takes much less than it might, and which channels go many at once.

    Args:
        budget: of whatever kind.
        before, after: what was measured of the network and of what is left.
        graph, mask: what it was cut by.
        widths: counts that were allowed; finer ones may have been taken where these did not do.
    """
    if budget.kind not in ("macs", "params"):
        return []
    whole, left = (one.macs if budget.kind == "macs" else one.params for one in (before, after))
    limit = budget.value if budget.absolute else budget.value * (whole or 0)
    if left is None or left >= _NEAR * limit:
        return []
    widths = widths.fitted(graph)
    pairs = zip(graph.groups, mask.counts(graph), strict=True)
    cut = [count for group, count in pairs if group.per_unit == 1 and count < len(group.members)]
    while any(count % widths.step for count in cut):
        widths = replace(widths, step=widths.step // 2)
    steps = f" Counts of channels go in steps of {widths.step}." if cut and widths.step > 1 else ""
    at_once = {
        group.per_unit * widths.of_step(group): group.name
        for group in graph.groups
        if group.per_unit > 1 and len(widths.of(group)) > 1
    }
    most = max(at_once, default=0)
    why = "tied as those of a head are, or of gates"
    tied = f" Channels of {at_once[most]} go {most} at once, {why}." if most > widths.step else ""
    return [
        f"max_{budget.kind} allows {amount(limit, budget.kind)}, and what was chosen leaves "
        f"{amount(left, budget.kind)}.{steps}{tied}"
    ]
