"""How a training run begins: processes, folders, a fresh network, the state to resume from."""

import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from slimkit import data, models
from slimkit.hardware import pick_device, seeded
from slimkit.modules import copied
from slimkit.runs.folder import output as folder
from slimkit.runs.folder import resume
from slimkit.runs.opening import note
from slimkit.settings import TrainSpec
from slimkit.training import distributed


def joined(spec: TrainSpec) -> AbstractContextManager[distributed.World]:
    """Join the processes that train together."""
    return distributed.joined(distributed.local_device(pick_device(spec.device)))


@contextmanager
def claimed(target: Path, force: bool, world: distributed.World, inputs: Sequence[Path] = ()) -> Iterator[Path]:
    """Give a folder to write into: the output folder to the first process, to others one that goes away.

    `inputs` are files that the run reads; see `output.claim`.
    """
    with tempfile.TemporaryDirectory() if world.rank else folder.claim(target, force, inputs) as work:
        yield Path(work)


def short_name(arch: str) -> str:
    """Return what an architecture is called in the name of a folder."""
    return re.sub(r"[^\w.-]+", "-", arch.removeprefix("zoo:").removeprefix("timm:")).strip("-.") or "network"


def fresh_network(spec: TrainSpec, dataset: data.Dataset, seed: int) -> models.Network:
    """Build the network with fresh weights for a data set's images, and its classes unless `arch` says how many."""
    with seeded(seed):
        network = models.build(spec.arch, classes=dataset.classes, input_shape=dataset.input_shape)
    note(network.model, dataset)
    return network


def redrawn(model: nn.Module, seed: int) -> nn.Module:
    """Return a copy of an untrained network with fresh weights, of the distribution that its own are of.

    Only its maker knows how they were drawn, so each tensor that is trained gets its own numbers in another order: what
    began as a constant does so again. Statistics of BatchNorm begin anew.
    """
    model = copied(model)
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                order = torch.randperm(parameter.numel(), generator=random).to(parameter.device)
                parameter.copy_(parameter.flatten()[order].view_as(parameter))
    for module in model.modules():
        if isinstance(module, _NormBase):
            module.reset_running_stats()
    return model


def about(model: nn.Module, dataset: data.Dataset) -> dict[str, Any]:
    """Return what must be equal, beside the settings, for two training runs to be one."""
    images = "x".join(map(str, dataset.input_shape))
    return {
        "network": f"weights {resume.shapes(model)}",
        "images": f"{len(dataset.train)} of {images}, {dataset.classes} classes",
        resume.DATA: data.digest(dataset),
    }
