"""Networks that return classes, masks, single numbers, or as many as the data makes, through `compress`."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import slimkit
from slimkit.errors import TrainingError
from tests.blocks import conv_bn

OUTPUTS: dict[str, tuple[Callable[[Tensor], Any], bool]] = {  # what is made of scores, and whether it can be compared
    "classes": (lambda scores: scores.argmax(1), False),
    "a mask": (lambda scores: scores > 0, False),
    "as many as the data makes": (lambda scores: scores[scores > 0], False),
    "one number": (lambda scores: scores.sum(), True),
    "scores and classes": (lambda scores: (scores, scores.argmax(1)), True),
    "complex numbers": (lambda scores: torch.complex(scores, 2 * scores), True),
    "a nested tensor": (lambda scores: torch.nested.nested_tensor([scores[0], scores[0][:3]]), True),
}


class Returns(nn.Module):
    """Scores [N, 40], and what is made of them; BatchNorm with statistics of inputs."""

    def __init__(self, make: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.first, self.second, self.out = conv_bn(3, 16), conv_bn(16, 16), nn.Linear(16, 40)
        self.make = make
        for norm in (self.first[1], self.second[1]):
            norm.momentum = None
            nn.init.normal_(norm.bias)
        with torch.no_grad():
            self.second(self.first(torch.randn(256, 3, 8, 8)))

    def forward(self, x: Tensor) -> Any:
        return self.make(self.out(self.second(self.first(x)).mean((2, 3))))


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("given", ["nothing", "inputs"])
@pytest.mark.parametrize("name", OUTPUTS)
def test_what_says_nothing_is_left_out(name: str, given: str) -> None:
    torch.manual_seed(0)
    make, compared = OUTPUTS[name]
    inputs = {} if given == "nothing" else {"calibration": torch.randn(64, 3, 8, 8)}
    found = slimkit.compress(Returns(make).eval(), torch.randn(1, 3, 8, 8), 0.5, onnx=False, epochs=0, **inputs)
    errors = [row.output_error for row in found.report.after_cut]
    assert all((error is not None) is compared for error in errors)
    assert (found.report.fit is not None) is compared
    said = [text for text in found.report.warnings if text.startswith("Nothing was fitted: what the network returns")]
    assert len(said) == (not compared)
    assert found.report.channels.removed > 0 and not found.report.proof.kept_after_failing


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("name", ["classes", "one number", "as many as the data makes", "a nested tensor"])
def test_what_has_no_rows_of_scores_is_not_imitated(name: str) -> None:
    net = Returns(OUTPUTS[name][0]).eval()
    with pytest.raises(TrainingError, match=r"cannot be imitated as classification(?s:.*)`epochs=0`"):
        slimkit.compress(net, torch.randn(1, 3, 8, 8), 0.5, onnx=False, epochs=1, calibration=torch.randn(64, 3, 8, 8))
