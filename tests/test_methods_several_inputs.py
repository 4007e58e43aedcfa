"""Every method trains networks that take several inputs: an example is one of the data's, not a tensor of its shape."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from slimkit import data, models
from slimkit.methods import METHODS
from slimkit.runs import study as studying
from slimkit.runs.job import job_of
from slimkit.runs.plan import plan
from tests.study_sample import SETTINGS

CODE = """
import torch
from tests.test_methods_several_inputs import Two, parts

def make(num_classes=3): return Two()
def two(seed): return parts()
"""
MORE: dict[str, dict[str, Any]] = {
    "early-bird": {"at": 2},
    "network-slimming": {"passes": 2},
    "progressive": {"dead": 0.5, "removal": 2},
    "weight-ticket": {"rounds": 2},
    "factorised": {"rank_share": 0.9},
}


class Two(nn.Module):
    """A picture, and a row of a table."""

    def __init__(self) -> None:
        super().__init__()
        self.picture = nn.Sequential(
            nn.Conv2d(1, 12, 3), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 24, 3), nn.BatchNorm2d(24), nn.ReLU()
        )
        self.row = nn.Sequential(nn.Linear(5, 16), nn.BatchNorm1d(16), nn.ReLU())
        self.out = nn.Sequential(nn.Linear(40, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 3))

    def forward(self, picture: Tensor, row: Tensor) -> Tensor:
        found: Tensor = self.out(torch.cat([self.picture(picture).mean((2, 3)), self.row(row)], 1))
        return found


def parts() -> dict[str, Any]:
    """Batches of both with classes of a data set in three parts."""
    random = torch.Generator().manual_seed(0)

    def batch() -> Any:
        return (torch.randn(16, 1, 8, 8, generator=random), torch.randn(16, 5, generator=random)), torch.arange(16) % 3

    return {name: [batch() for _ in range(count)] for name, count in (("train", 6), ("validation", 1), ("test", 1))}


@pytest.mark.long
@pytest.mark.parametrize("method", METHODS)
def test_a_method_trains_a_network_of_two_inputs(method: str) -> None:
    asked: dict[str, Any] = {
        "epochs": 4,
        "batch_size": 16,
        "device": "cpu",
        "precision": "fp32",
        **MORE.get(method, {}),
    }
    if METHODS[method].removes and method != "scratch":
        asked |= {"ratio": 0.4, "round_to": 1}
    known = plan({"arch": "x.py:make", "data": "two", "method": method, **asked})
    torch.manual_seed(0)
    dataset = data.as_dataset(parts())
    job = job_of(models.as_network(Two(), None), Two, dataset, known)
    found = known.method(job, known.config)
    inputs, _ = next(iter(dataset.test.batches(16)))
    assert found.model(*inputs).shape == (16, 3)


def test_a_study_trains_a_network_of_two_inputs(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    (tmp_path / "two.py").write_text(CODE)
    names = {name: value for name, value in SETTINGS.items() if name != "images"}
    asked = {
        **names,
        "arch": f"{tmp_path}/two.py:make",
        "data": f"{tmp_path}/two.py:two",
        "methods": ["uniform", "dense"],
    }
    [narrow, dense] = studying.study({**asked, "seeds": 1, "latency": True}, tmp_path / "out", workers=0).arms
    assert narrow.macs < dense.macs
    assert dense.clock.latency_ms is not None
