"""What a run of `compress` does with a network of Ultralytics: its own data sets, trainer, losses and metrics."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from slimkit import data, provenance
from slimkit.errors import SpecError
from slimkit.models import Network
from slimkit.models.ultralytics import Maps, installed, task_of
from slimkit.progress import Progress
from slimkit.results import Accuracy, OtherMetric, Recovery
from slimkit.runs import start
from slimkit.runs.given import Judge, Retrain, Retrained
from slimkit.selection.ranking import criterion
from slimkit.settings import CompressSpec, EvaluateSpec
from slimkit.training.ultralytics import Workshop, check_classes

_OPTIMIZERS = {"auto": "auto", "sgd": "SGD", "adamw": "AdamW"}
_BATCH = 16  # images a step, as Ultralytics has it; the setting's own default is for small pictures
_DATA = ("task", "data_root", "resize", "crop", "mean", "std", "allow_bad")
_FOREIGN = ("max_drop", "int8", "precision", *_DATA)


@dataclass(frozen=True)
class Made:
    """What Ultralytics does in a run.

    Attributes:
        calibration: training images without labels.
        judge: says how good a network is.
        retrain: None where no epochs were asked for.
    """

    calibration: data.Inputs
    judge: Judge
    retrain: Retrain | None


def of_data(network: Network, spec: CompressSpec, progress: Progress) -> Made | None:
    """Return what Ultralytics does with the data of the settings; None where there is none.

    Raises:
        SpecError: a setting does not apply to its networks.
        DataError: the data set cannot be used.
    """
    assert isinstance(network.model, Maps)
    _refuse(spec)
    if spec.data is None:
        if spec.calibration is not None and spec.epochs:
            raise SpecError(
                f"epochs is {spec.epochs:g}: a network of Ultralytics is retrained on labelled data only.\n"
                "  Add `data`, the yaml of a data set, or give `epochs=0`"
            )
        return None
    if spec.epochs != int(spec.epochs):
        raise SpecError(f"epochs is {spec.epochs:g}: Ultralytics trains whole epochs.\n  Give a whole number")
    workshop = _workshop(network.model, spec, spec.data)
    if spec.epochs:
        check_classes(workshop.check(), network.model.net)
    judge = _judge(workshop)
    calibration = replace(data.as_inputs(workshop.images()), name=f"{spec.data}, train", notes=workshop.trained_too())

    def retrain(model: nn.Module, teacher: nn.Module) -> Retrained:
        trained, history, images, device = workshop.train(model, int(spec.epochs), progress)
        record = Recovery(
            epochs=spec.epochs, seconds=0.0, images=images, device=device, precision="fp32", history=history,
            by=f"Ultralytics {installed()}",
        )  # fmt: skip
        return Retrained(trained, record)

    return Made(calibration, judge, retrain if spec.epochs else None)


def evaluated(network: Maps | Path, known: provenance.Provenance, spec: EvaluateSpec) -> Accuracy:
    """Return how good a network of Ultralytics, or the ONNX file of one, is on one of its data sets.

    Args:
        network: to be judged.
        known: of it: its task, and the size of its images.
        spec: names the data.

    Raises:
        SpecError: a setting does not apply to its networks.
        DataError: the data set cannot be used.
    """
    _refuse(spec, _DATA)
    asked = spec.shapes or known.input_shape
    assert known.use.task is not None and isinstance(asked, tuple)
    return _judge(Workshop(spec.data, known.use.task, max(asked[1:]), _BATCH))(network)


def _judge(workshop: Workshop) -> Callable[[nn.Module | Path], Accuracy]:
    """Return what measures a network on the validation split, and on test where the data set has one."""
    splits = ["val", *(["test"] if workshop.check().get("test") else [])]

    def judge(model: nn.Module | Path) -> Accuracy:
        found = {split: workshop.judge(model, split) for split in splits}
        last = found[splits[-1]]
        on_validation, on_test = found["val"][workshop.metric], last[workshop.metric] if "test" in found else None
        return Accuracy(
            task=workshop.task,
            metric=workshop.metric,
            validation=on_validation.value,
            validation_images=on_validation.images,
            validation_interval=on_validation.interval,
            test=on_test.value if on_test else None,
            test_images=on_test.images if on_test else None,
            interval=on_test.interval if on_test else None,
            metrics={name: measured.value for name, measured in last.items()},
            others=tuple(
                OtherMetric(metric=name, unit="share", value=measured.value, interval=measured.interval)
                for name, measured in last.items()
                if name not in (workshop.metric, "fitness")  # which is the sum of the others
            ),
        )

    return judge


def _workshop(model: Maps, spec: CompressSpec, name: str) -> Workshop:
    image = start.example(model, spec)
    assert isinstance(image, Tensor)
    others: dict[str, Any] = {"seed": spec.seed, "optimizer": _OPTIMIZERS[spec.optimizer]}
    if "learning_rate" in spec.pace:
        others["lr0"] = spec.learning_rate
        if spec.optimizer == "auto":  # that would choose a rate of its own
            others["optimizer"] = "AdamW"
    if spec.device != "auto":
        others["device"] = spec.device.removeprefix("cuda:").replace("cuda", "0")
    batch = spec.pace.get("batch_size", _BATCH)
    return Workshop(name, task_of(model.net), max(image.shape[2:]), batch, others)


def _refuse(spec: CompressSpec | EvaluateSpec, names: Sequence[str] = _FOREIGN) -> None:
    """Refuse settings that Ultralytics has no use for, instead of leaving them unused."""
    if isinstance(spec.shapes, dict) or (spec.shapes and len(spec.shapes) != 3):
        raise SpecError(
            f"input_shape is {spec.input_shape!r}: a network of Ultralytics takes one image.\n"
            "  Give channels, height and width alone: `input_shape='3,640,640'`"
        )
    default = {entry.name: entry.default for entry in fields(spec)}
    given = next((name for name in names if getattr(spec, name) != default[name]), None)
    if given is None and isinstance(spec, CompressSpec) and spec.ranking != "auto":
        given = "ranking" if criterion(spec.ranking).needs == "data" else None
    if given is not None:
        raise SpecError(
            f"{given} is {getattr(spec, given)!r}: a network of Ultralytics is trained and judged by Ultralytics, "
            f"which does not take it.\n  Leave `{given}` out"
        )
