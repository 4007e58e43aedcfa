"""How good the network in a file is: `slimkit evaluate`."""

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
from torch import nn

from slimkit import data, models, provenance
from slimkit._version import __version__
from slimkit.errors import CheckpointError, RecordError, SpecError
from slimkit.hardware import working_device
from slimkit.measure.engines import sizes, takes
from slimkit.models import Network
from slimkit.models.ultralytics import Maps
from slimkit.progress import Progress, quiet
from slimkit.provenance import UNKNOWN, Provenance, Use
from slimkit.results import Evaluation
from slimkit.runs import detection, yolo
from slimkit.runs.figures import judged
from slimkit.runs.opening import data_of, task
from slimkit.runs.pixels import pixels
from slimkit.settings import EvaluateSpec, source
from slimkit.tasks import DETECTION
from slimkit.training.ultralytics import TASKS
from slimkit.usage import Usage

_MOST_CHANNELS = 2**14  # of pictures; a file can say any number


def evaluate_model(path: Path, spec: EvaluateSpec, progress: Progress = quiet) -> Evaluation:
    """Measure a slim file, a checkpoint or an ONNX file; pictures are read as the file says that they are to be.

    Raises:
        SlimkitError: the file cannot be read, or the data does not fit it.
    """
    progress("reading the network", None)
    network: nn.Module | Path
    embedded = False
    found: Network | None = None
    given = spec.input_shape is not None
    if path.suffix == ".onnx":
        told = _told(path)
        network, known, embedded = path, told.known, told.embedded
        if known.use.task != DETECTION.name:  # of a detector the file is judged with what stands beside it
            spec.refuse_idle(source.READING, "an ONNX file says all that there is to know of the network")
        _check_sizes(path, told, spec)
    else:
        found = models.load(path, arch=spec.arch, trust_pickle=spec.trust_pickle, max_memory=spec.memory)
        network, known = found.model, provenance.of(found.model)
    if isinstance(network, Maps) or (isinstance(network, Path) and known.use.task in TASKS):
        progress("measuring", None)
        right = yolo.evaluated(network, known, spec)
        assumed = found.assumed(given) if found else ()
        return Evaluation(slimkit=__version__, model=str(path), data=spec.data, accuracy=right, assumptions=assumed)
    if isinstance(network, Path) and known.use.task == DETECTION.name:
        network = detection.by_engine(path, spec)
    if embedded and spec.mean:
        raise SpecError(f"mean is set, and {path} normalises by itself.\n  Leave out `mean` and `std`")
    if isinstance(network, nn.Module):
        detection.check_task(task(spec), network)
    dataset = data_of(spec, spec.data, known, progress)
    if embedded and known.normalisation and dataset.mean:
        dataset = pixels(dataset, known.normalisation)
    if isinstance(network, nn.Module):
        dataset = detection.fitted(dataset, network)
        data.check_fits(dataset, network)
    progress("measuring", None)
    return Evaluation(
        slimkit=__version__,
        model=str(path),
        data=dataset.name,
        accuracy=judged(network, dataset, working_device("auto")),
        assumptions=(*(found.assumed(given or dataset.sized) if found else ()), *dataset.notes),
    )


@dataclass(frozen=True)
class _Told:
    """What an ONNX file says of its use.

    Attributes:
        known: of the network in it.
        embedded: whether it normalises by itself.
        taken: the shape of one image that it takes, by the name of each input; None where it leaves a size free.
    """

    known: Provenance
    embedded: bool
    taken: dict[str, tuple[int | None, ...]]


def _told(path: Path) -> _Told:
    """Return what an ONNX file says of its use.

    Raises:
        CheckpointError: it is no ONNX file.
    """
    try:
        model = onnx.load(str(path), load_external_data=False)
        said: dict[str, Any] = {entry.key: entry.value for entry in model.metadata_props}
    except Exception as error:  # OSError, protobuf's DecodeError
        raise CheckpointError(f"{path}: is not a readable ONNX file.\n  Give an intact one") from error
    try:
        used = Usage.from_dict(json.loads(said["usage"]))
    except (KeyError, ValueError, RecursionError, RecordError):
        used = None
    taken = _taken(model)
    if used is None:
        return _Told(_by_ultralytics(said, _shape(taken)), embedded=False, taken=taken)
    shape = (used.inputs[0].proven or used.inputs[0].shape) if len(used.inputs) == 1 else ()
    scale = {"mean": list(used.mean), "std": list(used.std)} if used.mean and used.std else None
    known = Provenance(
        input_shape=tuple(size for size in shape if size) if shape and None not in shape else None,
        normalisation=scale,
        use=used.use,
    )
    channels = (shape[0] or 3) if shape else 0
    if not (used.embedded and 0 < channels <= _MOST_CHANNELS):
        return _Told(known, used.embedded, taken)
    own = {"mean": [0.0] * channels, "std": [1.0] * channels}
    return _Told(replace(known, normalisation=own), embedded=True, taken=taken)


def _by_ultralytics(said: dict[str, Any], shape: tuple[int, ...] | None) -> Provenance:
    """Return what Ultralytics says in the files that it exports itself; of any other file the shape alone is known."""
    if not (said.get("task") in TASKS and "names" in said):
        return replace(UNKNOWN, input_shape=shape)
    if shape is None or len(shape) != 3:  # exported for images of any size
        sizes = re.findall(r"[0-9]{1,5}", said.get("imgsz", "")) or ["640"]
        shape = (3, int(sizes[0]), int(sizes[-1]))
    return replace(UNKNOWN, input_shape=shape, use=Use(task=said["task"]))


def _taken(model: onnx.ModelProto) -> dict[str, tuple[int | None, ...]]:
    """Return the shapes of one image that a file takes, by the name of each input; of an unknown rank none."""
    weights = {tensor.name for tensor in model.graph.initializer}  # which older files name among their inputs
    ports = [port for port in model.graph.input if port.name not in weights]
    return {port.name: tuple(size.dim_value or None for size in port.type.tensor_type.shape.dim)[1:] for port in ports}


def _shape(taken: dict[str, tuple[int | None, ...]]) -> tuple[int, ...] | None:
    """Return the shape of one image of a file that says nothing else; None where it leaves it free."""
    first = next(iter(taken.values()), ())
    sizes = tuple(size for size in first if size)
    return sizes if sizes and len(sizes) == len(first) else None


def _check_sizes(path: Path, told: _Told, spec: EvaluateSpec) -> None:
    """Check that a file takes the size that is asked for: engines say it in their own words, Ultralytics not at all.

    Raises:
        SpecError: the settings name a size that it does not take.
    """
    asked = spec.shapes or {}
    if isinstance(asked, tuple):
        asked = dict.fromkeys(told.taken, asked) if len(told.taken) == 1 else {}
    for name, shape in asked.items():
        taken = told.taken.get(name)
        if taken and not takes(taken, shape):
            raise SpecError(
                f"input_shape is {spec.input_shape}: {path} takes {sizes(taken)} alone.\n"
                "  Leave `input_shape` out, or evaluate the slim file or checkpoint that it was made from"
            )
