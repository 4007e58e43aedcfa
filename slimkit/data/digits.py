"""scikit-learn's digits: 1,797 images of 8x8 pixels, inside the package."""

from pathlib import Path

import torch

from slimkit.data.augmentation import Augmentation
from slimkit.data.dataset import Dataset
from slimkit.data.order import drawing, split_indices
from slimkit.data.tensor_split import held_out, in_memory
from slimkit.errors import EngineError


def digits(root: Path | None, seed: int) -> Dataset:
    """Open the digits; a fifth is the test split, for every seed the same. It has no `root`: the package has them.

    Raises:
        EngineError: scikit-learn is not installed.
    """
    try:
        with drawing("digits"):  # importing it draws from Python's random
            from sklearn.datasets import load_digits
    except ImportError:
        raise EngineError(
            "the data set 'digits' was asked for, but scikit-learn, which has it, is not installed.\n"
            "  Install it: pip install 'slimkit[digits]'"
        ) from None

    raw = load_digits()
    images = torch.from_numpy(raw.images).mul(255 / 16).round().to(torch.uint8).unsqueeze(1)  # were 0 .. 16
    labels = torch.from_numpy(raw.target).to(torch.int64)
    rest, test = split_indices(len(images), 0.2, "digits", "test")
    train, validation = held_out("digits", (images[rest], labels[rest]), seed)
    return in_memory(
        "digits",
        train,
        validation,
        (images[test], labels[test]),
        classes=10,
        augmentation=Augmentation(pad=1),
        class_names=[str(digit) for digit in range(10)],
    )
