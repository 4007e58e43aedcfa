"""Data sets: the right images, in an order that depends on seed and epoch only."""

import gzip
import pickle
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from slimkit import data
from slimkit.data import loader_split, order
from slimkit.data.augmentation import Augmentation, shift_and_flip
from slimkit.data.order import generator
from slimkit.data.pictures import Reading
from slimkit.data.tensor_split import TensorSplit
from slimkit.errors import DataError


def numbered(count: int = 50, augmentation: Augmentation | None = None) -> TensorSplit:
    """Images whose every pixel, and whose label, is their number."""
    labels = torch.arange(count)
    images = labels.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 4, 4).contiguous()
    how = augmentation or Augmentation()
    return TensorSplit(images=images, labels=labels, mean=(0.0,), std=(1 / 255,), augmentation=how)


def seen(split: data.Split, batch_size: int = 8, **how: int) -> list[list[int]]:
    return [labels.tolist() for _, labels in split.batches(batch_size, **how)]


def write_fashion(folder: Path, shape: tuple[int, ...] = (20, 28, 28), cut: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    for part in ("train", "t10k"):
        for kind, sizes in (("images-idx3", shape), ("labels-idx1", shape[:1])):
            body = random.integers(0, 10, sizes, np.uint8).tobytes()
            raw = bytes([0, 0, 8, len(sizes)]) + struct.pack(f">{len(sizes)}I", *sizes) + body
            (folder / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(raw[: len(raw) - cut]))


def write_pictures(root: Path, parts: list[str], classes: tuple[str, ...] = ("cat", "dog")) -> None:
    for part in parts:
        for label, name in enumerate(classes):
            (root / part / name).mkdir(parents=True)
            for number in range(10):
                pixels = np.full((12, 16, 3), 100 * label + number, np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{number}.png")


@pytest.mark.parametrize("name", ["digits", "folder:photos", "own.py:make"])
@pytest.mark.parametrize("opener", [data.open, data.open_inputs])
def test_a_folder_in_which_nothing_is_looked_for_is_refused(name: str, opener: Callable[..., object]) -> None:
    with pytest.raises(DataError, match=r"data_root is 'elsewhere'.*not looked for there"):
        opener(name, root="elsewhere")


def test_every_image_comes_once_in_an_order_of_seed_and_epoch() -> None:
    split = numbered(48)
    first = seen(split, seed=3, epoch=1)
    assert sorted(sum(first, [])) == list(range(48))
    assert first == seen(split, seed=3, epoch=1)
    assert first != seen(split, seed=3, epoch=2)
    assert first != seen(split, seed=4, epoch=1)
    assert seen(split) == [list(range(i, i + 8)) for i in range(0, 48, 8)]


def test_only_shuffled_batches_leave_out_a_short_one() -> None:
    assert [len(b) for b in seen(numbered(20))] == [8, 8, 4]
    assert [len(b) for b in seen(numbered(20), seed=0)] == [8, 8]
    assert [len(b) for b in seen(numbered(5), seed=0)] == [5]


def test_a_resumed_epoch_goes_on_with_the_same_batches() -> None:
    split = numbered(50, Augmentation(pad=1, flip=True))
    whole = list(split.batches(8, seed=1, epoch=2, augment=True))
    rest = list(split.batches(8, seed=1, epoch=2, augment=True, start=4))
    for (images, labels), (same_images, same_labels) in zip(whole[4:], rest, strict=True):
        torch.testing.assert_close(images, same_images, rtol=0, atol=0)
        assert labels.tolist() == same_labels.tolist()


def test_ranks_share_a_batch_with_its_augmentation() -> None:
    split = numbered(16, Augmentation(pad=2, flip=True))
    [(whole, labels), *_] = split.batches(8, seed=0, augment=True)
    parts = [next(iter(split.batches(8, seed=0, augment=True, rank=r, ranks=2))) for r in range(2)]
    for rank, (images, part_labels) in enumerate(parts):
        torch.testing.assert_close(images, whole[rank::2], rtol=0, atol=0)
        assert part_labels.tolist() == labels[rank::2].tolist()


class Work(TorchDispatchMode):
    """Counts the tensors that are made, and the random seeds that are mixed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.count = 0
        monkeypatch.setattr(loader_split, "number", self.number)

    def number(self, *parts: object) -> int:
        self.count += 1
        return order.number(*parts)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.count += len(tree_leaves(out))
        return out


def fetch(index: int, seed: int | None) -> tuple[torch.Tensor, int]:
    return torch.zeros(1, 2, 2), index


@pytest.mark.parametrize("augment", [False, True])
@pytest.mark.parametrize("seed", [None, 0])
@pytest.mark.parametrize("start", [0, 500])
def test_the_first_batch_takes_no_longer_of_more_images(
    start: int, seed: int | None, augment: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The seeds of a whole epoch had been mixed before its first batch: 14 seconds with 1.28 million images."""

    def work(count: int, kind: str) -> int:
        split: Any = data.LoaderSplit(fetch=fetch, count=count, mean=(0.0,), std=(1.0,), workers=0)
        if kind == "tensor":
            split = TensorSplit(images=torch.zeros(1, 1, 4, 4).expand(count, -1, -1, -1), labels=torch.zeros(count))
        with Work(monkeypatch) as counted:
            next(iter(split.batches(1, seed=seed, augment=augment, start=start)))
        return counted.count

    for kind in ("loader", "tensor"):
        assert work(1000, kind) == work(2000, kind) < 100


def test_the_global_random_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    list(numbered(16, Augmentation(pad=1, flip=True)).batches(8, seed=0, augment=True))
    assert torch.equal(before, torch.get_rng_state())


def test_shifts_reach_all_places_and_flips_mirror() -> None:
    images = torch.zeros(4000, 1, 3, 3, dtype=torch.uint8)
    images[:, :, 1, 1] = 1
    shifted = shift_and_flip(images, Augmentation(pad=1), generator(0), slice(0, 4000, 1))
    counts = shifted.sum((0, 1)).float()
    assert counts.sum() == 4000  # nothing is lost or doubled
    assert ((counts - 4000 / 9).abs() < 100).all()  # about 5 standard deviations
    row = torch.arange(3, dtype=torch.uint8).expand(1000, 1, 1, 3)
    flipped = shift_and_flip(row, Augmentation(flip=True), generator(0), slice(0, 1000, 1))
    mirrored = int((flipped[:, 0, 0, 0] == 2).sum())
    assert 400 < mirrored < 600
    assert (flipped.sort(3).values == row).all()


def test_images_are_normalised_by_the_training_split() -> None:
    digits = data.open("digits")
    assert (digits.input_shape, digits.classes) == ((1, 8, 8), 10)
    assert [len(s) for s in (digits.train, digits.validation, digits.test)] == [1294, 144, 359]
    images = torch.cat([images for images, _ in digits.train.batches(500)])
    assert images.dtype == torch.float32
    torch.testing.assert_close(images.mean(), torch.tensor(0.0), atol=1e-4, rtol=0)
    torch.testing.assert_close(images.std(), torch.tensor(1.0), atol=1e-3, rtol=0)
    plain = digits.normalised({"mean": [0.0], "std": [1.0]})
    [(raw, _), *_] = plain.test.batches(359)
    assert raw.min() == 0 and raw.max() == 1


def test_the_seed_draws_validation_but_never_test() -> None:
    one, same, other = (data.open("digits", seed=seed) for seed in (0, 0, 1))
    assert seen(one.validation) == seen(same.validation) != seen(other.validation)
    for a, b in zip(one.test.batches(500), other.test.normalised(one.mean, one.std).batches(500), strict=True):
        torch.testing.assert_close(a[0], b[0], rtol=0, atol=0)


@pytest.mark.parametrize("layout", ["FashionMNIST/raw", "fashion-mnist", "."])
def test_fashion_mnist_is_found_in_each_layout(tmp_path: Path, layout: str) -> None:
    write_fashion(tmp_path / layout)
    fashion = data.open("fashion-mnist", tmp_path)
    assert (fashion.input_shape, fashion.classes) == ((1, 28, 28), 10)
    assert [len(s) for s in (fashion.train, fashion.validation, fashion.test)] == [18, 2, 20]


def test_fashion_mnist_that_is_missing_or_damaged_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="(?s)no files in .*dataset-fashion-mnist"):
        data.open("fashion-mnist", tmp_path)
    write_fashion(tmp_path, cut=100)
    with pytest.raises(DataError, match="truncated"):
        data.open("fashion-mnist", tmp_path)
    image = tmp_path / "train-images-idx3-ubyte.gz"
    for damaged in (b"", image.read_bytes()[:60], b"\x1f\x8bnonsense"):
        image.write_bytes(damaged)
        with pytest.raises(DataError, match=r"(?s)train-images.*\n  Install"):
            data.open("fashion-mnist", tmp_path)
    write_fashion(tmp_path, shape=(20, 14, 14))
    with pytest.raises(DataError, match="do not go together"):
        data.open("fashion-mnist", tmp_path)


@pytest.mark.parametrize(("name", "classes"), [("cifar10", 10), ("cifar100", 100)])
def test_cifar_is_read_from_torchvisions_layout(tmp_path: Path, name: str, classes: int) -> None:
    files = {
        "cifar10": [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"],
        "cifar100": ["train", "test"],
    }
    folder = tmp_path / {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}[name]
    folder.mkdir()
    for file in files[name]:
        pixels = np.arange(4 * 3072, dtype=np.int64).astype(np.uint8).reshape(4, 3072)
        batch = {"data": pixels, "labels": [0, 1, 2, 3], "fine_labels": [0, 1, 2, 99]}
        (folder / file).write_bytes(pickle.dumps(batch, protocol=2))
    opened = data.open(name, tmp_path)
    assert (opened.input_shape, opened.classes, len(opened.test)) == ((3, 32, 32), classes, 4)
    [(images, _)] = opened.normalised({"mean": [0.0] * 3, "std": [1 / 255] * 3}).test.batches(4)
    assert images[0, 1, 0, :3].tolist() == [0, 1, 2]  # the green plane begins at byte 1024


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_a_cifar_file_with_code_in_it_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    (folder / "train").write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
    with pytest.raises(DataError, match="names pathlib"):
        data.open("cifar100", tmp_path)
    assert not (tmp_path / "ran").exists()


def test_cifar_without_a_folder_says_where_it_comes_from() -> None:
    with pytest.raises(DataError, match=r"(?s)no folder.*torchvision\.datasets\.CIFAR10"):
        data.open("cifar10")


def test_a_folder_of_pictures_with_and_without_parts(tmp_path: Path) -> None:
    write_pictures(tmp_path / "parted", ["train", "val", "test"])
    write_pictures(tmp_path / "whole", ["."])
    sizes = {}
    for name in ("parted", "whole"):
        opened = data.open(f"folder:{tmp_path / name}", reading=Reading(input_shape=(3, 8, 8)))
        sizes[name] = [len(s) for s in (opened.train, opened.validation, opened.test)]
        assert opened.classes == 2
    assert sizes == {"parted": [20, 20, 20], "whole": [14, 2, 4]}


def test_pictures_are_read_the_same_way_twice(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["train", "val", "test"])
    opened = data.open(f"folder:{tmp_path}", reading=Reading(input_shape=(3, 8, 8))).normalised(
        {"mean": [0.0] * 3, "std": [1 / 255] * 3}
    )
    [(images, labels)] = opened.test.batches(20)
    assert images.shape == (20, 3, 8, 8)
    wanted = [100.0 * label + number for label in range(2) for number in range(10)]
    torch.testing.assert_close(images[:, 0, 4, 4], torch.tensor(wanted))
    assert labels.tolist() == [0] * 10 + [1] * 10
    once, again = ([i for i, _ in opened.train.batches(5, seed=1, augment=True)] for _ in range(2))
    torch.testing.assert_close(once, again, rtol=0, atol=0)
    [grey, _] = next(iter(data.open(f"folder:{tmp_path}", reading=Reading(input_shape=(1, 8, 8))).test.batches(3)))
    assert grey.shape == (3, 1, 8, 8)


def test_a_folder_that_cannot_be_used_says_why(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a folder"):
        data.open(f"folder:{tmp_path / 'none'}")
    with pytest.raises(DataError, match="0 sub-folders, so no classes"):
        data.open(f"folder:{tmp_path}")
    write_pictures(tmp_path, ["train"])
    write_pictures(tmp_path, ["val"], ("cat", "cow"))
    with pytest.raises(DataError, match="class 'cow'"):
        data.open(f"folder:{tmp_path}")
    (tmp_path / "val" / "cow").rename(tmp_path / "val" / "dog")
    (tmp_path / "val" / "dog" / "0.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"1 of 40 files cannot be used:\n    \S+dog/0\.png: cannot identify"):
        data.open(f"folder:{tmp_path}")


def test_data_of_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_data.py").write_text(
        "import torch\n"
        "from torch.utils.data import TensorDataset\n"
        "def tensors():\n"
        "    x = torch.randint(256, (40, 3, 6, 6), dtype=torch.uint8)\n"
        "    return {'train': (x, torch.arange(40) % 4), 'test': (x[:8], torch.arange(8) % 4)}\n"
        "def items():\n"
        "    d = TensorDataset(torch.rand(40, 3, 6, 6), torch.arange(40) % 4)\n"
        "    return {'train': d, 'validation': d, 'test': d}\n"
        "def wrong():\n"
        "    return 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_data", raising=False)
    sizes = {}
    for name in ("tensors", "items"):
        opened = data.open(f"own_data:{name}")
        assert (opened.classes, opened.input_shape) == (4, (3, 6, 6))
        sizes[name] = [len(s) for s in (opened.train, opened.validation, opened.test)]
        [(images, labels), *_] = opened.train.batches(4, seed=0)
        assert images.shape == (4, 3, 6, 6) and labels.dtype == torch.int64
    assert sizes == {"tensors": [36, 4, 8], "items": [40, 40, 40]}
    for name, why in (("wrong", "it is int"), ("absent", "has no 'absent'")):
        with pytest.raises(DataError, match=why):
            data.open(f"own_data:{name}")


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(DataError, match=r"(?s)did you mean fashion-mnist\?.*digits, fashion-mnist, cifar10"):
        data.open("fashion_mnist")


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 10)), r"does not run.*\[2, 1, 8, 8\]"),
        (nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), r"does not run.*\[2, 1, 8, 8\]"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 7)), "10 classes, the network 7"),
        (nn.Conv2d(1, 10, 3), r"class scores per image.*\[2, 10, 6, 6\]"),
    ],
)
def test_a_network_that_does_not_fit_is_refused(model: nn.Module, why: str) -> None:
    with pytest.raises(DataError, match=why):
        data.check_fits(data.open("digits"), model.train())
    assert model.training
    data.check_fits(data.open("digits"), nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
