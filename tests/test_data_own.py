"""Data of the user's own: loaders, data sets, tensors and functions become one kind of data set, or say why not."""

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, DataLoader, IterableDataset, Subset, TensorDataset, random_split
from torch.utils.data import Dataset as MapDataset

from slimkit import data
from slimkit.errors import DataError, TrainingError
from slimkit.provenance import Provenance
from slimkit.tasks import Task
from slimkit.training import Recipe, train


def numbered(count: int = 20) -> TensorDataset:
    return TensorDataset(torch.arange(count).float().view(-1, 1, 1, 1).expand(-1, 1, 4, 4), torch.arange(count) % 5)


def loader(count: int = 20, **how: Any) -> DataLoader[Any]:
    return DataLoader(numbered(count), **{"batch_size": 6, **how})


def seen(split: data.Split, batch_size: int = 8, **how: Any) -> list[list[int]]:
    """Numbers of the inputs of each batch."""
    return [inputs[:, 0, 0, 0].int().tolist() for inputs, _ in split.batches(batch_size, **how)]


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter([numbered()[i] for i in range(20)])


class Endless:
    """Batches of uneven sizes, without a length."""

    def __iter__(self) -> Iterator[Any]:
        inputs, targets = numbered().tensors
        sizes = [3, 9, 1, 7]
        return iter(list(zip(inputs.split(sizes), targets.split(sizes), strict=True)))


LOADERS: dict[str, Callable[[], Any]] = {
    "DataLoader": loader,
    "stream": lambda: DataLoader(Stream(), batch_size=6),
    "uneven": Endless,
    "list": lambda: list(loader()),
    "dicts": lambda: [{"pixel_values": x, "labels": y} for x, y in loader()],
    "items": numbered,
    "tensors": lambda: numbered().tensors,
}


@pytest.mark.parametrize("kind", LOADERS)
def test_every_input_comes_once_in_batches_of_the_size_asked_for(kind: str) -> None:
    opened = data.as_dataset((LOADERS[kind](), LOADERS[kind]()))
    assert opened.input_shape == (1, 4, 4) and len(opened.train) == len(opened.validation) == 20
    for size in (1, 6, 8, 20, 50):
        batches = list(opened.train.batches(size))
        inputs = [x["pixel_values"] if isinstance(x, dict) else x for x, _ in batches]
        assert [len(x) for x in inputs[:-1]] == [size] * (len(inputs) - 1)
        numbers = torch.cat(inputs)[:, 0, 0, 0]
        assert numbers.tolist() == list(range(20))
        assert torch.cat([y for _, y in batches]).tolist() == (numbers % 5).tolist()


@pytest.mark.parametrize("kind", [k for k in LOADERS if k != "dicts"])
def test_an_epoch_leaves_the_short_batch_out_and_can_be_gone_on_with_and_shared(kind: str) -> None:
    split = data.as_dataset((LOADERS[kind](), LOADERS[kind]())).train
    whole = seen(split, seed=3, epoch=1)
    assert [len(batch) for batch in whole] == [8, 8]
    assert seen(split, seed=3, epoch=1, start=1) == whole[1:]
    shares = [seen(split, seed=3, epoch=1, rank=rank, ranks=2) for rank in range(2)]
    assert [a[rank::2] for rank in range(2) for a in whole] == shares[0] + shares[1]


def test_a_loader_that_shuffles_does_so_by_seed_and_epoch() -> None:
    split = data.as_dataset((loader(shuffle=True), loader())).train
    before = torch.get_rng_state()
    first = seen(split, seed=3, epoch=1)
    torch.rand(3)
    assert first == seen(split, seed=3, epoch=1)
    assert len({str(seen(split, seed=seed, epoch=epoch)) for seed, epoch in ((3, 1), (3, 2), (4, 1))}) == 3
    torch.set_rng_state(before)
    seen(split, seed=5)
    assert torch.equal(before, torch.get_rng_state())


class Varied(MapDataset[Any]):
    """Items that are made of random numbers, as augmentation is."""

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.tensor([torch.rand(()), np.random.rand(), random.random()]).view(3, 1, 1), index % 2


@pytest.mark.long
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("of", ["loader", "data set"])
def test_what_random_numbers_an_input_is_made_of_is_a_matter_of_seed_and_epoch_alone(of: str, workers: int) -> None:
    made = Varied() if of == "data set" else DataLoader(Varied(), batch_size=5, shuffle=True, num_workers=workers)
    split = data.as_dataset((made, numbered())).train
    if isinstance(split, data.LoaderSplit):
        split = replace(split, workers=workers)

    def drawn(seed: int | None, epoch: int, **how: Any) -> Tensor:
        return torch.cat([inputs for inputs, _ in split.batches(6, seed=seed, epoch=epoch, **how)]).flatten(1)

    state = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    whole = drawn(3, 1)
    for generator in range(3):  # no number comes twice, in one epoch or in two, or with another seed
        numbers = torch.cat([whole, drawn(3, 0), drawn(4, 1), drawn(None, 0)])[:, generator]
        assert len(numbers.unique()) == 4 * 24
    now = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    assert torch.equal(state[0], now[0]) and state[1:] == now[1:]
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    assert torch.equal(drawn(3, 1), whole)
    assert torch.equal(drawn(3, 1, start=2), whole[12:])


def test_a_loader_says_how_many_inputs_it_gives() -> None:
    for made, count in ((loader(drop_last=True), 18), (loader(), 20), (Endless(), 20)):
        split = data.as_dataset((made, loader())).train
        assert len(split) == count == sum(map(len, seen(split)))


class Repeated:
    """Batches without end."""

    def __iter__(self) -> Iterator[Any]:
        while True:
            yield numbered(6).tensors


class Measured(Repeated):
    def __len__(self) -> int:
        return 5


class Mistaken(list[Any]):
    """Holds four batches, whatever it says."""

    said = 4

    def __len__(self) -> int:
        return self.said


@pytest.mark.parametrize("made", [data.as_inputs, lambda part, **how: data.as_dataset((part, loader()), **how)])
def test_a_loader_that_does_not_end_is_refused_and_its_count_is_told(made: Any, monkeypatch: Any) -> None:
    said: list[str] = []
    monkeypatch.setattr("slimkit.data.batch_split._MOST", 1000)
    monkeypatch.setattr("slimkit.data.batch_split._EVERY", 0)
    with pytest.raises(DataError, match=r"(calibration|dataset: train): it has given 1,002 inputs, and goes on"):
        made(Repeated(), progress=lambda what, share: said.append(what))
    assert re.search("counting the inputs of (calibration|dataset: train) until it ends, 12 so far", said[1])
    with pytest.raises(DataError, match=r"its length is 5, and it has given twice as many batches.\n  Give one that"):
        made(Measured())


def test_a_length_that_is_somewhat_wrong_harms_nobody() -> None:
    for count in (2, 3, 20):
        made = Mistaken(loader())
        made.said = count
        assert len(data.as_dataset((made, loader())).train) == 20


def test_without_a_test_split_the_validation_split_stands_for_it_and_it_is_said() -> None:
    opened = data.as_dataset((loader(), loader(10)))
    assert len(opened.test) == 10 and "test figures are those of the validation split" in opened.notes[0]
    whole = data.as_dataset({"train": loader(), "validation": loader(10), "test": loader(5)})
    assert (len(whole.test), whole.notes) == (5, ())


def test_images_of_bytes_are_normalised_and_floats_are_what_the_network_takes() -> None:
    images = torch.randint(256, (40, 3, 6, 6), dtype=torch.uint8)
    labels = torch.arange(40) % 4
    of_bytes = data.as_dataset(((images, labels.to(torch.uint8)), (images, labels)))
    [(x, y)] = of_bytes.train.batches(40)
    torch.testing.assert_close((x.mean(), x.std()), (torch.tensor(0.0), torch.tensor(1.0)), atol=1e-2, rtol=0)
    assert (of_bytes.classes, y.dtype) == (4, torch.int64) and of_bytes.normalisation
    floats = data.as_dataset(((images.float(), labels), (images.float(), labels)))
    assert floats.normalisation is None and floats.normalised({"mean": [1.0], "std": [2.0]}) is floats
    torch.testing.assert_close(next(iter(floats.test.batches(40)))[0], images.float(), rtol=0, atol=0)


def test_signals_vectors_and_several_inputs_are_data_too() -> None:
    signal, vector, target = torch.randn(20, 2, 50), torch.randn(20, 7), torch.randn(20, 1)
    batches = [((signal[i : i + 4], vector[i : i + 4]), target[i : i + 4]) for i in range(0, 20, 4)]
    task = Task.of(loss=nn.functional.mse_loss, metrics={"error": nn.functional.mse_loss}, better="lower")
    opened = data.as_dataset((batches, batches), task=task)
    assert (opened.input_shape, opened.task, opened.classes) == ((2, 50), task, None)
    (one, other), wanted = list(opened.validation.batches(7))[1]
    for found, whole in ((one, signal), (other, vector), (wanted, target)):
        torch.testing.assert_close(found, whole[7:14], rtol=0, atol=0)


def test_a_name_or_a_data_set_is_a_data_set() -> None:
    digits = data.as_dataset("digits")
    assert digits.name == "digits" and data.as_dataset(digits) is digits
    with pytest.raises(DataError, match=r"data is 'digit': .*did you mean digits\?"):
        data.as_dataset("digit")


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (3, "it is int"),
        (None, "it is NoneType"),
        ({}, "a dict of nothing"),
        ({"a": 1}, "a dict of 'a'"),
        ({"train": loader()}, "train alone"),
        ({"train": loader(), "test": loader()}, "a loader cannot be parted"),
        (loader(), "it is one DataLoader; there is nothing to measure on"),
        (numbered(), "it is one TensorDataset"),
        (numbered().tensors, "tensors alone do not say"),
        ((loader(), loader(), loader(), loader()), "there is nothing to measure on|it is tuple"),
        ((loader(), 3), "validation: it is int"),
        (([], loader()), "train: it is empty"),
        ((loader(), TensorDataset(torch.zeros(0, 1), torch.zeros(0))), "validation: it is empty"),
        ((iter(loader()), loader()), "train: .* can be gone through only once"),
        (
            ([((torch.tensor(2.0), torch.rand(8, 1)), torch.arange(8))], loader()),
            "train: the first tensor of .* a single",
        ),
        (((x for x in loader()), loader()), "train: generator can be gone through only once"),
        (([torch.zeros(4, 3)], loader()), r"train: a batch is one tensor \[4, 3\], not \(inputs, targets\)"),
        (([(torch.zeros(4, 3),)], loader()), "a batch is a tuple of 1, not"),
        (([[torch.zeros(4), 1, 2]], loader()), "a batch is a list of 3, not"),
        (([{"x": torch.zeros(4, 3)}], loader()), "a dict of x, without targets"),
        (([("a", "b")], loader()), "train: it is empty|not tensors"),
        (((torch.zeros(4, 3), torch.zeros(5)), loader()), "4 inputs, but 5 targets"),
        (([(torch.zeros(4, 3), None)], loader()), "its batches have no targets"),
        (([(torch.zeros(4, 3), object()), (torch.zeros(4, 3), object())], loader()), "holds object"),
    ],
)
def test_what_is_no_data_set_says_why(given: Any, why: str) -> None:
    with pytest.raises(DataError, match=rf"^dataset.*({why})"):
        list(data.as_dataset(given).train.batches(3))


@pytest.mark.parametrize("low", [-1, -100])
@pytest.mark.parametrize("kind", ["tensors", "arrays", "items"])
def test_labels_below_0_are_told_as_such(kind: str, low: int) -> None:
    images, labels = torch.randn(12, 3, 4, 4), torch.arange(12) % 3
    wrong = labels.clone()
    wrong[-1] = low
    make: dict[str, Any] = {
        "tensors": lambda *pair: pair,
        "arrays": lambda *pair: tuple(one.numpy() for one in pair),
        "items": TensorDataset,
    }
    with pytest.raises(DataError, match=rf"(?s)dataset: validation: class number {low} is below 0.*from 0"):
        data.as_dataset((make[kind](images, labels), make[kind](images, wrong)))


class Augmented(MapDataset[Any]):
    """Items that draw random numbers, and are counted as they are read."""

    def __init__(self, count: int = 50, **held: Any) -> None:
        self.count, self.reads = count, 0
        vars(self).update(held)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        self.reads += 1
        return torch.randn(3, 4, 4) + random.random() + np.random.rand(), index % 5


NUMBERS = [index % 5 for index in range(50)]


@pytest.mark.parametrize(
    ("made", "parts", "at_most"),
    [
        (Augmented(), lambda source: {"train": source, "test": Subset(source, range(5))}, 70),
        (Augmented(), lambda source: tuple(random_split(source, [40, 10])), 60),
        (Augmented(targets=NUMBERS), lambda source: (source, source), 10),
        (Augmented(labels=np.array(NUMBERS)), lambda source: tuple(random_split(source, [40, 10])), 10),
        (Augmented(targets=NUMBERS), lambda source: (ConcatDataset([Subset(source, range(25)), source]), source), 10),
        (Augmented(targets=[0] * 50), lambda source: (source, source), 110),  # not those that its items have
        (Augmented(labels=["a", "b"]), lambda source: (source, Subset(source, range(10))), 70),
    ],
    ids=["alone", "parts", "targets", "parts with labels", "rows", "other targets", "names"],
)
def test_classes_are_seen_without_reading_more_than_once(made: Augmented, parts: Any, at_most: int) -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    split = parts(made)
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    assert data.as_dataset(split).classes == 5
    assert made.reads <= at_most
    after = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    assert torch.equal(after[0], states[0]) and after[1:] == states[1:] == before[1:]


def test_names_of_classes_are_found_behind_parts() -> None:
    source = Augmented(targets=NUMBERS, classes=list("abcdefg"))
    dataset = data.as_dataset(tuple(random_split(source, [40, 10])))
    assert (dataset.classes, dataset.inferred) == (7, False)


def test_it_is_said_that_items_are_read_for_their_classes() -> None:
    said: list[str] = []
    data.as_dataset((Augmented(), Augmented()), progress=lambda words, share: said.append(words))
    assert said == ["reading dataset: train to see its classes", "reading dataset: validation to see its classes"]


def test_items_that_are_no_tensors_ask_for_a_transform() -> None:
    class Items(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> Any:
            return "picture", 1

    with pytest.raises(DataError, match="an item's input is str, not a tensor"):
        data.as_dataset((Items(), Items()), task=Task.of(loss=len, metrics={"x": len}, better="lower"))


def test_a_function_in_a_file_makes_a_data_set(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "import torch\n"
        "def make(seed, input_shape):\n"
        "    x = torch.full((8, *input_shape), float(seed))\n"
        "    return [(x, torch.zeros(8).long())], [(x, torch.zeros(8).long())]\n"
        "def plain(other=3):\n    return make(other, (1, 2, 2))\n"
        "def alone():\n    return [torch.ones(4, 3)]\n"
    )
    opened = data.open(f"{file}:make", seed=5, own=Provenance(input_shape=(3, 2, 2)))
    assert opened.input_shape == (3, 2, 2) and next(iter(opened.train.batches(1)))[0][0, 0, 0, 0] == 5
    assert data.open(f"{file}:plain").input_shape == (1, 2, 2)
    assert len(data.open_inputs(f"{file}:alone")) == 4
    with pytest.raises(DataError, match="there is no file"):
        data.open(f"{tmp_path}/none.py:make")


CALIBRATION: dict[str, Callable[[], Any]] = {
    "tensor": lambda: torch.arange(20.0).view(-1, 1, 1, 1).expand(-1, 1, 2, 2),
    "loader": loader,
    "batches": lambda: [x for x, _ in loader()],
    "tuples": lambda: [(x,) for x, _ in loader()],
    "items": numbered,
    "data set": lambda: data.as_dataset((loader(), loader())),
    "split": lambda: data.as_dataset((loader(), loader())).train,
    "inputs": lambda: data.as_inputs(loader()),
}


@pytest.mark.parametrize("kind", CALIBRATION)
def test_inputs_without_targets_can_be_gone_through_again(kind: str) -> None:
    inputs = data.as_inputs(CALIBRATION[kind]())
    assert len(inputs) == 20
    for how in ({}, {"seed": None}, {"at_most": 10}):
        once, again = (list(inputs.batches(4, **how)) for _ in range(2))
        torch.testing.assert_close(once, again, rtol=0, atol=0)
        numbers = torch.cat([batch for batch in once if isinstance(batch, Tensor)])[:, 0, 0, 0].tolist()
        assert len(set(numbers)) == len(numbers) == (12 if how == {"at_most": 10} else 20)


def test_two_inputs_come_as_a_tuple_and_dicts_without_their_labels() -> None:
    pair = torch.zeros(4, 2), torch.ones(4, 3)
    [batch] = data.as_inputs([(pair,)]).batches(4)
    assert isinstance(batch, tuple) and [t.shape for t in batch] == [(4, 2), (4, 3)]
    [words] = data.as_inputs([{"a": pair[0], "labels": pair[1]}]).batches(4)
    assert isinstance(words, dict) and list(words) == ["a"]


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (3, "it is int"),
        (torch.zeros(4), r"a tensor \[4\] holds no inputs"),
        ([], "it is empty"),
        (iter([torch.zeros(2, 2)]), "only once"),
        ({"a": torch.zeros(2, 2)}, "it is dict"),
        (["word"], "it is empty|without a tensor"),
    ],
)
def test_what_gives_no_inputs_says_why(given: Any, why: str) -> None:
    with pytest.raises(DataError, match=rf"^calibration.*({why})"):
        data.as_inputs(given)


def test_named_data_calibrates_as_the_network_was_trained() -> None:
    inputs = data.open_inputs("digits", own=Provenance(normalisation={"mean": [0.0], "std": [1.0]}))
    [batch] = inputs.batches(64, at_most=64)
    assert isinstance(batch, Tensor) and batch.min() == 0 and batch.max() == 1 and len(inputs) == 1294


@pytest.mark.parametrize("kind", CALIBRATION)
def test_inputs_alone_train_a_network_towards_its_teacher(kind: str) -> None:
    torch.manual_seed(0)
    inputs = data.as_inputs(CALIBRATION[kind]())
    channels = next(iter(inputs.batches(1))).shape[1]  # type: ignore[union-attr]
    nets = [nn.Sequential(nn.Conv2d(channels, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()) for _ in range(2)]
    recipe = Recipe(epochs=5, batch_size=10, learning_rate=1e-3, distillation=1.0, device="cpu", precision="fp32")
    trained = train(nets[0], inputs.split, recipe, teacher=nets[1])
    assert trained.history[-1].loss < trained.history[0].loss
    with pytest.raises(TrainingError, match="no targets, and there is no teacher"):
        train(nets[0], inputs.split, recipe)


class Items(MapDataset[Any]):
    def __init__(self, of: Callable[[int], Any]) -> None:
        self.of = of

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> Any:
        return self.of(index)


IMAGES, LABELS = torch.randn(20, 2, 6, 6), torch.arange(20) % 4


@pytest.mark.parametrize(
    "part",
    [
        (IMAGES.double().numpy(), LABELS.numpy().astype(np.int32)),
        [(IMAGES[:9].numpy(), LABELS[:9].numpy()), (IMAGES[9:].numpy(), LABELS[9:].numpy().astype(np.uint8))],
        Items(lambda i: (IMAGES[i].numpy(), np.int16(LABELS[i]))),
        *((IMAGES, LABELS.to(kind)) for kind in (torch.int8, torch.uint8, torch.uint16, torch.int32, torch.uint32)),
    ],
    ids=lambda part: type(part).__name__ if not isinstance(part, tuple) else str(part[1].dtype),
)
def test_arrays_and_labels_of_any_whole_type_are_data(part: Any) -> None:
    found = data.as_dataset((part, part))
    assert len(found.train) == 20 and found.classes in (4, None)  # not known of a loader
    pairs = list(found.validation.batches(8))
    inputs, labels = torch.cat([inputs for inputs, _ in pairs]), torch.cat([labels for _, labels in pairs])
    assert (inputs.dtype, labels.dtype) == (torch.float32, torch.int64)
    torch.testing.assert_close(inputs, IMAGES)
    assert torch.equal(labels, LABELS)


def test_items_may_be_dicts() -> None:
    part = Items(lambda i: {"image": IMAGES[i], "labels": int(LABELS[i])})
    found = data.as_dataset((part, part))
    assert found.classes == 4
    inputs, labels = next(iter(found.validation.batches(20)))
    assert torch.equal(inputs["image"], IMAGES) and torch.equal(labels, LABELS)
    with pytest.raises(DataError, match="does not run on its inputs.*unexpected keyword argument 'image'"):
        data.check_fits(found, nn.Sequential(nn.Flatten(), nn.Linear(72, 4)))


@pytest.mark.parametrize("part", [Stream(), DataLoader(numbered(), None), [(IMAGES[0], 3), (IMAGES[1], 2)]])
def test_one_input_at_a_time_is_no_batch(part: Any) -> None:
    with pytest.raises(DataError, match=r"it gives one input at a time(?s:.*)DataLoader\(data, batch_size=32\)"):
        data.as_dataset((part, part))


@pytest.mark.parametrize("given", [IMAGES, Items(lambda i: (IMAGES[i], 0)), IMAGES.numpy()])
def test_inputs_are_parted_into_what_is_fitted_to_and_what_is_not(given: Any) -> None:
    inputs = data.as_inputs(given)
    first, second = (data.parted(inputs, 0.25, seed) for seed in (0, 1))
    assert first is not None and second is not None
    rest, taken = (torch.cat([batch for batch in part.batches(4, seed=None)]) for part in first)
    assert (len(rest), len(taken)) == (15, 5)
    every = torch.cat([rest, taken])
    assert torch.equal(every[every[:, 0, 0, 0].argsort()], IMAGES[IMAGES[:, 0, 0, 0].argsort()])
    assert not torch.equal(taken, torch.cat(list(second[1].batches(4, seed=None))))
    assert data.parted(data.as_inputs(loader()), 0.25, 0) is None


@pytest.mark.parametrize("kind", ["tensor", "data set"])
def test_inputs_that_are_there_twice_are_taken_once(kind: str) -> None:
    once = torch.randn(5, 1, 4, 4)
    twice = once[[0, 1, 0, 2, 3, 1, 4, 4]]
    found = data.different(data.as_inputs(twice if kind == "tensor" else TensorDataset(twice)))
    assert torch.equal(next(found.batches(8, seed=None)), once)
    assert found.name.endswith("(5 different of 8)")
    assert data.different(found) is found


def test_no_more_is_read_to_see_which_inputs_are_the_same_than_is_fitted_to(tmp_path: Path) -> None:
    """All of 4,000 photographs would have been read before some hundreds of them were."""
    for name, grey in (("a", 0), ("b", 0), ("c", 9)):
        Image.new("L", (8, 8), grey).save(tmp_path / f"{name}.png")
    folder = data.as_inputs(f"folder:{tmp_path}")
    many = data.as_inputs(TensorDataset(torch.arange(1025.0)[:, None] % 9))
    for inputs in (folder, many, data.as_inputs([torch.arange(4.0)[:, None]] * 3)):
        assert data.different(inputs) is inputs
