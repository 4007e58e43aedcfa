"""Data sets by name, folders, and data of the user's own."""

from collections.abc import Callable
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

from slimkit import own_code
from slimkit.data.box_folder import box_folder
from slimkit.data.cifar import cifar10, cifar100
from slimkit.data.dataset import Dataset
from slimkit.data.digits import digits
from slimkit.data.factory import from_factory, made_by
from slimkit.data.fashion_mnist import fashion_mnist
from slimkit.data.folder import folder
from slimkit.data.inputs import Inputs, inputs_of
from slimkit.data.mask_folder import mask_folder
from slimkit.data.own import dataset_of
from slimkit.data.photos import photos
from slimkit.data.pictures import Reading
from slimkit.errors import DataError
from slimkit.progress import Progress, quiet
from slimkit.provenance import UNKNOWN, Provenance
from slimkit.tasks import CLASSIFICATION, DETECTION, SEGMENTATION, Task

NAMES: dict[str, Callable[[Path | None, int], Dataset]] = {
    "digits": digits,
    "fashion-mnist": fashion_mnist,
    "cifar10": cifar10,
    "cifar100": cifar100,
}
_IN_FOLDERS = ("fashion-mnist", "cifar10", "cifar100")  # that a root is for
_FOLDER = "folder:"
_YAML = (".yaml", ".yml")
_OF_TASK = {SEGMENTATION.name: mask_folder, DETECTION.name: box_folder}  # folders that are not of classes


def open(
    name: str,
    root: str | Path | None = None,
    seed: int = 0,
    *,
    task: Task | None = None,
    usual: Task | None = None,
    reading: Reading | None = None,
    own: Provenance = UNKNOWN,
    progress: Progress = quiet,
) -> Dataset:
    """Open a data set.

    Args:
        name: one of `NAMES`, `folder:PATH`, or a function of the user's own: `file.py:make`, `package.module:make`.
        root: folder with the files of a named data set; nothing is downloaded.
        seed: draws the validation split from the training images.
        task: what the targets are for, whatever the data says itself.
        usual: what they are for where neither `task` nor the data says it; classification unless given.
        reading: how the pictures of a folder are read; nothing else has use for it.
        own: what is known of the network: a folder's pictures are read as those that it was trained on, unless the
            reading says otherwise.
        progress: told how far a loader of the user's own is counted.

    Raises:
        DataError: unknown name; files missing or damaged; the reading does not suit the data, or a root does not.
    """
    _refuse_root(root, name)
    if ":" in name and not name.startswith(_FOLDER) and not name.endswith(_YAML):
        made = from_factory(name, seed, task, usual, own.input_shape, progress)
        _refuse(reading, name, made)
        return made
    task = task or usual  # folders and names bring none
    if name.startswith(_FOLDER):
        opener = _OF_TASK.get(task.name, folder) if task else folder
        opened = opener(_path(name), seed, reading, own)
        return opened if task in (None, opened.task) else replace(opened, task=task or opened.task)
    if name in NAMES:
        dataset = NAMES[name](None if root is None else Path(root), seed)
        if task not in (None, CLASSIFICATION):
            wanted = f"{task and task.name!r}.\n"
            if task and task.name == own.use.task:  # whether or not the settings say so too
                raise DataError(
                    f"data is {name!r}: its targets are classes, and the network's task is {wanted}"
                    "  Give the data of that task"
                )
            raise DataError(
                f"data is {name!r}: its targets are classes, and task is {wanted}"
                "  Leave `task` out, or give the data of that task"
            )
    elif name.endswith(_YAML):
        raise DataError(
            f"data is {name!r}: a yaml is a data set of Ultralytics, and needs a network of Ultralytics.\n"
            "  Give its checkpoint, such as yolo11n.pt, or other data: folder:PATH or file.py:make"
        )
    else:
        raise _unknown(name)
    _refuse(reading, name, dataset)
    return dataset


def open_inputs(
    name: str,
    root: str | Path | None = None,
    seed: int = 0,
    *,
    reading: Reading | None = None,
    own: Provenance = UNKNOWN,
    progress: Progress = quiet,
) -> Inputs:
    """Open inputs without targets, to calibrate on; the arguments are those of `open`.

    A folder may be flat; a named data set gives its training images, which are others for each seed, a function of the
    user's own whatever `inputs_of` takes.

    Raises:
        DataError: as `open` does.
    """
    _refuse_root(root, name)
    if name.startswith(_FOLDER):
        return photos(_path(name), reading, own)
    if name not in NAMES and ":" in name:
        given = f"calibration {name!r}"
        made = made_by(name, given, {"seed": seed, "input_shape": own.input_shape})
        return inputs_of(made, name=given, progress=progress)
    dataset = open(name, root, seed, reading=reading)
    return inputs_of(dataset.normalised(own.normalisation) if own.normalisation else dataset)


def as_dataset(
    anything: object,
    *,
    task: Task | None = None,
    usual: Task | None = None,
    seed: int = 0,
    progress: Progress = quiet,
) -> Dataset:
    """Make a data set of a name, or of what `slimkit.data.own.dataset_of` describes, as are the arguments.

    Raises:
        DataError: it is nothing of this.
    """
    if isinstance(anything, str):
        return open(anything, seed=seed, task=task, usual=usual, progress=progress)
    return dataset_of(anything, task=task, usual=usual, seed=seed, progress=progress)


def as_inputs(anything: object, progress: Progress = quiet, *, seed: int = 0) -> Inputs:
    """Make inputs of a name such as `folder:photos`, or of what `slimkit.data.inputs.inputs_of` takes.

    `seed`: parts the images of a named data set as it does in `open`.

    Raises:
        DataError: it is nothing of this.
    """
    if isinstance(anything, str):
        return open_inputs(anything, seed=seed, progress=progress)
    return inputs_of(anything, progress=progress)


def _path(name: str) -> Path:
    own_code.refuse_url(name.removeprefix(_FOLDER), f"data {name!r}", DataError)
    return Path(name.removeprefix(_FOLDER)).expanduser()


def _refuse_root(root: str | Path | None, name: str) -> None:
    """Refuse a folder in which nothing would be looked for."""
    if root is not None and name not in _IN_FOLDERS:
        raise DataError(
            f"data_root is {str(root)!r}: {name!r} is not looked for there, only {', '.join(_IN_FOLDERS)} are.\n"
            "  Leave `data_root` out"
        )


def _refuse(reading: Reading | None, name: str, dataset: Dataset) -> None:
    """Refuse what would be ignored: only the pictures of a folder are read as one likes."""
    if reading is None or reading == Reading():
        return
    asked = replace(reading, input_shape=None)
    if asked != Reading():
        idle = next(key for key, value in vars(asked).items() if value != getattr(Reading(), key))
        raise DataError(
            f"{idle} is set: the images of {name!r} are what they are.\n  Leave it out, or give folder:PATH"
        )
    if reading.input_shape != dataset.input_shape:
        asked_for, there = (",".join(map(str, shape or ())) for shape in (reading.input_shape, dataset.input_shape))
        raise DataError(
            f"input_shape is {asked_for}, but the images of {name!r} are {there}.\n  Leave `input_shape` out"
        )


def _unknown(name: str) -> DataError:
    near = get_close_matches(name.lower().replace("_", "-"), NAMES, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return DataError(
        f"data is {name!r}: no data set of that name{hint}\n"
        f"  Give one of {', '.join(NAMES)}, folder:PATH or file.py:make"
    )
