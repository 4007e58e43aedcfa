"""The unlabelled inputs of a run in two parts: to fit to, and to compare networks on."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor

from slimkit import data
from slimkit.data.order import split_indices
from slimkit.errors import DataError
from slimkit.example import Example, on, tensors
from slimkit.runs.given import Given

BATCH = 128  # inputs at a time
_FEWEST, _MOST = 256, 2048  # inputs
_NUMBERS = 256 * 3 * 224 * 224  # held in memory at once: 154 MB; more inputs where they are small
COMPARED = 4 * BATCH  # most inputs that two networks are compared on
APART = 0.125  # share of unlabelled inputs that is kept for that; of groups, where inputs resemble each other
_ENOUGH = 64  # inputs from which on it is kept for the report alone; a drop is never told without
_GROUPS = 4  # held out, from which on it is: of fewer an interval says nothing


@dataclass(frozen=True)
class Parts:
    """Unlabelled inputs, where the networks are computed.

    Attributes:
        source: what is fitted to, and trained on.
        batches: what of it is fitted to.
        held: on them networks are compared.
        apart: nothing is fitted to those, or trained on them.
        groups: of those held, which resemble each other, int64 [inputs]; None where none do, or none are apart.
        alike: number of groups of inputs that resemble each other, of all that are used; None where none do.
    """

    source: data.Inputs
    batches: Sequence[Example]
    held: Sequence[Example]
    apart: bool
    groups: Tensor | None = None
    alike: int | None = None


def parted(given: Given) -> Parts | None:
    """Return the inputs given, else the training inputs, in two parts; None where there are none.

    Between 256 and 2,048 are fitted to, as memory allows. Whether what is held is other than that: where a drop is
    told, always. Then inputs that resemble each other are held together, or fitted to together: agreement on a frame of
    a video that was fitted to says nothing of the next video. Where there are such, no more inputs are used than were
    looked at.

    Raises:
        DataError: a drop is to be told, and of the inputs none can be held out.
    """
    dataset, seed = given.dataset, given.spec.seed
    source = given.calibration or (data.as_inputs(dataset) if dataset else None)
    if source is None:
        return None
    each = sum(prod(tensor.shape[1:]) for tensor in tensors(next(iter(source.batches(1)))))
    count, size = min(_MOST, max(_FEWEST, _NUMBERS // max(1, each))), data.of_size(each, BATCH)

    def drawn(part: data.Inputs, at_most: int, seed: int | None) -> list[Example]:
        return [on(given.device, one) for one in part.batches(size, at_most=at_most, seed=seed)]

    def whole(alike: int | None = None) -> Parts:
        return Parts(source, drawn(source, count, seed), drawn(source, COMPARED, seed + 1), apart=False, alike=alike)

    if given.calibration is None and dataset is not None:
        held = drawn(data.Inputs(dataset.validation), COMPARED, seed + 1)
        return Parts(source, drawn(source, count, seed), held, apart=True)
    judging = given.spec.max_drop is not None and dataset is None
    parts = data.parted(source, APART, seed) if judging or len(source) >= _ENOUGH else None
    if judging and parts is None:
        raise DataError(
            f"{source.name}: it gives batches in an order of its own, so that none can be held out to tell a drop by.\n"
            "  Give a tensor, a data set or a folder of inputs"
        )
    if parts is None:
        return whole()
    rest, taken = parts
    found = Parts(rest, drawn(rest, count, seed), drawn(taken, COMPARED, seed + 1), apart=True)
    group = data.alike([*found.batches, *found.held])
    if group is None:
        return found
    groups, out = int(group.max()) + 1, _held(group, seed)
    if not judging and group[out].bincount().count_nonzero() < _GROUPS:
        return whole(groups)
    numbers = data.parted(data.as_inputs(torch.arange(len(source))[:, None]), APART, seed)
    assert numbers is not None  # drawn as the inputs were
    asked = [*numbers[0].batches(size, count, seed), *numbers[1].batches(size, COMPARED, seed + 1)]
    used = torch.cat([tensor for one in asked for tensor in tensors(one)]).flatten()
    left, first = used[~out], group[~out][:count].argsort(stable=True)  # group by group: what of them chooses a ridge
    rest, taken = data.chosen(source, left), data.chosen(source, used[out])  # is of other groups too
    if len(used) < len(source):
        rest = replace(rest, name=f"{source.name} ({len(used):,} of {len(source):,})")
    return Parts(
        source=rest,
        batches=drawn(data.chosen(source, left[first]), count, None),
        held=drawn(taken, len(taken), None),
        apart=True,
        groups=torch.unique(group[out], return_inverse=True)[1],
        alike=groups,
    )


def _held(group: Tensor, seed: int) -> Tensor:
    """Return which inputs are held out, bool [N]: an eighth of the groups, drawn, but for such as are too large."""
    sizes = group.bincount()
    few = (sizes <= APART * len(group)).nonzero().flatten()
    _, taken = split_indices(len(few), min(1.0, APART * len(sizes) / max(1, len(few))), "groups", seed)
    return torch.isin(group, few[taken])
