"""Ultralytics' own trainer and validator, on networks that may be narrower than their yaml.

Its trainer takes callbacks; these two make it keep a narrowed network as it is, and penalise gamma:

    yolo.add_callback("on_pretrain_routine_start", keep_widths)
    yolo.add_callback("on_train_start", penalty(1e-2))
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from slimkit.data.listing import trained_too
from slimkit.errors import DataError, TrainingError
from slimkit.models import ultralytics as networks
from slimkit.models.ultralytics import Maps
from slimkit.progress import Progress
from slimkit.quantity import number_of
from slimkit.results import Epoch
from slimkit.settings.data import DATA_SETS
from slimkit.tasks.measurement import Measurement
from slimkit.training.penalty import penalise_gamma_

# Of each of its tasks: the metric that decides, as its validator and as a report names it, and what it counts.
_METRICS = {
    "detect": ("mAP50-95(B)", "mAP50-95", "tp"),
    "obb": ("mAP50-95(B)", "mAP50-95", "tp"),
    "segment": ("mAP50-95(M)", "mask mAP50-95", "tp_m"),
    "pose": ("mAP50-95(P)", "pose mAP50-95", "tp_p"),
    "classify": ("accuracy_top1", "accuracy", ""),
}
TASKS = frozenset(_METRICS)
# What a checkpoint's own training says of how its pictures are varied and its losses weighed; the pace is the run's.
_RECIPE = (
    "hsv_h", "hsv_s", "hsv_v", "degrees", "translate", "scale", "shear", "perspective", "flipud", "fliplr", "bgr",
    "mosaic", "mixup", "cutmix", "copy_paste", "auto_augment", "erasing", "box", "cls", "dfl", "pose", "kobj",
    "weight_decay", "nbs", "single_cls", "overlap_mask", "mask_ratio", "dropout",
)  # fmt: skip
_EXAMPLES = {"the folder": "path/to/pictures", "the yaml": "path/to/data.yaml"}
_DRAWS, _EFFORT = 200, 4_000_000  # of a bootstrap; boxes that may be gone through for it


def keep_widths(trainer: Any) -> None:
    """Train the network that was loaded; callback for `on_pretrain_routine_start`.

    Without it Ultralytics builds a network anew by its yaml, which knows nothing of the channels that were removed.

    Raises:
        DataError: in the training: the data has another number of classes than the network.
        TrainingError: in the training: the weights are not to be used (`pretrained=False`).
    """

    def given(cfg: Any = None, weights: Any = None, verbose: bool = True) -> Any:
        if weights is None:
            raise TrainingError(
                "pretrained is False: a narrowed network cannot be built anew.\n  Leave it out: train from its weights"
            )
        check_classes(trainer.data, weights)
        return weights

    trainer.get_model = given


def check_classes(data: Mapping[str, Any], net: Any) -> None:
    """Check that a data set has as many classes as a network, and not the same ones in another order.

    Raises:
        DataError: it has another number, or another order.
    """
    classes, known = data["nc"], len(net.names)
    if classes != known:
        raise DataError(
            f"data has {number_of(classes, 'class')}, the network {known}.\n"
            "  Train the original on this data first, and make that one narrower"
        )
    ordered = [[str(names[number]) for number in sorted(names)] for names in (data["names"], net.names)]
    if ordered[0] != ordered[1] and sorted(ordered[0]) == sorted(ordered[1]):
        raise DataError(
            f"data has the network's classes in another order, {_few(ordered[0])}; the network has "
            f"{_few(ordered[1])}.\n"
            "  Name them in the yaml in the order of the network, and number the labels so"
        )


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def penalty(strength: float, only: Collection[str] | None = None) -> Callable[[Any], None]:
    """Return a callback for `on_train_start` that penalises gamma before every step; see `penalise_gamma_`.

    Ultralytics adds up the losses of a batch's images and clips the gradient to length 10; the penalty comes after
    that, when gradients are unscaled, so that `strength` is what reaches the optimizer.

    Args:
        strength: weight of sum |gamma|, >= 0.
        only: paths of the BatchNorms to penalise; all of them unless given.
    """

    def begin(trainer: Any) -> None:
        net = getattr(trainer.model, "module", trainer.model)
        trainer.optimizer.register_step_pre_hook(lambda *_: penalise_gamma_(net, strength, only))

    return begin


@dataclass(frozen=True)
class Workshop:
    """Ultralytics' trainer and validator on one data set.

    Attributes:
        data: yaml of the data set, or for classifiers its folder.
        task: of its tasks, by its name for it.
        side: pixels of an image's longer side.
        batch: images a step.
        others: further arguments of its trainer.
    """

    data: str
    task: str
    side: int
    batch: int
    others: Mapping[str, Any] = field(default_factory=dict)

    @property
    def metric(self) -> str:
        """Name of the metric that decides."""
        return _METRICS[self.task][1]

    def check(self) -> dict[str, Any]:
        """Return what the data set says of itself; nothing is downloaded, and no script of it is run.

        Raises:
            DataError: its yaml is damaged, or names what is not there.
        """
        from ultralytics.data.utils import check_cls_dataset, check_det_dataset

        form = "the folder" if self.task == "classify" else "the yaml"
        path = Path(self.data)
        if self.data in DATA_SETS or self.data.startswith("folder:") or (path.is_dir() and self.task != "classify"):
            raise DataError(
                f"data is {self.data!r}: a network of Ultralytics takes {form} of a data set, as its trainer does.\n"
                f"  Give the path of {form}, for example `data='{_EXAMPLES[form]}'`"
            )
        if not path.exists():
            raise DataError(f"data is {self.data!r}: there is no such file.\n  Give {form} of a data set")
        try:
            with _silent():
                if self.task == "classify":
                    return dict(check_cls_dataset(self.data))
                found = dict(check_det_dataset(self.data, autodownload=False))
        except Exception as error:  # it raises what it happens to come upon
            raise DataError(
                f"data is {self.data!r}: {_plain(error)}.\n  Mend the yaml, or put the files where it says"
            ) from None
        missing = [str(path) for path in _paths(found["train"]) if not path.exists()]
        if missing:
            raise DataError(
                f"data is {self.data!r}: 'train' is {missing[0]}, and there is nothing.\n"
                "  Mend the yaml, or put the files where it says"
            )
        return found

    def images(self) -> _Images:
        """Return the training images as the validator prepares them: letterboxed, in [0, 1]; no labels."""
        return _Images(self._split("train"))

    def trained_too(self) -> tuple[str, ...]:
        """Say which pictures the network is both trained on and judged by."""
        return trained_too({split: _files(self._split(split)) for split in ("train", "val")})

    def _split(self, split: str) -> Any:
        from ultralytics.cfg import get_cfg
        from ultralytics.data.build import build_yolo_dataset
        from ultralytics.data.dataset import ClassificationDataset

        found = self.check()
        settings = get_cfg(overrides={"task": self.task, "imgsz": self.side, "mode": "val"})
        with _silent():
            if self.task == "classify":
                return ClassificationDataset(str(found[split]), settings, augment=False)
            return build_yolo_dataset(settings, found[split], self.batch, found, mode="val", rect=False)

    def judge(self, model: nn.Module | Path, split: str = "val") -> dict[str, Measurement]:
        """Return every metric of the validator on a split, by name, the one that decides first.

        Args:
            model: a network, or its ONNX file.
            split: of the data set.

        Raises:
            DataError: the validator cannot use the data.
        """
        key, name, counted = _METRICS[self.task]
        boxes: dict[str, list[Any]] = {}
        ran: list[Any] = []

        def remember(validator: Any) -> None:
            boxes.update({name: list(rows) for name, rows in getattr(validator.metrics, "stats", {}).items()})

        with _opened(model, self.task) as (yolo, folder):
            yolo.add_callback("on_val_batch_end", remember)
            yolo.add_callback("on_val_end", ran.append)
            _ran(
                lambda: yolo.val(
                    data=self.data, split=split, imgsz=self.side, batch=self.batch, project=str(folder), plots=False,
                    verbose=False, workers=0, device=self.others.get("device"), rect=False,
                ),
                self.data,
            )  # fmt: skip
        results = {label.removeprefix("metrics/"): float(v) for label, v in ran[0].metrics.results_dict.items()}
        kinds = {label[-3:] for label in results if label.endswith(")")}  # (B) of boxes, (M) of masks, (P) of poses
        images = len(ran[0].dataloader.dataset)
        span = _interval(boxes, counted) if counted else None
        first = {name: Measurement(results[key], images, span)}
        only = kinds.pop() if len(kinds) == 1 else ""
        others = {label.removesuffix(only): v for label, v in results.items() if label != key}
        return first | {label: Measurement(v, images, None) for label, v in others.items()}

    def train(self, model: nn.Module, epochs: int, progress: Progress) -> tuple[Maps, tuple[Epoch, ...], int, str]:
        """Train a network with Ultralytics' trainer and losses, in fp32; the last moving average is what is returned.

        Args:
            model: the network; untouched.
            epochs: whole ones.
            progress: called with what is being done, and the share done.

        Returns:
            The network; its epochs; images trained on, in all; device.
        """
        assert isinstance(model, Maps)
        rows: dict[int, Epoch] = {}

        def keep(trainer: Any) -> None:
            number = trainer.epoch + 1
            if number > epochs:  # after the last one its best epoch is validated again
                return
            rows[number] = Epoch(
                epoch=number,
                loss=float(sum(trainer.tloss.values())),
                learning_rate=float(next(iter(trainer.lr.values()))),
                validation_accuracy=float(trainer.metrics[f"metrics/{_METRICS[self.task][0]}"]),
            )
            progress(f"retraining with Ultralytics, epoch {number} of {epochs}", number / epochs)

        with _opened(model, self.task) as (yolo, folder):
            yolo.add_callback("on_pretrain_routine_start", keep_widths)
            yolo.add_callback("on_fit_epoch_end", keep)
            _ran(
                lambda: yolo.train(
                    data=self.data, epochs=epochs, imgsz=self.side, batch=self.batch, project=str(folder), plots=False,
                    verbose=False, exist_ok=True, patience=0,
                    amp=False,  # else it downloads, unpickles and tries another network first, and trains in fp16
                    **_recipe(model.net), **self.others,
                ),
                self.data,
            )  # fmt: skip
            trainer = yolo.trainer
            found: Any = trainer.ema.ema.float().cpu()
        found.args, found.criterion = getattr(model.net, "args", {}), None
        found.names = model.net.names
        images = len(trainer.train_loader.dataset) * epochs
        return Maps(found).eval(), tuple(rows.values()), images, str(trainer.device)


class _Images(torch.utils.data.Dataset[Tensor]):
    """Images of an Ultralytics data set, float32 [C, H, W] in [0, 1]."""

    def __init__(self, source: Any) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Tensor:
        image: Tensor = self.source[index]["img"]
        return image if image.is_floating_point() else image.float() / 255


def _files(source: Any) -> list[Path]:
    """Return the pictures of a data set of Ultralytics."""
    return [Path(path) for path in getattr(source, "im_files", None) or [sample[0] for sample in source.samples]]


def _paths(given: Any) -> list[Path]:
    return [Path(path) for path in (given if isinstance(given, list) else [given])]


def _recipe(net: Any) -> dict[str, Any]:
    """Return how a network was trained, as far as the installed trainer knows these words."""
    from ultralytics.utils import DEFAULT_CFG_DICT

    known = getattr(net, "args", {})
    return {name: known[name] for name in _RECIPE if name in known and name in DEFAULT_CFG_DICT}


@contextmanager
def _opened(model: nn.Module | Path, task: str) -> Iterator[tuple[Any, Path]]:
    """Give a network, or its file, as a YOLO of Ultralytics, and a folder for what it writes."""
    from ultralytics import YOLO

    with tempfile.TemporaryDirectory(prefix="slimkit-") as folder, _silent():
        path = model if isinstance(model, Path) else Path(folder, "network.pt")
        if not isinstance(model, Path):
            assert isinstance(model, Maps)
            networks.save(model, path)
        yield YOLO(str(path), task=task), Path(folder)


@contextmanager
def _silent() -> Iterator[None]:
    """Keep to itself what Ultralytics prints of its progress; its errors are raised."""
    logger = logging.getLogger("ultralytics")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _ran(run: Callable[[], Any], data: str) -> None:
    """Run Ultralytics; what it, or the engine of a file, says of the data is said as its user can mend it."""
    try:
        run()
    except (RuntimeError, FileNotFoundError, SyntaxError, ValueError) as error:
        if "ataset" not in str(error) and "label" not in str(error):
            raise
        raise DataError(f"data is {data!r}: {_plain(error)}.\n  Mend the data set") from error
    except Exception as error:
        if not type(error).__module__.startswith("onnxruntime"):  # whose kinds have no base class of their own
            raise
        raise DataError(
            f"data is {data!r}: the ONNX file does not run on its pictures: {_plain(error)}.\n"
            "  Evaluate the checkpoint that it was made from"
        ) from error


def _plain(error: Exception) -> str:
    """Return what Ultralytics says in one line, without pictures; of notes that follow the first two lines nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    words = "; ".join(line for line in lines[:2] if not line.startswith("Note"))
    return "".join(letter for letter in words if letter.isprintable() and ord(letter) < 0x2190).strip().rstrip(".")


def _interval(boxes: Mapping[str, list[Any]], counted: str) -> tuple[float, float] | None:
    """Return what a mean average precision may be on other images as many, 95 %: a bootstrap over images."""
    from ultralytics.utils.metrics import ap_per_class

    rows = [boxes.get(name, []) for name in (counted, "conf", "pred_cls", "target_cls")]
    count = len(rows[0])
    draws = min(_DRAWS, _EFFORT // max(1, sum(map(len, rows[1]))))
    if count < 2 or draws < 40:
        return None
    random, values = np.random.default_rng(0), []
    for _ in range(draws):
        drawn = random.integers(count, size=count)
        found = ap_per_class(*(np.concatenate([row[i] for i in drawn]) for row in rows))
        values.append(float(found[5].mean()) if len(found[5]) else 0.0)
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)
