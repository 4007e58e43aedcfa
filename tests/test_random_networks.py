"""Networks that draw random numbers in evaluation mode: compressed alike each time, and told for what they are."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import slimkit
from slimkit.errors import EngineError
from tests.blocks import conv_bn

X = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
Draw = Callable[[Tensor], Tensor]
FOR_ALL: dict[str, Draw] = {  # one number for all channels
    "noise": lambda y: y + 0.1 * torch.randn(y.shape[0], 1, *y.shape[2:]),
    "a scale": lambda y: y * torch.rand(y.shape[0], 1, 1, 1),
}
FOR_EACH: dict[str, Draw] = {
    "dropout": lambda y: F.dropout(y, 0.3),
    "noise like": lambda y: y + 0.1 * torch.randn_like(y),
    "a mask": lambda y: y * torch.bernoulli(torch.full_like(y, 0.5)),
}


class Draws(nn.Module):
    """Scores, and a second output that no random number reaches."""

    def __init__(self, draw: Draw, both: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.out = conv_bn(3, 16), conv_bn(16, 16), nn.Linear(16, 5)
        self.draw, self.both = draw, both

    def forward(self, x: Tensor) -> Any:
        y = self.first(x)
        scores = self.out(self.second(self.draw(y)).mean((2, 3)))
        return (scores, self.out(y.mean((2, 3)))) if self.both else scores


@pytest.mark.parametrize("given", ["nothing", "inputs"])
def test_a_run_leaves_random_numbers_as_they_were_and_is_a_function_of_its_seed(given: str) -> None:
    inputs = {} if given == "nothing" else {"calibration": torch.randn(64, 3, 8, 8)}
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        net = Draws(FOR_ALL["noise"]).eval()
        torch.set_rng_state(before)
        found.append(slimkit.compress(net, X, 0.5, onnx=False, **inputs).model.state_dict())
        assert torch.equal(before, torch.get_rng_state())
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


@pytest.mark.parametrize("name", [*FOR_ALL, *FOR_EACH])
def test_channels_with_random_numbers_of_their_own_are_kept_and_told(name: str) -> None:
    each = name in FOR_EACH
    net = Draws((FOR_ALL | FOR_EACH)[name]).eval()
    graph = slimkit.trace(net, X)
    kept = {one.layer: one.reason for one in graph.kept}
    assert ("first.0" in kept) is each and "second.0" not in kept
    assert not each or "gets a random number for each channel in evaluation mode" in kept["first.0"]
    proof = slimkit.compress(net, X, 0.5, recover=False, onnx=False).report.proof
    assert not proof.kept_after_failing


def test_dropout_that_is_on_in_training_alone_keeps_nothing() -> None:
    assert not [one for one in slimkit.trace(Draws(nn.Dropout(0.3)).eval(), X).kept if not one.output]


def test_onnx_is_held_to_what_no_random_number_reaches(tmp_path: Path) -> None:
    net = Draws(FOR_ALL["noise"], both=True).eval()
    found = slimkit.compress(net, X, 0.5, recover=False, out=tmp_path / "out")
    assert (tmp_path / "out" / "model.onnx").exists() and found.report.proof.slim_vs_onnx is not None
    assert any("1 of 2 outputs of the ONNX file depend on random numbers" in text for text in found.report.warnings)


def test_a_file_that_draws_no_numbers_is_none_of_a_network_that_does(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="draws random numbers in evaluation mode, the file does not"):
        slimkit.export_onnx(Draws(FOR_EACH["dropout"], both=True).eval(), tmp_path / "net.onnx", X)


def test_a_network_of_random_outputs_alone_has_no_onnx_file(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"depends on random numbers(?s:.*)let it draw none"):
        slimkit.export_onnx(Draws(FOR_ALL["noise"]).eval(), tmp_path / "net.onnx", X)
