"""Messages of the library name arguments; the command names flags."""

from pathlib import Path

import pytest
import torch

from slimkit import data
from slimkit.errors import CheckpointError, DataError
from slimkit.models.files import kind
from slimkit.quantity import number_of
from slimkit.settings.words import as_flags
from slimkit.tasks import CLASSIFICATION, SEGMENTATION


@pytest.mark.parametrize(
    ("library", "command"),
    [
        ("Add `data='digits'`, or leave `int8` out", "Add --data digits, or leave --int8 out"),
        ("Give `round_to=1` or `cap=0.98`", "Give --round-to 1 or --cap 0.98"),
        ("Give `data_root=DIR`", "Give --data-root DIR"),
        ("Give `trust_pickle=True` or `distill=False`", "Give --trust-pickle or --no-distill"),
        ("Give `arch='net.py:make(n=6)'`", "Give --arch 'net.py:make(n=6)'"),
        ("Give `data='folder:my photos'`", "Give --data 'folder:my photos'"),
        ("Leave out `keep='layer*'`", "Leave out --keep 'layer*'"),
        ("`Two Words` and `torch.nn` stay", "`Two Words` and `torch.nn` stay"),
    ],
)
def test_arguments_become_flags(library: str, command: str) -> None:
    assert as_flags(library) == command


@pytest.mark.parametrize(
    ("count", "what", "said"),
    [(1, "epoch", "1 epoch"), (0.25, "epoch", "0.25 epochs"), (1.0, "class", "1 class"), (2, "class", "2 classes")],
)
def test_counts_agree_with_their_nouns(count: float, what: str, said: str) -> None:
    assert number_of(count, what) == said


@pytest.mark.parametrize("url", ["file:///tmp/a", "https://a.org/b.zip", "s3://a/b"])
def test_a_url_is_said_to_be_one(url: str) -> None:
    with pytest.raises(DataError, match="is a URL.*\n.*path on this machine"):
        data.open(url)
    with pytest.raises(CheckpointError, match="is a URL.*path on this machine"):
        kind(Path(url))


def test_labels_of_no_class_are_named() -> None:
    outputs, targets = torch.zeros(3, 4), torch.tensor([0, 1, -100])
    assert "-100 is below 0" in str(CLASSIFICATION.misfit(outputs, targets, None))
    masks = torch.full((3, 2, 2), -100)
    assert "give 255 to what is of none" in str(SEGMENTATION.misfit(torch.zeros(3, 4, 2, 2), masks, None))
