"""Do a data set and a network go together?"""

import torch
from torch import nn

from slimkit import provenance
from slimkit.data.dataset import Dataset
from slimkit.errors import DataError


def check_fits(dataset: Dataset, model: nn.Module) -> None:
    """Run the network on one blank image of the data set's shape and compare the number of classes.

    Raises:
        DataError: other channels, an image size that the network cannot take, or another number of classes.
    """
    shape = dataset.input_shape
    known = provenance.of(model).input_shape
    if known is not None and known[0] != shape[0]:
        raise DataError(
            f"--data {dataset.name}: its images have {shape[0]} channels, the network takes {known[0]}.\n"
            "  Give the data the network was trained for"
        )
    was_training = model.training
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    try:
        with torch.no_grad():
            logits = model.eval()(torch.zeros(1, *shape, device=device))
    except RuntimeError as error:
        raise DataError(
            f"--data {dataset.name}: the network does not run on its images of shape {list(shape)}: "
            f"{str(error).splitlines()[0]}.\n  Give the data the network was trained for"
        ) from error
    finally:
        model.train(was_training)
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2:
        raise DataError(
            f"--data {dataset.name}: the network is no classifier: it does not return logits [N, classes].\n"
            "  Leave --data out"
        )
    if logits.shape[1] != dataset.classes:
        raise DataError(
            f"--data {dataset.name}: it has {dataset.classes} classes, the network {logits.shape[1]}.\n"
            "  Give the data the network was trained for"
        )
