"""Data sets by name: splits that give batches in an order that is a pure function of seed and epoch."""

from slimkit.data.augmentation import Augmentation
from slimkit.data.catalogue import NAMES, open
from slimkit.data.dataset import Dataset, Split
from slimkit.data.fit import check_fits
from slimkit.data.loader_split import LoaderSplit
from slimkit.data.tensor_split import TensorSplit

__all__ = ["NAMES", "Augmentation", "Dataset", "LoaderSplit", "Split", "TensorSplit", "check_fits", "open"]
