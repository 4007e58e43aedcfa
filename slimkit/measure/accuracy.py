"""Accuracy: the share of a split's images whose highest score is the right class."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from slimkit.errors import DataError
from slimkit.measure.engines import open_runner
from slimkit.modules import evaluating


class Split(Protocol):
    """What is read of a split of labelled images."""

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Give images [B, C, H, W] and labels [B], every image once."""
        ...


def accuracy(network: nn.Module | str | Path, split: Split, *, batch_size: int = 250) -> float:
    """Return the top-1 accuracy, in [0, 1], of a network or of an ONNX file (in ONNX Runtime, one thread).

    Args:
        network: in evaluation mode for the time of the measurement; or the path of an ONNX file.
        split: images as the network expects them, normalised.
        batch_size: images at a time; no influence on the result.

    Raises:
        DataError: the split is empty, or the network does not return scores [B, classes].
        CheckpointError: the ONNX file is missing or damaged.
    """
    if isinstance(network, nn.Module):
        device = next((t.device for t in chain(network.parameters(), network.buffers())), torch.device("cpu"))
        with evaluating(network), torch.inference_mode():
            return _share(lambda images: network(images.to(device)), split, batch_size)
    runner = open_runner(network)
    return _share(lambda images: torch.from_numpy(runner.run(images.numpy())[0]), split, batch_size)


def _share(scores: Callable[[Tensor], Tensor], split: Split, batch_size: int) -> float:
    right = images_seen = 0
    for images, labels in split.batches(batch_size):
        found = scores(images)
        if not isinstance(found, Tensor) or found.dim() != 2 or len(found) != len(images):
            raise DataError(
                "accuracy: the network does not return one row of class scores per image.\n"
                "  Measure a classifier, or leave --data out"
            )
        right += int((found.argmax(dim=1) == labels.to(found.device)).sum())
        images_seen += len(labels)
    if not images_seen:
        raise DataError("accuracy: the split holds no images.\n  Give a data set with images in every split")
    return right / images_seen
