"""What a refused budget says would allow it: no more than is needed, and only what does."""

import re
from typing import Any

import pytest
import torch
from torch import nn

import slimkit
from slimkit.errors import BudgetError


def convolutions(widths: tuple[int, ...] = (16, 24)) -> nn.Module:
    """Two convolutions and a head."""
    torch.manual_seed(0)
    first, second = widths
    body = (nn.Conv2d(1, first, 3), nn.ReLU(), nn.Conv2d(first, second, 3), nn.ReLU())
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(second, 4)).eval()


def made(**settings: Any) -> Any:
    images = torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    return slimkit.compress(convolutions(), images[:1], calibration=images, epochs=0, **settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"ratio": 0.6, "cap": 0.3, "round_to": 1},
        {"ratio": 0.5, "cap": 0.2, "round_to": 1},
        {"max_macs": 0.3, "cap": 0.2, "round_to": 1},
        {"max_params": 0.3, "cap": 0.2, "round_to": 1},
        {"ratio": 0.75, "cap": 0.3, "round_to": 4},
    ],
)
def test_the_cap_that_is_offered_is_the_least_that_does(settings: dict[str, Any]) -> None:
    """It was 0.98, whatever was asked for."""
    with pytest.raises(BudgetError) as error:
        made(**settings)
    found = re.search(r"allow more: `cap=(0\.\d+)`", str(error.value))
    assert found
    cap = float(found[1])
    with pytest.raises(BudgetError):
        made(**{**settings, "cap": round(cap - 0.01, 2)})
    assert made(**{**settings, "cap": cap}).report.groups
