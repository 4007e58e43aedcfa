"""What a run does with a detector of torchvision: its pictures, the pace of its retraining, what does not apply."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from slimkit import data, models, provenance
from slimkit.errors import CheckpointError, SpecError
from slimkit.example import in_parts
from slimkit.measure.engines import open_runner
from slimkit.models.detector_maps import ByEngine, has_second_stage
from slimkit.models.detectors import Heads, itself, seen
from slimkit.results import Recovery
from slimkit.runs.given import Evaluate, Retrain, Retrained
from slimkit.selection.ranking import criterion
from slimkit.settings import CompressSpec, EvaluateSpec
from slimkit.tasks import DETECTION, Task, detects
from slimkit.tasks.average_precision import installed
from slimkit.training import Recipe

# Pictures are large, and losses steep: one epoch at ten times this rate took an SSDLite from 83.6 to 64.8 % of mAP.
_BATCH = 8
_GENTLER = 40  # times: 0.0005 with SGD


def fitted(dataset: data.Dataset, model: nn.Module) -> data.Dataset:
    """Return a data set as a network's layers get it: of a detector resized and normalised by itself.

    Raises:
        SpecError: a detector and data of another task, or the other way round.
        EngineError: what judges detectors is not installed.
    """
    check_task(
        dataset.task, model, "Name `task`, or give the data with its own: slimkit.data.as_dataset(..., task=...)"
    )
    if not isinstance(model, Heads):
        return dataset
    installed()
    found = data.prepared(dataset, model.prepared_with, model.input_shape, model.classes, model.finds)
    task = detects(model.finds) if dataset.task is DETECTION else dataset.task
    return replace(found, task=task, resize=provenance.of(model).use.resize)


def by_engine(path: Path, spec: EvaluateSpec) -> Heads:
    """Return the detector that makes boxes of the maps that an ONNX file gives: that of the slim file beside it.

    Raises:
        CheckpointError: there is none, or it looks twice; the file takes pictures of one size, and the detector any.
        SpecError: pickles are trusted, and there are none.
    """
    spec.refuse_idle(("trust_pickle",), "the file beside the ONNX file, model.safetensors, holds no pickle")
    beside = path.with_name("model.safetensors")
    maps = f"{path}: an ONNX file of a detector gives the maps of its heads, not boxes.\n"
    if not beside.is_file():
        raise CheckpointError(
            f"{maps}  Evaluate the slim file or checkpoint that it was made from. Of a run of compress leave "
            "model.safetensors beside the ONNX file: it makes boxes of them"
        )
    heads = models.load(beside, arch=spec.arch, max_memory=spec.memory).model
    if not isinstance(heads, Heads) or has_second_stage(heads):
        raise CheckpointError(
            f"{maps}  Give the slim file, model.safetensors: the second stage of this detector looks at regions that "
            "the first one finds, which the ONNX file cannot"
        )
    runner = open_runner(path)
    (port,) = runner.inputs
    if None not in port.shape[2:] and not heads.squashes:
        raise CheckpointError(
            f"{path}: takes pictures of {port.shape[2]} x {port.shape[3]} pixels only, and the detector makes them as "
            "large as their aspect asks.\n  Make a file with `free_size=True`, or give the slim file"
        )

    def compute(images: Any) -> list[Tensor]:
        return list(map(torch.from_numpy, runner.run(images.cpu().numpy())))

    return ByEngine(heads.net, lambda images: in_parts(compute, images, port.shape[0]))


def check_task(task: Task | None, model: nn.Module, remedy: str = "Leave `task` out") -> None:
    """Check that detectors have the task of detection, and other networks another; `remedy` where it is the data's.

    Raises:
        SpecError: it is not so.
    """
    if task is None or is_of_boxes(task) == isinstance(model, Heads):
        return
    if isinstance(model, Heads):
        raise SpecError(f"task is {task.name!r}: the network is a detector of torchvision.\n  {remedy}")
    raise SpecError(
        f"task is {task.name!r}: {type(model).__name__} is no detector of torchvision.\n  {remedy}, or give a detector"
    )


def is_of_boxes(task: Task) -> bool:
    """Tell whether a task is detection, or made of it."""
    return task.collate is DETECTION.collate


def refuse_to_train(dataset: data.Dataset) -> None:
    """Refuse to train a detector from its beginning.

    Raises:
        SpecError: the data is of pictures with boxes.
    """
    if is_of_boxes(dataset.task):
        raise SpecError(
            f"task is {dataset.task.name!r}: detectors are not trained from their beginning.\n"
            "  Train yours as you do, then make it smaller: slimkit compress"
        )


def check(
    spec: CompressSpec,
    model: nn.Module,
    dataset: data.Dataset | None,
    calibration: data.Inputs | None = None,
    own: bool = False,
) -> None:
    """Refuse settings that do not apply to a detector, instead of leaving them unused.

    Args:
        spec: the settings.
        model: of a run; anything but a detector passes.
        dataset: labelled data.
        calibration: unlabelled inputs.
        own: somebody's own retraining is there.

    Raises:
        SpecError: a setting does not apply.
        DataError: targets lack what the detector's losses want.
    """
    if not isinstance(model, Heads):
        return
    if spec.int8:
        raise SpecError("int8 is True: an ONNX file of a detector is not judged by its boxes.\n  Leave `int8` out")
    if spec.ranking != "auto" and criterion(spec.ranking).needs == "data":
        raise SpecError(
            f"ranking is {spec.ranking!r}: it needs a loss in evaluation mode, and a detector has one in training "
            "only.\n  Leave `ranking` out"
        )
    if not spec.epochs or own:
        return
    if dataset is None and calibration is not None:
        raise SpecError(
            f"epochs is {spec.epochs:g}: a detector is retrained by its own losses, which need boxes.\n"
            "  Add `data`, pictures with boxes, or give `epochs=0`"
        )
    if dataset is not None:
        next(iter(dataset.train.batches(1, augment=True)))  # checks that its targets have what the losses want


def paced(recipe: Recipe) -> Recipe:
    """Return a recipe at the pace of a detector; without a teacher, whom pictures as they are suit, they are varied."""
    return replace(recipe, batch_size=_BATCH, learning_rate=recipe.learning_rate / _GENTLER, augment=True)


def without_teacher(model: nn.Module, spec: CompressSpec, trained: Recovery | None) -> tuple[str, ...]:
    """Say that a retraining had no teacher, where networks of other tasks have one."""
    if not isinstance(model, Heads) or not spec.distill or trained is None or trained.by == "own":
        return ()
    return ("The detector was retrained by its own losses, without the original as its teacher.",)


def inputs_of(model: nn.Module, given: Any) -> Any:
    """Return somebody's inputs as the layers get them: a detector prepares pictures in a list, each [3, h, w]."""
    listed = isinstance(given, (list, tuple)) and all(isinstance(t, Tensor) and t.dim() == 3 for t in given)
    return model.prepared(list(given)) if listed and isinstance(model, Heads) else given


def with_detectors(retrain: Retrain | None, evaluate: Evaluate | None) -> tuple[Retrain | None, Evaluate | None]:
    """Return somebody's functions of detectors as functions of their heads."""

    def retrained(slim: nn.Module, dense: nn.Module) -> nn.Module | Retrained:
        assert retrain is not None
        found = retrain(itself(slim), itself(dense))
        return replace(found, model=seen(found.model)) if isinstance(found, Retrained) else _seen(found)

    def evaluated(model: nn.Module) -> Mapping[str, float]:
        assert evaluate is not None
        return evaluate(itself(model))

    return retrained if retrain else None, evaluated if evaluate else None


def _seen(found: nn.Module) -> nn.Module:
    return seen(found) if isinstance(found, nn.Module) else found
