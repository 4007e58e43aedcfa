"""Networks of Ultralytics (YOLO): its checkpoints, read and written, and what surgery sees of a network.

A checkpoint holds the pickled module itself, of Ultralytics' own classes, in half precision. A narrowed network is
written in the same format, so that plain Ultralytics loads, validates and exports it. Its trainer alone would build
the network anew, by its yaml and so at its old widths: the yaml of a narrowed network says instead how to train it.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from slimkit import provenance
from slimkit._version import __version__
from slimkit.errors import ArchitectureError, CheckpointError
from slimkit.example import Example, tensors
from slimkit.models import memory
from slimkit.models.network import Network
from slimkit.modules import copied
from slimkit.pickled.values import Beside
from slimkit.provenance import Provenance, Use

_SIDE = 640  # of an image, where a checkpoint does not say
_TRIAL = 256  # at most, where it is only to be seen that a network runs: a multiple of every stride
# Runs where only Ultralytics is installed.
_AS_IT_IS = (
    "add_callback('on_pretrain_routine_start', "
    "lambda trainer: setattr(trainer, 'get_model', lambda weights=None, **_: weights))"
)
_NARROWED = f"no layer: this network is narrower than its yaml. Before train(), call {_AS_IT_IS}"


class Maps(nn.Module):
    """An Ultralytics network as surgery sees it: what its head computes, before boxes are decoded from it.

    Every branch of the head is there, also those that only training looks at. The features that the head reads, which
    Ultralytics returns as well, are left out: they are no output, and free to become narrower.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Any:
        """Return a dict of maps [N, channels, positions] by name (of a classifier logits [N, classes]).

        Args:
            images: [N, C, H, W] in [0, 1]; H and W multiples of the network's stride.
        """
        head: Any = _head(self.net)
        before, head.training = head.training, True  # the flag of the head alone: its layers keep their mode
        try:
            return _maps(self.net(images))
        finally:
            head.training = before


class Deployed(nn.Module):
    """An Ultralytics network as its ONNX file computes it: decoded boxes and scores, before non-maximum suppression.

    As Ultralytics exports it; of a network with two heads it is the one for inference, whose boxes may be suppressed
    like others.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = copied(net)
        head: Any = _head(self.net)
        head.export = True
        self.branch = None if not getattr(head, "end2end", False) else "one2one"
        if self.branch:
            head.end2end = False

    def forward(self, images: Tensor) -> Any:
        """Return [N, 4 + classes + ..., positions]; of a segmenter also prototypes; of a classifier probabilities."""
        head: Any = _head(self.net)
        if self.branch is None:
            return self.net(images)
        head.training = True
        try:
            found = self.net(images)[self.branch]
        finally:
            head.training = False
        decoded = head._inference(found)
        return (decoded, found["proto"]) if "proto" in found else decoded


def deployed(model: nn.Module) -> nn.Module:
    """Return a network as its files for engines compute it: itself, unless it is one of Ultralytics."""
    if not isinstance(model, Maps):
        return model
    found = Deployed(model.net).eval()
    provenance.attach(found, provenance.of(model))
    return found


def against_one(model: nn.Module, found: Any) -> Any:
    """Return what a network gave, if it is a `Deployed` one with 1 added to the scores of its boxes.

    A score is a share: 1e-7 is nothing, also where all scores of a class are below that, as they are on noise; ONNX
    Runtime's sigmoid is off by that much. So they are to be held against 1, and not against their own spread.
    """
    if not isinstance(model, Deployed):
        return found
    classes = getattr(_head(model.net), "nc", 0) if hasattr(_head(model.net), "cv2") else 0
    first, *others = tensors(found)
    lifted = first.clone()
    lifted[:, 4 : 4 + classes] += 1
    return [lifted, *others]


def _head(net: Any) -> Any:
    return net.model[-1]


def _maps(found: Any, prefix: str = "") -> Any:
    if not isinstance(found, Mapping):
        return found
    maps: dict[str, Any] = {}
    for name, value in found.items():
        if isinstance(value, Mapping):
            maps |= _maps(value, f"{prefix}{name}.")
        elif name != "feats":
            maps[f"{prefix}{name}"] = value
    return maps


def is_network(model: object) -> bool:
    """Tell whether a module is a network of Ultralytics."""
    return isinstance(model, nn.Module) and type(model).__module__ == "ultralytics.nn.tasks"


def from_checkpoint(raw: Any, path: Path) -> Network | None:
    """Return the network of an Ultralytics checkpoint; None where what was read is none.

    Of a checkpoint in the middle of training it is the moving average, as Ultralytics takes it.

    Args:
        raw: what the file holds.
        path: for messages.

    Raises:
        CheckpointError: the network in it was fused for inference.
        ArchitectureError: the installed Ultralytics computes its modules differently.
    """
    if not isinstance(raw, Mapping):
        return None
    net: Any = raw.get("ema") or raw.get("model")
    if not is_network(net):
        return None
    memory.check_tensors((*net.parameters(), *net.buffers()))
    net = net.float()
    net.criterion = None
    for module in net.modules():
        for name, value in list(vars(module).items()):
            if isinstance(value, Beside):  # what was left unread: losses, picture transforms
                delattr(module, name)
    arguments = raw.get("train_args")
    net.args = dict(arguments) if isinstance(arguments, Mapping) else {}
    return as_maps(net, str(raw.get("version") or "another version"), str(path))


def as_maps(net: Any, version: str = "another version", where: str = "model") -> Network:
    """Take a network of Ultralytics, which becomes part of what is returned: a `Maps`.

    Args:
        net: `YOLO(...).model`, for instance, in float32.
        version: of Ultralytics, that it was made with.
        where: it comes from, for messages.

    Raises:
        CheckpointError, ArchitectureError: as `from_checkpoint`.
    """
    if net.is_fused():
        raise CheckpointError(
            f"{where}: the network was fused for inference, so that it can no longer be trained.\n"
            "  Give the checkpoint that its training wrote"
        )
    model = Maps(net).float().eval()
    channels = net.yaml.get("channels") or net.yaml.get("ch") or 3
    side = net.args.get("imgsz") if isinstance(getattr(net, "args", None), dict) else None
    height, width = (side, side) if isinstance(side, int) else side or (_SIDE, _SIDE)
    _check_runs(model, (channels, min(height, _TRIAL), min(width, _TRIAL)), version, where)
    task = task_of(net)
    provenance.attach(
        model,
        Provenance(
            arch=f"ultralytics:{Path(str(net.yaml.get('yaml_file') or type(net).__name__)).stem}",
            input_shape=(channels, height, width),
            classes=len(net.names) if task == "classify" else None,
            normalisation={"mean": [0.0] * channels, "std": [1.0] * channels},
            use=Use(task=task, class_names=tuple(str(net.names[number]) for number in sorted(net.names))),
        ),
    )
    guess = "" if side else f"images are {channels}x{height}x{width}: Ultralytics' default; the file does not tell"
    return Network(model, "Ultralytics checkpoint", (), guess)


def _check_runs(model: Maps, shape: tuple[int, ...], version: str, where: str) -> None:
    try:
        with torch.no_grad():
            copied(model)(torch.zeros(1, *shape))
    except Exception as error:  # modules of another version may lack anything
        raise ArchitectureError(
            f"{where}: was made by Ultralytics {version}; in {installed()}, which is installed, its modules have "
            f"changed ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}).\n"
            f"  Install the version that made it: pip install ultralytics=={version}"
        ) from None


def installed() -> str:
    """Return the version of Ultralytics that is installed, "none" where none is."""
    try:
        return importlib.metadata.version("ultralytics")
    except importlib.metadata.PackageNotFoundError:
        return "none"


def task_of(net: Any) -> str:
    """Return what a network is for, as Ultralytics names it: detect, segment, pose, obb, classify, semantic."""
    named = getattr(net, "task", None)
    if isinstance(named, str):
        return named
    from ultralytics.nn.tasks import guess_model_task

    return str(guess_model_task(net))


def round_(model: nn.Module) -> None:
    """Round weights to the half precision that a checkpoint keeps, so that what is proven and measured is its file."""
    with torch.no_grad():
        for tensor in _numbers(model):
            tensor.copy_(tensor.half().nan_to_num().float())


def _numbers(model: nn.Module) -> Iterator[Tensor]:
    return (tensor for tensor in (*model.parameters(), *model.buffers()) if tensor.is_floating_point())


def save(model: Maps, path: Path, example: Example | None = None) -> None:
    """Write a network as a checkpoint that plain Ultralytics loads; nothing in it is of slimkit.

    `example`: images of the size that it is used at, which the checkpoint then tells.
    """
    net: Any = copied(model.net).half()
    vars(net).pop("_slimkit_provenance", None)
    net.criterion = None
    net.task = task_of(net)
    net.requires_grad_(True)
    for layer in net.model:
        layer.np = sum(parameter.numel() for parameter in layer.parameters())
    rows = net.yaml.get("backbone", [])
    if provenance.of(model).edits and not _is_narrowed(net):
        net.yaml = {**net.yaml, "backbone": [[-1, 1, _NARROWED, []], *rows]}
    arguments = vars(net).pop("args", {})
    told = dict(arguments) if isinstance(arguments, Mapping) else dict(vars(arguments))
    if isinstance(example, Tensor):
        height, width = map(int, example.shape[-2:])
        told["imgsz"] = height if height == width else [height, width]
    checkpoint = {
        "epoch": -1,
        "best_fitness": None,
        "model": net,
        "ema": None,
        "updates": None,
        "optimizer": None,
        "train_args": told,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": installed(),
        "license": "AGPL-3.0 (https://ultralytics.com/license)",
        "docs": "https://docs.ultralytics.com",
        "slimkit": __version__,
    }
    torch.save(checkpoint, path)


def told_in_onnx(model: nn.Module, example: Example, free_size: bool) -> dict[str, str]:
    """Return what Ultralytics reads in an ONNX file, by which `YOLO("model.onnx")` knows how to run and judge it.

    Args:
        model: as the file computes it; what is no `Deployed` has nothing to tell.
        example: images [N, C, H, W] of the size that the file takes.
        free_size: whether it takes others too.
    """
    if not (isinstance(model, Deployed) and isinstance(example, Tensor)):
        return {}
    net: Any = model.net
    channels, height, width = map(int, example.shape[1:])
    words: dict[str, Any] = {
        "task": task_of(net),
        "names": dict(net.names),
        "stride": int(max(net.stride)),
        "imgsz": [height, width],
        "batch": 1,
        "channels": channels,
        "end2end": False,
        "args": {"dynamic": free_size, "nms": False},
    }
    if shape := getattr(_head(net), "kpt_shape", None):
        words["kpt_shape"] = list(shape)
    return {name: str(value) for name, value in words.items()}


def _is_narrowed(net: Any) -> bool:
    rows = net.yaml.get("backbone") or [[None, None, ""]]
    return str(rows[0][2]).startswith("no layer:")
