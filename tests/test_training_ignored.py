"""Several processes, and targets that do not count: training is that of one process."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn
from torch.nn import functional as F

from slimkit import training
from slimkit.data.tensor_split import TensorSplit
from slimkit.tasks import SEGMENTATION, Task

RECIPE = training.Recipe(
    epochs=4,
    batch_size=8,
    learning_rate=0.1,
    warm_up=0.0,
    device="cpu",
    precision="fp32",
    augment=False,
    weight_decay=0,
)


class Heads(nn.Module):
    """One main and one auxiliary map of three classes."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.body, self.out, self.aux = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 3, 1), nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = self.body(x).relu()
        return {"out": self.out(y), "aux": self.aux(y)}


def split(share: float) -> TensorSplit:
    """Eight images; of every other one this share of the pixels has no class, so that processes have unlike numbers."""
    random = torch.Generator().manual_seed(1)
    images = torch.randn(8, 1, 8, 8, generator=random)
    masks = (images[:, 0] > 0).long() + (images[:, 0] > 1).long()
    masks[::2] = torch.where(torch.arange(64).view(8, 8) < 64 * share, 255, masks[::2])
    return TensorSplit(images=images, labels=masks)


def own_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets, ignore_index=255)


OWN = Task.of(loss=own_loss, metrics={"loss": own_loss}, better="lower", counted=lambda targets: (targets != 255).sum())
CASES: dict[str, dict[str, Any]] = {
    "most": {"share": 0.96},
    "every pixel of some images": {"share": 1},
    "none": {"share": 0},
    "smoothed": {"share": 0.9, "label_smoothing": 0.1},
    "with a teacher": {"share": 0.9, "distillation": 0.5},
    "own loss that says what counts": {"share": 0.9, "task": OWN},
}


def trained(share: float, task: Task = SEGMENTATION, **settings: Any) -> list[Any]:
    recipe = training.Recipe(**{**vars(RECIPE), **settings})
    teacher = Heads(1) if recipe.distillation else None
    found = training.train(Heads(0), split(share), recipe, task=task, teacher=teacher)
    return [found.model.state_dict(), [epoch.loss for epoch in found.history]]


def one_of_two(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meet'}", rank=rank, world_size=2)
    torch.save({name: trained(**case) for name, case in CASES.items()}, folder / f"of {rank}")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("two")
    spawn(one_of_two, (folder,), nprocs=2)
    first, second = (torch.load(folder / f"of {rank}") for rank in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    return first


@pytest.mark.long
@pytest.mark.parametrize("name", CASES)
def test_two_processes_weigh_the_pixels_that_have_a_class_as_one_does(name: str, two: dict[str, Any]) -> None:
    """Each divided by its own number of them: the last loss was 0.91, and 0.97 in one process."""
    torch.testing.assert_close(two[name], trained(**CASES[name]), rtol=1e-4, atol=1e-5)
