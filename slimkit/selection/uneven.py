"""Groups that keep another share of their channels than the rest, since counts are multiples of a step."""

from torch import Tensor

from slimkit.channels import Graph
from slimkit.selection.budget import Widths
from slimkit.selection.mask import Mask

_FAR = 0.2  # share of a group's channels that it keeps more or fewer than all together
_TOLD = 5  # groups that a message names


def uneven(graph: Graph, mask: Mask, widths: Widths, fixed: Tensor) -> str:
    """Say which groups a step keeps far from the share of all together; nothing where there are none, or no step.

    Args:
        graph: U units in groups.
        mask: which stay, meant to be one share of all.
        widths: the counts that were allowed.
        fixed: bool [U], units that stay on request, and their groups with them: these are left out.
    """
    allowed = widths.fitted(graph)
    free = [
        (group, count)
        for group, count in zip(graph.groups, mask.counts(graph), strict=True)
        if not bool(fixed[group.members].any())
    ]
    whole = sum(len(group.members) for group, _ in free)
    if allowed.step == 1 or not whole:
        return ""
    common = sum(count for _, count in free) / whole
    shares = {group.name: count / len(group.members) for group, count in free if allowed.of_step(group) > 1}
    far = [(name, share) for name, share in shares.items() if abs(share - common) > _FAR]
    if not far:
        return ""
    told = ", ".join(f"{name} keeps {'all' if share == 1 else f'{share:.2f}'}" for name, share in far[:_TOLD])
    more = f", and {len(far) - _TOLD} more" if len(far) > _TOLD else ""
    return (
        f"layers are not narrower by one factor, since their counts are multiples of {allowed.step}: {told}{more}, all "
        f"together {common:.2f}. With round_to=1 shares are even, but most engines run such counts slower"
    )
