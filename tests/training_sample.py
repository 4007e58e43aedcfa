"""A tiny data set and network for the tests of training."""

import torch
from torch import Tensor, nn

from slimkit.channels import trace
from slimkit.data import Dataset
from slimkit.data.augmentation import Augmentation
from slimkit.data.tensor_split import TensorSplit
from slimkit.methods import Job, Selection
from slimkit.progress import quiet
from slimkit.selection.budget import Widths
from slimkit.selection.ranking import Context
from slimkit.settings import Budget
from slimkit.training import Recipe


def stripes(count: int = 96) -> TensorSplit:
    """Noisy 6x6 images of 3 classes: a bright row, a bright column, neither."""
    random = torch.Generator().manual_seed(7)
    labels = torch.arange(count) % 3
    images = torch.randint(0, 120, (count, 1, 6, 6), generator=random, dtype=torch.uint8)
    places = torch.randint(6, (count,), generator=random)
    for image, label, place in zip(images, labels, places, strict=True):
        if label < 2:
            image[0].transpose(0, int(label))[place] += 130
    return TensorSplit(images=images, labels=labels, mean=(0.3,), std=(0.25,), augmentation=Augmentation(1, True))


def network(dropout: float = 0.0, seed: int = 0) -> nn.Sequential:
    """Two convolutions with BN, a classifier; dropout makes it depend on the random generator."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3, padding=1, bias=False),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.AdaptiveMaxPool2d(1),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(12, 3),
    )


def recipe(**changes: object) -> Recipe:
    """Settings for `stripes`: 3 epochs of 6 steps, on the CPU in fp32."""
    settings: dict[str, object] = {"epochs": 3, "batch_size": 16, "learning_rate": 0.1}
    return Recipe(**{**settings, "device": "cpu", "precision": "fp32", **changes})  # type: ignore[arg-type]


def job(model: nn.Module, asked: Recipe | None = None, dataset: Dataset | None = None, **more: object) -> Job:
    """What a method that removes no channels works on; the stripes for all splits unless there is a data set."""
    three = dict.fromkeys(("train", "validation", "test"), stripes())
    dataset = dataset or Dataset(name="stripes", classes=3, input_shape=(1, 6, 6), **three)
    unused = Selection(Budget("ratio", 0.5), Widths(), "gamma", "group", Context(), ())
    settings: dict = {"fresh": lambda: network(seed=1), "store": None, "progress": quiet, **more}
    graph = trace(model, torch.zeros(1, *dataset.input_shape))
    return Job(model, graph, dataset, asked or recipe(), unused, **settings)


def accuracy(model: nn.Module) -> float:
    """Share of the stripes that are told right."""
    [(images, labels)] = stripes().batches(96)
    with torch.no_grad():
        return float((model(images).argmax(1) == labels).double().mean())


def same(one: nn.Module, other: nn.Module) -> None:
    """Assert that two networks are equal to the bit."""
    mine, theirs = one.state_dict(), other.state_dict()
    assert mine.keys() == theirs.keys()
    different = [name for name in mine if not torch.equal(mine[name], theirs[name])]
    assert not different


def mean_and_variance(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and unbiased variance per channel of [N, C, H, W], by the definition, in double precision."""
    wide = values.double().transpose(0, 1).flatten(1)
    return wide.mean(1), wide.var(1)
