"""The unlabelled inputs of a run: what is left of a network is fitted to what the original computes on them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from slimkit import data, out_of_memory
from slimkit.errors import DataError
from slimkit.example import Example, batch_size, comparable, on
from slimkit.hardware import device_of
from slimkit.measure.macs import count_macs
from slimkit.models.ultralytics import Maps
from slimkit.recovery.calibration import chunks
from slimkit.recovery.made_images import made_images, mixtures
from slimkit.recovery.norms import learned
from slimkit.recovery.strange import are_strange
from slimkit.runs.cut.parts import BATCH, Parts, parted
from slimkit.runs.given import Given
from slimkit.surgery import proof
from slimkit.surgery.trials import wilder

_MADE, _STEPS = 256, 60  # images made from noise, and steps of making them
_HELD = 0.25  # more of them, that nothing is fitted to: agreement is counted on mixtures of them
_LOOKS = 4  # at outputs whose number may depend on the data
_STRANGE = (
    "the network's BatchNorms read other means and spreads than those that they keep of its training, so what is told "
    "of them says nothing of the inputs that it is for. Are they normalised as in training, and of that kind?"
)
_SIDE = 64  # smallest side of an image that is made smaller than those of training
# Multiply-adds that making images may take, three forward passes a step: less than half of the three minutes of a core
# that a ResNet-18 may take in all.
_EFFORT = 3.6e12


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
        groups, alike: which resemble each other, as `Parts` says.
        strange: they are not such as the network was trained on, as its BatchNorms tell.
    """

    name: str
    batches: Sequence[Example]
    held: Sequence[Example]
    fits: bool = True
    apart: bool = True
    made: bool = False
    source: data.Inputs | None = None
    groups: Tensor | None = None
    alike: int | None = None
    strange: bool = False


def calibrate(given: Given, comparable: bool, parts: Parts | None = None) -> Calibration | None:
    """Return inputs to recover on: those given, else the training inputs, else images made from noise.

    None where no images can be made: no BatchNorm with learned
    statistics, or none found that meet them; a network that takes no single tensor of floats or through which no
    gradient reaches it; or no wish to recover.

    Args:
        given: what the run starts from.
        comparable: the network returns something by which a smaller one can be fitted.
        parts: of its inputs, where they are known.

    Raises:
        DataError: those given are too few, all equal, or not finite.
    """
    dense, example, dataset, spec = given.at_work, given.example, given.dataset, given.spec
    _check_shape(given)
    fits = spec.fits and comparable
    if (parts := parts or parted(given)) is not None:
        name, apart = parts.source.name, parts.apart
        if fits:
            try:
                chunks([*parts.batches, *parts.held] if apart and dataset is None else parts.batches, name)
            except DataError as wrong:
                raise DataError(f"{wrong}; or do without: `recover=False`") from wrong
        return Calibration(
            name=f"{sum(map(batch_size, parts.batches)):,} inputs of {name}",
            batches=parts.batches,
            held=parts.held,
            fits=fits,
            apart=apart,
            source=parts.source,
            groups=parts.groups,
            alike=parts.alike,
            strange=are_strange(dense, parts.batches, mixed=isinstance(given.network.model, Maps)),
        )
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
    batches = [images[start : min(start + BATCH, count)] for start in range(0, count, BATCH)]
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
