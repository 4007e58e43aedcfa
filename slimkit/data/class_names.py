"""Classes by their names: those of a data set are numbered as the network numbers them that it is for."""

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from slimkit.data.dataset import Dataset, Split
from slimkit.data.loader_split import Fetch, LoaderSplit
from slimkit.data.tensor_split import TensorSplit
from slimkit.errors import DataError

BACKGROUND, NOBODY = "__background__", "N/A"  # as torchvision names class 0 of detectors, and numbers of no class
_UNNAMED = (BACKGROUND, NOBODY)
_SHOWN = 10  # classes


def in_order_of(dataset: Dataset, names: Sequence[str]) -> Dataset:
    """Return a data set whose labels are the class numbers of a network; `notes` says where they were others.

    The same names, in whatever order, tell classes; capitals and punctuation are no difference. Other names, which may
    be translations, numbers or identifiers as n01440764, tell nothing: then the order does, of numbers by their value.
    Data without names, or of another number of classes, stays as it is.

    Args:
        dataset: what is to be read for the network.
        names: of the network's classes, in the order of its outputs; empty where they are not known.

    Raises:
        DataError: some names are the network's, others not, and the former say that the order is another.
    """
    known, own = tuple(names), dataset.class_names
    if own == known or len(own) != len(known):
        return dataset
    numbers = _by_name(own, known)
    if numbers is None:
        numbers = _by_order(own)
        _refuse_contradiction(dataset.name, own, known, numbers)
        said = "its classes have other names than the network's, and are taken for those by their order ({}): if they "
        said += "are others, figures of it tell nothing"
    else:
        said = "its classes are numbered as the network's, by their names ({})"
    pairs = [(known[number], name) for number, name in sorted(zip(numbers, own, strict=True)) if name not in _UNNAMED]
    note = said.format(_few([here if here == there else f"{here} for {there}" for there, here in pairs]))
    return replace(renumbered(dataset, numbers), class_names=known, notes=(*dataset.notes, f"{dataset.name}: {note}"))


def same_in_order_of(dataset: Dataset, names: Sequence[str]) -> Dataset:
    """Return what `in_order_of` does where the names are the same; else the data set, to be learnt from."""
    there = len(names) == len(dataset.class_names) and _by_name(dataset.class_names, names) is not None
    return in_order_of(dataset, names) if there else dataset


def renumbered(dataset: Dataset, numbers: Sequence[int]) -> Dataset:
    """Return a data set whose label i is numbers[i]; others, as 255 where there is no class, stay."""
    if list(numbers) == list(range(len(numbers))):
        return dataset
    to = torch.tensor(numbers, dtype=torch.int64)
    train, validation, test = (_of_split(split, to) for split in (dataset.train, dataset.validation, dataset.test))
    return replace(dataset, train=train, validation=validation, test=test)


@dataclass(frozen=True)
class RenumberedSplit:
    """A split whose targets get other class numbers: `to` is int64 [classes]."""

    split: Split
    to: Tensor

    def __len__(self) -> int:
        return len(self.split)

    def batches(self, batch_size: int, **how: Any) -> Iterator[tuple[Any, Any]]:
        """Give batches as `Split.batches` says."""
        for inputs, targets in self.split.batches(batch_size, **how):
            yield inputs, _targets(targets, self.to)

    def normalised(self, mean: Sequence[float], std: Sequence[float]) -> "RenumberedSplit":
        """Return the same split with another normalisation."""
        return replace(self, split=self.split.normalised(mean, std))


@dataclass(frozen=True)
class _Renumbered:
    """Reads single inputs, whose targets get other class numbers."""

    fetch: Fetch
    to: Tensor

    def __call__(self, index: int, seed: int | None) -> tuple[Any, Any]:
        inputs, target = self.fetch(index, seed)
        return inputs, _targets(target, self.to)


def _of_split(split: Split, to: Tensor) -> Split:
    if isinstance(split, TensorSplit):
        return replace(split, labels=_targets(split.labels, to))
    if isinstance(split, LoaderSplit):
        return replace(split, fetch=_Renumbered(split.fetch, to))
    return RenumberedSplit(split, to)


def _targets(targets: Any, to: Tensor) -> Any:
    """Return class numbers in whatever form tasks have them: a number, a tensor, dicts with `labels`, lists of such."""
    if isinstance(targets, Mapping):
        return {**targets, "labels": _targets(targets["labels"], to)} if "labels" in targets else targets
    if isinstance(targets, list):
        return type(targets)(_targets(one, to) for one in targets)
    if isinstance(targets, int):
        return int(to[targets]) if 0 <= targets < len(to) else targets
    if not isinstance(targets, Tensor) or targets.is_floating_point():
        return targets
    classes = (targets >= 0) & (targets < len(to))
    return torch.where(classes, to.to(targets.device)[targets.long().clamp(0, len(to) - 1)].to(targets.dtype), targets)


def _by_name(own: Sequence[str], known: Sequence[str]) -> list[int] | None:
    """Return the network's number of each class of the data; None where the names are not the same ones."""
    for written in (str, _plain):
        here, there = _places(own, written), _places(known, written)
        if here and here.keys() == there.keys():
            found = {here[name]: there[name] for name in here}
            others = iter(sorted(set(range(len(known))) - set(found.values())))
            return [found[place] if place in found else next(others) for place in range(len(own))]
    return None


def _places(names: Sequence[str], written: Any) -> dict[str, int]:
    """Return the place of each name; nothing where two are the same."""
    named = [(written(name), place) for place, name in enumerate(names) if name not in _UNNAMED]
    return dict(named) if len(dict(named)) == len(named) else {}


def _plain(name: str) -> str:
    """Return a name without what people write now so, now otherwise; of a number its value."""
    plain = re.sub(r"[\W_]+", " ", unicodedata.normalize("NFKC", name)).strip().casefold()
    return str(int(plain)) if plain.isdecimal() else plain or name


def _by_order(own: Sequence[str]) -> list[int]:
    """Return the number of each class: its place; of classes that are called by numbers, that among these."""
    places = [place for place, name in enumerate(own) if name not in _UNNAMED]
    if not all(own[place].isdecimal() for place in places):
        return list(range(len(own)))
    counted = sorted(places, key=lambda place: int(own[place]))
    found = dict(zip(counted, places, strict=True))
    return [found.get(place, place) for place in range(len(own))]


def _refuse_contradiction(name: str, own: Sequence[str], known: Sequence[str], numbers: Sequence[int]) -> None:
    """Refuse to go by the order where names that are on both sides say that it is another.

    Raises:
        DataError: they do.
    """
    here, there = _places(own, _plain), _places(known, _plain)
    wrong = [plain for plain, place in here.items() if there.get(plain, numbers[place]) != numbers[place]]
    if wrong:
        raise DataError(
            f"data {name!r}: its classes are {_few(own)}, those of the network {_few(known)}: not the same ones, and "
            f"{own[here[wrong[0]]]!r} has another number.\n"
            "  Call classes as the network does, or, where names say nothing, give the data without them: by a "
            "function of your own, as file.py:make, with labels as the network numbers them"
        )


def _few(names: Sequence[str]) -> str:
    named = [name for name in names if name not in _UNNAMED]
    return ", ".join(named[:_SHOWN]) + (f" and {len(named) - _SHOWN} more" if len(named) > _SHOWN else "")
