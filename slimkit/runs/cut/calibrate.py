"""The unlabelled inputs of a run: what is left of a network is fitted to what the original computes on them."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn

from slimkit import data, out_of_memory
from slimkit.errors import DataError
from slimkit.example import Example, batch_size, comparable, on, tensors
from slimkit.hardware import device_of
from slimkit.measure.macs import count_macs
from slimkit.recovery.calibration import chunks
from slimkit.recovery.made_images import made_images, mixtures
from slimkit.recovery.norms import learned
from slimkit.recovery.strange import are_strange
from slimkit.runs.given import Given
from slimkit.surgery import proof
from slimkit.surgery.trials import wilder

_BATCH = 128  # inputs at a time
_FEWEST, _MOST = 256, 2048  # inputs
_NUMBERS = 256 * 3 * 224 * 224  # held in memory at once: 154 MB; more inputs where they are small
_MADE, _STEPS = 256, 60  # images made from noise, and steps of making them
_HELD = 0.25  # more of them, that nothing is fitted to: agreement is counted on mixtures of them
COMPARED = 4 * _BATCH  # most inputs that two networks are compared on
APART = 0.125  # share of unlabelled inputs that is kept for that
_ENOUGH = 64  # inputs from which on it is kept for the report alone; a drop is never told without
_LOOKS = 4  # at outputs whose number may depend on the data
_STRANGE = (
    "the network's BatchNorms read other means and spreads than those that they keep of its training, so what is told "
    "of them says nothing of the inputs that it is for. Are they normalised as in training, and of that kind?"
)
_SIDE = 64  # smallest side of an image that is made smaller than those of training
# Multiply-adds that making images may take, three forward passes a step: about two minutes of one core.
_EFFORT = 4e12


@dataclass(frozen=True)
class Calibration:
    """Unlabelled inputs, where the networks are computed.

    Attributes:
        name: what they are, for the report: `1,024 inputs of digits`.
        batches: what is fitted to.
        held: on them the small network is compared with the original.
        fits: what is left is to be fitted to what the original computes on them.
        apart: nothing is fitted to, or trained on, what is held.
        made: they were made from noise, with the statistics that BatchNorm keeps.
        source: what they came from, to train on; None where they were made.
        strange: they are not such as the network was trained on, as its BatchNorms tell.
    """

    name: str
    batches: Sequence[Example]
    held: Sequence[Example]
    fits: bool = True
    apart: bool = True
    made: bool = False
    source: data.Inputs | None = None
    strange: bool = False


def calibrate(given: Given, comparable: bool) -> Calibration | None:
    """Return inputs to recover on: those given, else the training inputs, else images made from noise.

    Between 256 and 2,048 of them, as memory allows. None where no images can be made: no BatchNorm with learned
    statistics, or none found that meet them; a network that takes no single tensor of floats or through which no
    gradient reaches it; or no wish to recover.

    Args:
        given: what the run starts from.
        comparable: the network returns something by which a smaller one can be fitted.

    Raises:
        DataError: those given are too few, all equal, or not finite.
    """
    dense, example, dataset, spec = given.at_work, given.example, given.dataset, given.spec
    _check_shape(given)
    fits = spec.fits and comparable
    if (source := given.calibration or (data.as_inputs(dataset) if dataset else None)) is not None:
        each = sum(prod(tensor.shape[1:]) for tensor in tensors(next(iter(source.batches(1)))))
        count = min(_MOST, max(_FEWEST, _NUMBERS // max(1, each)))
        source, held_of, apart = _parted(given, source)
        size = data.of_size(each, _BATCH)
        batches = [on(given.device, one) for one in source.batches(size, at_most=count, seed=spec.seed)]
        held = [on(given.device, one) for one in held_of.batches(size, at_most=COMPARED, seed=spec.seed + 1)]
        if fits:
            try:
                chunks([*batches, *held] if apart and dataset is None else batches, source.name)
            except DataError as wrong:
                raise DataError(f"{wrong}; or do without: `recover=False`") from wrong
        name = f"{sum(map(batch_size, batches)):,} inputs of {source.name}"
        return Calibration(name, batches, held, fits, apart, source=source, strange=are_strange(dense, batches))
    if not fits or not isinstance(example, Tensor) or not example.is_floating_point():
        return None
    if not learned(dense):
        return None
    shape, count, steps = _affordable(dense, tuple(example.shape[1:]))
    more = round(_HELD * count)
    try:
        images = made_images(dense, shape, count + more, steps, seed=spec.seed, progress=given.progress)
    except DataError:  # no gradient reaches them, the network runs on none, or they do not meet the statistics
        return None
    batches = [images[start : min(start + _BATCH, count)] for start in range(0, count, _BATCH)]
    return Calibration(f"{count} images made from noise", batches, [mixtures(images[count:])], made=True)


def note_on_inputs(calibration: Calibration | None) -> list[str]:
    """Say of inputs that are not such as the network was trained on what that means, and what to do."""
    if calibration is None or not calibration.strange:
        return []
    return [f"{calibration.name}: {_STRANGE} Without any inputs less may be lost."]


def check_strange(calibration: Calibration) -> None:
    """Refuse to tell a drop by agreement on inputs that are not such as the network was trained on.

    Raises:
        DataError: they are not.
    """
    if calibration.strange:
        raise DataError(
            f"max_drop without labels is told by agreement, and of {calibration.name} {_STRANGE}\n"
            "  Give inputs as in training, or labelled data"
        )


def compared_on(given: Given) -> tuple[int | None, int | None]:
    """Return the number of images that a drop is told on, and of how many unlabelled inputs they are held out.

    None where there are no images, and where they are labelled.

    Raises:
        DataError: of the unlabelled inputs none can be held out.
    """
    if given.dataset is not None:
        return len(given.dataset.validation), None
    if given.calibration is None:
        return None, None
    _, held, _ = _parted(given, given.calibration)
    return min(len(held), COMPARED), len(given.calibration)


def _check_shape(given: Given) -> None:
    """Refuse unlabelled images of another shape than the network is used with, as its files will be."""
    if given.calibration is None or given.spec.free_size or not isinstance(given.example, Tensor):
        return
    image, wanted = next(iter(given.calibration.batches(1))), given.example
    if isinstance(image, Tensor) and image.shape[1:] != wanted.shape[1:]:
        found, used = ("x".join(map(str, one.shape[1:])) for one in (image, wanted))
        raise DataError(
            f"{given.calibration.name}: its inputs are {found}, the network is used with {used}.\n"
            "  Give inputs of that shape, or say that any size is to do: `free_size=True`"
        )


def has_comparable(given: Given) -> bool:
    """Tell whether what a network returns is such that a smaller one can be fitted by it, seen on several inputs."""
    inputs = [on(given.device, wilder(given.example, seed).example) for seed in range(_LOOKS)]
    try:
        first, *others = proof.outputs(given.at_work, inputs)
    except Exception as error:  # whatever it raises: it may take one image at a time, or none below 0
        out_of_memory.pass_on(error)
        return True
    return all(comparable(first, other) for other in others)


def _parted(given: Given, source: data.Inputs) -> tuple[data.Inputs, data.Inputs, bool]:
    """Return inputs to fit to, those to compare networks on, and whether they are others: where a drop is told, always.

    Raises:
        DataError: a drop is to be told, and of the inputs none can be held out.
    """
    if given.calibration is None and given.dataset is not None:
        return source, data.Inputs(given.dataset.validation), True
    judging = given.spec.max_drop is not None and given.dataset is None
    parts = data.parted(source, APART, given.spec.seed) if judging or len(source) >= _ENOUGH else None
    if judging and parts is None:
        raise DataError(
            f"{source.name}: it gives batches in an order of its own, so that none can be held out to tell a drop by.\n"
            "  Give a tensor, a data set or a folder of inputs"
        )
    return (*parts, True) if parts else (source, source, False)


def _affordable(dense: nn.Module, shape: tuple[int, ...]) -> tuple[tuple[int, ...], int, int]:
    """Return shape, number and steps of the images to make: first smaller images, then fewer, then fewer steps."""

    def effort(shape: tuple[int, ...], count: int, steps: int) -> float:
        return 3.0 * count_macs(dense, shape) * count * (1 + _HELD) * steps

    count, steps = _MADE, _STEPS
    while len(shape) == 3 and min(shape[1:]) > _SIDE and effort(shape, count, steps) > _EFFORT:
        side = max(_SIDE, round(min(shape[1:]) * 0.75 / 32) * 32)
        smaller = (shape[0], *(max(32, round(one * side / min(shape[1:]) / 32) * 32) for one in shape[1:]))
        if smaller == shape or not _runs(dense, smaller):
            break
        shape = smaller
    if effort(shape, count, steps) > _EFFORT:
        count //= 2
    steps = min(steps, max(steps // 2, round(steps * _EFFORT / max(1.0, effort(shape, count, steps)))))
    return shape, count, steps


def _runs(dense: nn.Module, shape: tuple[int, ...]) -> bool:
    """Tell whether a network takes images of this shape: some layers want the size of training."""
    try:
        with torch.no_grad():
            dense(torch.zeros(2, *shape, device=device_of(dense)))
    except Exception as error:  # whatever it raises
        out_of_memory.pass_on(error)
        return False
    return True
