"""Data sets by name."""

from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path

from slimkit.data.cifar import cifar10, cifar100
from slimkit.data.dataset import Dataset
from slimkit.data.digits import digits
from slimkit.data.factory import from_factory
from slimkit.data.fashion_mnist import fashion_mnist
from slimkit.data.folder import folder
from slimkit.errors import DataError

NAMES: dict[str, Callable[[Path | None, int], Dataset]] = {
    "digits": digits,
    "fashion-mnist": fashion_mnist,
    "cifar10": cifar10,
    "cifar100": cifar100,
}


def open(
    name: str,
    root: str | Path | None = None,
    seed: int = 0,
    input_shape: tuple[int, int, int] | None = None,
) -> Dataset:
    """Open a data set.

    Args:
        name: one of `NAMES`, `folder:PATH`, or `package.module:factory`.
        root: folder with the files of a named data set; nothing is downloaded.
        seed: draws the validation split from the training images.
        input_shape: (C, H, W) that the pictures of a folder are brought to; 3 x 224 x 224 unless given.

    Raises:
        DataError: unknown name; files missing or damaged.
    """
    where = None if root is None else Path(root)
    if name in NAMES:
        return NAMES[name](where, seed)
    if name.startswith("folder:"):
        path = Path(name.removeprefix("folder:")).expanduser()
        return folder(path, seed, input_shape) if input_shape else folder(path, seed)
    if ":" in name:
        return from_factory(name, seed)
    near = get_close_matches(name.lower().replace("_", "-"), NAMES, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise DataError(
        f"--data {name!r}: no data set of that name{hint}\n"
        f"  Give one of {', '.join(NAMES)}, folder:PATH or package.module:factory"
    )
