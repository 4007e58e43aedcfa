"""BatchNorm's statistics where calibration inputs stand beside labelled data, and where nothing is to be recovered."""

import pytest
import torch

import slimkit
from slimkit import data, provenance
from tests.report_sample import CHECKPOINT


@pytest.mark.long
@pytest.mark.parametrize("beside", ["darker", "of two classes"])
def test_after_retraining_they_are_of_what_was_trained_on(beside: str) -> None:
    net = slimkit.load(CHECKPOINT)
    digits = data.open("digits").normalised(provenance.of(net).normalisation)
    images, labels = (torch.cat(parts) for parts in zip(*digits.train.batches(256), strict=True))
    calibration = images * 0.5 - 0.6 if beside == "darker" else images[labels < 2]
    asked = {"dataset": "digits", "epochs": 3, "onnx": False, "ranking": "group-norm", "calibration": calibration}
    report = slimkit.compress(net, images[:1], 0.5, **asked).report
    assert report.recovery.delivered and report.after.accuracy.test > 0.95  # 0.79 and 0.91 before


def test_without_recovery_constants_are_folded_and_no_more() -> None:
    net = slimkit.load(CHECKPOINT)
    image = torch.zeros(1, 1, 8, 8)
    asked = {"dataset": "digits", "epochs": 0, "onnx": False}
    rows = {
        recover: [(row.constants, row.batch_norm) for row in
                  slimkit.compress(net, image, 0.5, recover=recover, constants="fold", **asked).report.after_cut]
        for recover in (False, True)
    }  # fmt: skip
    assert rows[False] == [("zero", "as trained"), ("fold", "as trained")]
    assert rows[True] == [("zero", "as trained"), ("fold", "re-estimated")]
