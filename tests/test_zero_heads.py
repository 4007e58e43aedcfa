"""Networks whose head or branches begin at zero are trained by every method, and what is said of them is true."""

from typing import Any

import pytest
import torch
from torch import nn

import slimkit
from slimkit import zoo
from slimkit.errors import ProofError
from slimkit.methods import METHODS

OWN: dict[str, dict[str, Any]] = {"early-bird": {"at": 1, "l1": 0.0}, "factorised": {"rank_share": 0.95}}


def zeroed(*names: str) -> nn.Module:
    model = zoo.resnet8(num_classes=10, in_channels=1, width=4)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(names):
                parameter.zero_()
    return model


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_a_network_whose_head_begins_at_zero(method):
    own = OWN.get(method, {})
    settings = {} if not METHODS[method].removes else {"ratio": 0.3, "round_to": 1}
    model = zeroed("fc.weight", "fc.bias")
    found = slimkit.train(model, "digits", method=method, epochs=1, onnx=False, **settings, **own)
    trained = dict(found.model.named_parameters())
    assert all(bool(parameter.isfinite().all()) for parameter in trained.values())
    assert any(parameter.any() for name, parameter in trained.items() if name.startswith("fc."))


def test_initial_weights_stay_those_that_were_given():
    model = zeroed("fc.weight", "bn2.weight")
    learnt = {"ratio": 0.3, "round_to": 1, "control": "scratch-E", "weights": "initial", "learning_rate": 1e-9}
    slim = slimkit.train(model, "digits", method="scratch", epochs=1, onnx=False, **learnt).model
    zeros = {name for name, parameter in model.named_parameters() if not parameter.any()}
    small = dict(slim.named_parameters())
    assert zeros and all(small[name].abs().max() < 1e-6 for name in zeros)


@pytest.mark.parametrize("names", [("fc.weight",), ("fc.weight", "fc.bias")])
def test_a_network_that_says_nothing_yet_is_not_told_that_its_cut_was_too_deep(names):
    with pytest.raises(ProofError, match="(?s)outputs of the one given, .*begins at zero"):
        slimkit.compress(zeroed(*names).eval(), torch.randn(1, 1, 8, 8), 0.3)
