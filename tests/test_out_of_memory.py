"""Memory that runs out is told as its user can mend it, wherever a network runs, and never held against the network."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import slimkit
from slimkit import data, out_of_memory, training
from slimkit.cli import run
from slimkit.measure import quality
from slimkit.recovery.calibration import chunks
from slimkit.recovery.made_images import made_images
from slimkit.runs.arms.workers import answer
from slimkit.training.layout import layout

ERRORS = {
    "a GPU's": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
    "a GPU's, in other words": lambda: RuntimeError("CUDA error: out of memory"),
    "the CPU's": lambda: RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),
    "Python's": MemoryError,
}


class Large(nn.Module):
    """Raises on more images than there is memory for; `least`: so many are too many."""

    def __init__(self, error: Callable[[], Exception], least: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3))
        self.end = nn.Linear(8, 10)
        self.error, self.least = error, least
        for module in self.modules():  # statistics that were learned
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean = torch.full((8,), 0.1)
                module.num_batches_tracked += 1

    def forward(self, x: Tensor) -> Tensor:
        if len(x) >= self.least:
            raise self.error()
        y: Tensor = self.end(self.body(x).mean((2, 3)))
        return y


def images(count: int = 64) -> data.TensorSplit:
    return data.TensorSplit(images=torch.randn(count, 1, 8, 8), labels=torch.arange(count) % 10)


def pairs() -> data.Dataset:
    return data.as_dataset({"train": images(), "validation": images()})


ROADS: dict[str, Callable[[Callable[[], Exception]], Any]] = {
    "trace": lambda error: slimkit.trace(Large(error), torch.randn(1, 1, 8, 8)),
    "evaluate": lambda error: quality.evaluate(Large(error), images()),
    "calibrate": lambda error: chunks([torch.randn(16, 1, 8, 8)], model=Large(error)),
    "made images": lambda error: made_images(Large(error), (1, 8, 8), count=8, steps=2),
    "layout": lambda error: layout(Large(error), torch.randn(2, 1, 8, 8)),
    "retrain": lambda error: training.train(Large(error), images(), training.Recipe(epochs=1, batch_size=8)),
    "compress": lambda error: slimkit.compress(
        Large(error, 16), torch.randn(1, 1, 8, 8), 0.5, dataset=pairs(), epochs=1, batch_size=16, device="cpu"
    ),
    "train": lambda error: slimkit.train(Large(error, 16), pairs(), 0.5, epochs=1, batch_size=16, device="cpu"),
}


@pytest.mark.parametrize("kind", ERRORS)
@pytest.mark.parametrize("road", ROADS)
def test_it_is_told_wherever_a_network_runs(road: str, kind: str) -> None:
    if road == "layout" and kind == "Python's":
        pytest.skip("which passes through as it is")
    with pytest.raises(slimkit.DeviceMemoryError, match="memory ran out.*\n.*smaller `batch_size`") as found:
        ROADS[road](ERRORS[kind])
    assert ("device='cpu'" in str(found.value)) == kind.startswith("a GPU")


@pytest.mark.parametrize("kind", ERRORS)
def test_the_command_ends_with_2(
    kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ERRORS[kind]()

    monkeypatch.setattr("slimkit.runs.compress.compress_checkpoint", fail)
    Path("net.pt").touch()
    assert run(["compress", "net.pt", "--ratio", "0.5"]) == 2
    said = capsys.readouterr().err
    assert "memory ran out" in said and "--batch-size" in said and "Traceback" not in said


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("kind", ERRORS)
def test_an_arm_of_a_study_fails_by_it_alone(kind: str) -> None:
    def task(_: object) -> None:
        raise ERRORS[kind]()

    assert isinstance(answer(task, None), slimkit.DeviceMemoryError)


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), ValueError("memory format"), KeyError("memory")])
def test_other_errors_are_what_they_are(error: Exception) -> None:
    assert out_of_memory.of(error) is None
    with pytest.raises(type(error)), out_of_memory.told():
        raise error
