"""What a run of `compress` starts from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isfinite

import torch
from torch import nn

from slimkit import data, provenance, training
from slimkit.errors import SpecError
from slimkit.example import Example, of_batch, on, tensors
from slimkit.hardware import on_device, working_device
from slimkit.measure.quality import quality
from slimkit.models import Network
from slimkit.modules import copied
from slimkit.progress import Progress, Watcher, quiet
from slimkit.recovery.gap import returns_values
from slimkit.results import Accuracy, Recovery
from slimkit.settings import CompressSpec

_LOOK = 32  # inputs at a time
Evaluate = Callable[[nn.Module], Mapping[str, float]]


@dataclass(frozen=True)
class Retrained:
    """What a retraining gives that can tell more of itself than the network to go on with."""

    model: nn.Module
    record: Recovery


Retrain = Callable[[nn.Module, nn.Module], nn.Module | Retrained]  # (slim network, dense network)
Judge = Callable[[nn.Module], Accuracy]


@dataclass(frozen=True)
class Given:
    """What a run of `compress` starts from.

    Attributes:
        network: the dense network; a copy of ours.
        example: what it is called with.
        spec: the settings.
        dataset: labelled data, to recover accuracy and to measure it.
        calibration: unlabelled inputs, to recover what the network computes.
        retrain: somebody's own retraining, instead of ours.
        evaluate: somebody's own figures of a network, by name, for the report.
        watchers: told how a retraining goes.
        store: where the state of a retraining is kept.
        judge: says how good a network is where there is no data set of ours.
        progress: called with what is being done, and the share done.
    """

    network: Network
    example: Example
    spec: CompressSpec
    dataset: data.Dataset | None = None
    calibration: data.Inputs | None = None
    retrain: Retrain | None = None
    evaluate: Evaluate | None = None
    watchers: Sequence[Watcher] = ()
    store: training.Store | None = None
    judge: Judge | None = None
    progress: Progress = quiet

    @cached_property
    def device(self) -> torch.device:
        """Where networks are fitted, retrained and judged; proof, export and latency are the CPU's."""
        return working_device(self.spec.device)

    @cached_property
    def at_work(self) -> nn.Module:
        """The network before anything is removed, on `device`."""
        return on_device(self.dense, self.device)

    @property
    def dense(self) -> nn.Module:
        """The network before anything is removed."""
        return self.network.model

    @property
    def task(self) -> str | None:
        """The name of what the network is for, by the data, the settings or its file; None: nothing says."""
        return provenance.of(self.dense).use.task

    @cached_property
    def returns_values(self) -> bool:
        """Whether the network's main output, on some of the unlabelled inputs, is no scores of classes."""
        if self.calibration is None:
            return False
        numbers = sum(tensor.numel() for tensor in tensors(of_batch(self.example, 1)))
        some = self.calibration.batches(data.of_size(numbers, _LOOK), at_most=8 * _LOOK, seed=self.spec.seed)
        return returns_values(self.at_work, (on(self.device, one) for one in some))

    def own(self, model: nn.Module) -> dict[str, float | None] | None:
        """Return somebody's own figures of a network, by name, None where one is not finite; None where nobody has any.

        Raises:
            SpecError: `evaluate` gave no figures by name.
        """
        if self.evaluate is None:
            return None
        found = self.evaluate(copied(model))  # which may fold or quantise what it is given
        try:
            return {str(name): number if isfinite(number := float(value)) else None for name, value in found.items()}
        except (AttributeError, TypeError, ValueError, RuntimeError):
            raise SpecError(
                f"evaluate returned {found!r:.200}: it must return numbers by name.\n"
                "  End it with: return {'accuracy': 0.93}"
            ) from None

    def quality(self, model: nn.Module) -> float | None:
        """Return how good a network is on the validation split, by the task's first metric; None without labels."""
        if self.judge is not None:
            return self.judge(model).validation
        if self.dataset is None:
            return None
        return quality(model, self.dataset.validation, self.dataset.task, device=self.device)
