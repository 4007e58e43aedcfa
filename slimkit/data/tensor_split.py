"""A split that fits in memory: images augmented and normalised batch by batch, or any inputs as they are."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from slimkit.data.augmentation import Augmentation, shift_and_flip
from slimkit.data.dataset import Dataset, statistics
from slimkit.data.order import batch_indices, generator, split_indices
from slimkit.errors import DataError


@dataclass(frozen=True, kw_only=True)
class TensorSplit:
    """Inputs and targets, on any one device.

    Attributes:
        images: uint8 [N, C, H, W]; or any tensor [N, ...], given as it is, where `mean` is empty.
        labels: int64 [N], or targets of any kind [N, ...].
        mean, std: per channel, of images in [0, 1].
        augmentation: what may be done to an image without changing its target; a target that is itself an
            image would have to follow, so that only whole-image targets allow any.
    """

    images: Tensor
    labels: Tensor
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    augmentation: Augmentation = Augmentation()

    def __post_init__(self) -> None:
        if self.labels.dim() > 1 and self.augmentation != Augmentation():
            raise DataError(
                f"augmentation: targets are {list(self.labels.shape)}, and would not be shifted with the images.\n"
                "  Leave it out"
            )

    def __len__(self) -> int:
        return len(self.images)

    def batches(
        self,
        batch_size: int,
        *,
        seed: int | None = None,
        epoch: int = 0,
        augment: bool = False,
        start: int = 0,
        rank: int = 0,
        ranks: int = 1,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Give batches as `Split.batches` says."""
        device = self.images.device
        if not self.mean:
            for chunk in batch_indices(len(self), batch_size, seed, epoch, start):
                index = chunk[rank::ranks].to(device)
                yield self.images[index], self.labels[index]
            return
        scale = 1 / (255 * torch.tensor(self.std, device=device).view(1, -1, 1, 1))
        shift = -(torch.tensor(self.mean, device=device) / torch.tensor(self.std, device=device))
        shift = shift.view(1, -1, 1, 1)
        chunks = batch_indices(len(self), batch_size, seed, epoch, start)
        for number, chunk in enumerate(chunks, start):
            shard = slice(rank, len(chunk), ranks)
            index = chunk[shard].to(device)
            images = self.images[index]
            if augment:
                random = generator("augment", seed, epoch, number)
                images = shift_and_flip(images, self.augmentation, random, shard)
            yield torch.addcmul(shift, images.float(), scale), self.labels[index]

    def normalised(self, mean: Sequence[float], std: Sequence[float]) -> "TensorSplit":
        """Return the same images with another normalisation; inputs that are given as they are stay."""
        return replace(self, mean=tuple(mean), std=tuple(std)) if self.mean else self

    def to(self, device: torch.device) -> "TensorSplit":
        """Return the split with its tensors on a device, so that batches need no transfer."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))


ImagesAndLabels = tuple[Tensor, Tensor]  # images uint8 [N, C, H, W] and labels int64 [N]


def held_out(name: str, train: ImagesAndLabels, seed: int) -> tuple[ImagesAndLabels, ImagesAndLabels]:
    """Part the training images of a named set into those to train on and a tenth, drawn by seed, to choose by."""
    images, labels = train
    rest, taken = split_indices(len(images), 0.1, name, "validation", seed)
    return (images[rest], labels[rest]), (images[taken], labels[taken])


def in_memory(
    name: str,
    train: ImagesAndLabels,
    validation: ImagesAndLabels,
    test: ImagesAndLabels,
    *,
    classes: int,
    augmentation: Augmentation,
    class_names: Sequence[str] = (),
) -> Dataset:
    """Make a data set of three splits, normalised as the training images ask for."""
    mean, std = statistics(train[0])

    def split(part: ImagesAndLabels) -> TensorSplit:
        return TensorSplit(images=part[0], labels=part[1], mean=mean, std=std, augmentation=augmentation)

    _, channels, height, width = train[0].shape
    return Dataset(
        name=name,
        classes=classes,
        class_names=tuple(class_names),
        input_shape=(channels, height, width),
        mean=mean,
        std=std,
        train=split(train),
        validation=split(validation),
        test=split(test),
    )
