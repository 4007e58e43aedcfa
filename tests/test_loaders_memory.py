"""Loaders that write every batch into the same memory, as those do that feed a GPU."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from slimkit import data
from slimkit.data.batch_split import BatchSplit, listed
from slimkit.recovery.calibration import chunks


class Refilled:
    """Gives batches of eight images that are filled with their number."""

    def __init__(self, batch: Callable[[Tensor, Tensor], Any]) -> None:
        self.batch = batch
        self.images, self.numbers = torch.empty(8, 1, 4, 4), torch.empty(8)

    def __iter__(self) -> Iterator[Any]:
        for number in range(5):
            self.images.fill_(number)
            self.numbers.fill_(number)
            yield self.batch(self.images, self.numbers)


@pytest.mark.parametrize("size", [4, 8, 12, 40])
def test_labels_stay_with_their_images(size: int) -> None:
    train = data.as_dataset((Refilled(lambda x, y: (x, y)), Refilled(lambda x, y: (x, y)))).train
    found = [(x[:, 0, 0, 0].tolist(), y.tolist()) for x, y in list(train.batches(size))]
    assert [images for images, _ in found] == [labels for _, labels in found]
    assert sum((labels for _, labels in found), []) == [number for number in range(5) for _ in range(8)]


@pytest.mark.parametrize("size", [4, 8, 12])
def test_calibration_inputs_are_all_there(size: int) -> None:
    inputs = data.as_inputs(Refilled(lambda x, y: x))
    found = torch.cat([x[:, 0, 0, 0] for x in list(inputs.batches(size, seed=None))])
    assert found.tolist() == [number for number in range(5) for _ in range(8)]


def test_fitting_to_a_loader_is_fitting_to_its_batches() -> None:
    loader = Refilled(lambda x, y: x)
    found = [float(part.example[0, 0, 0, 0]) for part in chunks(loader)]
    assert sorted(set(found)) == [0, 1, 2, 3, 4]


def test_rows_of_pictures_and_boxes_too() -> None:
    split = BatchSplit(Refilled(lambda x, y: (list(x), [{"boxes": one} for one in y])), "boxes", 40, listed)
    found = [
        (float(x[0, 0, 0]), float(y["boxes"])) for xs, ys in list(split.batches(8)) for x, y in zip(xs, ys, strict=True)
    ]
    assert found == [(number, number) for number in range(5) for _ in range(8)]
