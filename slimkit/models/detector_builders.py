"""Which of torchvision's functions builds a detector, and with which numbers of classes and keypoints."""

import functools
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from slimkit.models import building
from slimkit.models.detectors import Heads
from slimkit.models.reference import Reference, factory
from slimkit.models.signatures import TensorShapes, shapes_of

_NUMBERS = ("num_classes", "num_keypoints")  # arguments that weights tell
_LOW, _HIGH = 7, 11  # values to try them with


def builds_detectors(reference: Reference) -> bool:
    """Tell whether an architecture is one of torchvision's detectors."""
    return reference.source == "torchvision" and reference.name in _names()


def arguments(reference: Reference, given: TensorShapes) -> dict[str, Any]:
    """Return the arguments of torchvision's builder that tensors tell: how many classes and keypoints.

    Args:
        reference: of a detector of torchvision.
        given: names and shapes of its tensors.

    Raises:
        ArchitectureError: it cannot be built.
    """
    found = dict(reference.arguments)
    for name in _NUMBERS:
        if name in found or name not in inspect.signature(factory(reference)).parameters:
            continue
        low, high = (_shapes(reference, {**found, name: value}) for value in (_LOW, _HIGH))
        number = _number(low, high, given)
        if number is not None:
            found[name] = number
    return found


def candidates(model: nn.Module) -> Iterator[tuple[Reference, dict[str, Any], int | None, dict[str, dict[str, Any]]]]:
    """Give what may have built a detector: reference, arguments, number of classes, no attributes."""
    given = shapes_of(model.state_dict())
    for name in _names():
        reference = Reference("torchvision", name)
        if not name.startswith(type(model).__name__.lower()):  # FasterRCNN: fasterrcnn_resnet50_fpn
            continue
        taken = arguments(reference, given)
        if _shapes(reference, taken) == given:
            yield reference, taken, Heads(model).classes, {}


def _number(low: TensorShapes, high: TensorShapes, given: TensorShapes) -> int | None:
    """Return the value of an argument by the first size that follows it."""
    for name, shape in low.items():
        for dim, size in enumerate(shape):
            step = high[name][dim] - size
            if step and len(given.get(name, ())) == len(shape):
                more, rest = divmod((_HIGH - _LOW) * (given[name][dim] - size), step)
                return None if rest or _LOW + more < 1 else _LOW + more
    return None


def _shapes(reference: Reference, taken: Mapping[str, Any]) -> TensorShapes:
    return shapes_of(building.skeleton(reference, taken).state_dict())


@functools.cache
def _names() -> tuple[str, ...]:
    from torchvision import models

    return tuple(models.list_models(module=models.detection))
