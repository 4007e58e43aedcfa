"""Data as people have it: by name, folders, loaders; splits whose order is a pure function of seed and epoch."""

from slimkit.data.alike import alike
from slimkit.data.at_once import Readable, at_once, of_size
from slimkit.data.augmentation import Augmentation
from slimkit.data.catalogue import NAMES, as_dataset, as_inputs, open, open_inputs
from slimkit.data.class_names import in_order_of, same_in_order_of
from slimkit.data.dataset import Batches, Dataset, Split, some
from slimkit.data.digest import digest
from slimkit.data.fit import check_fits, check_runs
from slimkit.data.inputs import Inputs, as_images, chosen, different, parted
from slimkit.data.loader_split import LoaderSplit, read_by
from slimkit.data.pictures import Reading
from slimkit.data.prepared import prepared
from slimkit.data.smaller import smaller
from slimkit.data.tensor_split import TensorSplit

__all__ = [
    "NAMES",
    "Augmentation",
    "Batches",
    "Dataset",
    "Inputs",
    "LoaderSplit",
    "Readable",
    "Reading",
    "Split",
    "TensorSplit",
    "alike",
    "as_dataset",
    "as_images",
    "as_inputs",
    "at_once",
    "check_fits",
    "check_runs",
    "chosen",
    "different",
    "digest",
    "in_order_of",
    "of_size",
    "open",
    "open_inputs",
    "parted",
    "prepared",
    "read_by",
    "same_in_order_of",
    "smaller",
    "some",
]
