"""The caller's GPU goes on as if slimkit had not run: its random numbers, its switches, its memory that nobody used."""

import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import slimkit
from slimkit import example, hardware
from slimkit.training import distributed


class Dropping(nn.Sequential):
    """A small network that draws in training and notes how numbers were to be computed."""

    seen: ClassVar[set[tuple[str, bool]]] = set()  # of all copies

    def __init__(self) -> None:
        features = (nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.1))
        super().__init__(*features, nn.Flatten(), nn.Linear(800, 3))

    def forward(self, x: Tensor) -> Tensor:
        self.seen.add((torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32))
        out: Tensor = super().forward(x)
        return out


def pictures(folder: Path) -> str:
    """Write pictures of three classes; return what opens them."""
    for split, count in (("train", 8), ("val", 4), ("test", 4)):
        for number in range(3):
            (folder / split / f"class{number}").mkdir(parents=True)
            for index in range(count):
                shade = (80 * number + 10, index * 9, 128)
                Image.new("RGB", (12, 12), shade).save(folder / split / f"class{number}" / f"{index}.png")
    return f"folder:{folder}"


@pytest.mark.parametrize("run", ["compress", "train"])
def test_no_gpu_is_touched_by_a_run_on_the_cpu(run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def touched(*given: Any, **named: Any) -> Any:
        raise AssertionError("a GPU was touched")

    for name in ("manual_seed_all", "manual_seed", "get_rng_state", "set_rng_state"):
        monkeypatch.setattr(torch.cuda, name, touched)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    how: dict[str, Any] = {"device": "cpu", "epochs": 1, "batch_size": 8, "ratio": 0.3}
    if run == "compress":
        found = slimkit.compress(Dropping(), torch.randn(1, 3, 12, 12), dataset=pictures(tmp_path), **how)
    else:
        tensors = torch.randn(64, 3, 12, 12), torch.arange(64) % 3
        found = slimkit.train(Dropping(), (tensors, tensors), method="network-slimming", **how)
    assert found.report.proof.error <= found.report.proof.tolerance


def test_a_gpu_that_is_in_use_goes_on_with_its_own_random_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    states, told = {0: torch.arange(16, dtype=torch.uint8)}, []

    def seed_all(seed: int) -> None:
        told.append(seed)
        states[0] = torch.ones(16, dtype=torch.uint8)

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device=0: states[int(device)].clone())
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device=0: states.update({int(device): state}))
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seed_all)
    with hardware.seeded(5):
        assert told == [5] and states[0].tolist() == [1] * 16
    assert states[0].tolist() == list(range(16))


_DRAWS = """
import random, numpy, torch
from slimkit import data
def states(): return random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
random.seed(5)
before = states()
data.open("digits")
print([a == b for a, b in zip(before, states())])
"""


def test_the_first_digits_of_a_process_draw_nothing() -> None:
    """What scikit-learn imports does."""
    done = subprocess.run([sys.executable, "-c", _DRAWS], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[True, True, True]"


@pytest.mark.parametrize("asked", ["highest", "high", "medium"])
def test_float32_is_not_rounded_in_a_run_and_is_as_it_was_after_it(asked: str) -> None:
    net, before = Dropping(), torch.get_float32_matmul_precision()
    net.seen.clear()
    torch.set_float32_matmul_precision(asked)
    try:
        slimkit.compress(net, torch.randn(1, 3, 12, 12), ratio=0.3, recover=False)
        assert torch.get_float32_matmul_precision() == asked
    finally:
        torch.set_float32_matmul_precision(before)
    assert net.seen == {("highest", False)}
    assert torch.backends.cudnn.allow_tf32


def test_switches_that_somebody_has_set_apart_stay_theirs() -> None:
    cudnn: Any = torch.backends.cudnn
    cudnn.conv.fp32_precision, before = "ieee", cudnn.conv.fp32_precision
    try:
        with hardware.plain_precision():
            assert (cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision) == ("ieee", before)
        assert (cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision) == ("ieee", before)
    finally:
        cudnn.conv.fp32_precision = before


def test_only_what_goes_to_a_gpu_need_not_be_waited_for() -> None:
    waited = {}

    class Told(Tensor):
        def to(self, device: torch.device, *, non_blocking: bool = False) -> "Told":  # type: ignore[override]
            waited[device.type] = not non_blocking
            return self

    for device in ("cpu", "cuda"):
        example.on(torch.device(device), [torch.zeros(1).as_subclass(Told)])
    assert waited == {"cpu": True, "cuda": False}


@pytest.mark.parametrize(
    ("asked", "world", "expected"),
    [
        ("cuda", {"LOCAL_RANK": "3", "WORLD_SIZE": "4"}, "cuda:3"),
        ("cuda", {"LOCAL_RANK": "5", "WORLD_SIZE": "8"}, "cuda:1"),
        ("cuda:1", {"LOCAL_RANK": "3", "WORLD_SIZE": "4"}, "cuda:1"),
        ("cuda:1", {"LOCAL_RANK": "0", "WORLD_SIZE": "1"}, "cuda:1"),
        ("cuda", {"LOCAL_RANK": "0", "WORLD_SIZE": "1"}, "cuda"),
        ("cuda", {}, "cuda"),
        ("cpu", {"LOCAL_RANK": "3", "WORLD_SIZE": "4"}, "cpu"),
    ],
)
def test_the_gpu_that_is_named_is_taken(
    asked: str, world: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in world.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert str(distributed.local_device(torch.device(asked))) == expected
