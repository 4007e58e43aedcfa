"""Calibration inputs are those of the run: parted from what it chooses by, with its seed."""

from pathlib import Path
from typing import Any

import pytest

from slimkit import data, models, zoo
from slimkit.progress import quiet
from slimkit.runs import opening
from slimkit.settings import CompressSpec

CHECKPOINT = Path(zoo.__file__).parent / "resnet8-digits.safetensors"


def _images(split: Any) -> set[bytes]:
    return {one.numpy().tobytes() for batch, _ in split.batches(500) for one in batch}


@pytest.mark.parametrize("seed", [0, 1])
def test_named_data_is_parted_alike_for_calibration(seed: int) -> None:
    """Seed 0 parted it whatever the run's: of 144 images of validation 127 were fitted to."""
    spec = CompressSpec(data="digits", calibration="digits", seed=seed)
    network = models.load(CHECKPOINT)
    labelled = opening.open_data(spec, network, quiet)
    inputs = opening.given_inputs(None, spec, network, quiet)
    assert labelled is not None and inputs is not None
    assert _images(inputs.split) == _images(labelled.train)
    assert not _images(inputs.split) & _images(labelled.validation)
    assert _images(data.as_inputs("digits", seed=seed).split) == _images(data.open("digits", seed=seed).train)


def test_a_function_of_ones_own_is_called_with_the_seed_of_the_run(tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text("import torch\ndef make(seed):\n    return torch.full((9, 1, 8, 8), float(seed))\n")
    spec = CompressSpec(calibration=f"{mine}:make", seed=7)
    inputs = opening.given_inputs(None, spec, models.load(CHECKPOINT), quiet)
    assert inputs is not None and all(float(batch.min()) == 7 for batch, _ in inputs.split.batches(3))
