"""A task: what a network is trained to minimise, what it is judged by, and how its outputs are read."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import default_collate

from slimkit.errors import SpecError
from slimkit.example import Example, tensors
from slimkit.tasks.metric import Metric

Loss = Callable[[Any, Any], Tensor]
_MAIN = ("out", "logits")  # names of the main output: torchvision's, Hugging Face's


def heads(returned: Any) -> tuple[Any, ...]:
    """Find the main output in what a network returns, and those of auxiliary heads behind it.

    A tuple's first tensor is the main one (of a tuple without tensors the first entry), and those behind it are
    auxiliary if they are of its kind (as many dimensions, as many channels). Of a dict or an object it is `out` or
    `logits`, else the first entry that is a tensor, and what begins with `aux` is auxiliary.
    """
    if isinstance(returned, Tensor):
        return (returned,)
    if isinstance(returned, (tuple, list)):
        given = [entry for entry in returned if entry is not None] or [returned]
        place = next((place for place, entry in enumerate(given) if isinstance(entry, Tensor)), 0)
        main, *rest = given[place:]
        return (main, *(entry for entry in rest if _alike(entry, main)))
    entries = dict(returned) if isinstance(returned, Mapping) else dict(getattr(returned, "__dict__", {}))
    known = {name: entry for name, entry in entries.items() if isinstance(entry, Tensor)}
    if not known:
        return (returned,)
    main_name = next((name for name in _MAIN if name in known), next(iter(known)))
    auxiliary = (known[name] for name in known if str(name).startswith("aux") and name != main_name)
    return (known[main_name], *auxiliary)


def _alike(entry: Any, main: Any) -> bool:
    both = isinstance(entry, Tensor) and isinstance(main, Tensor)
    return both and entry.dim() == main.dim() and entry.shape[:2] == main.shape[:2]


def squared_error(outputs: Tensor, wanted: Tensor, temperature: float) -> Tensor:
    """Return the mean squared error against a teacher's outputs; without classes, temperature has no meaning."""
    return F.mse_loss(outputs.float(), wanted.float())


def stacked(items: list[Any]) -> tuple[Any, Any]:
    """Make a batch of (input, target) as PyTorch does; several inputs become a tuple, as a network is called with."""
    inputs, targets = default_collate(items)
    return arguments(inputs), targets


def arguments(inputs: Any) -> Any:
    """Return inputs that loaders give in a list, as PyTorch makes of tuples, as a tuple of arguments."""
    return tuple(inputs) if type(inputs) is list and all(isinstance(one, Tensor) for one in inputs) else inputs


def inputs_alone(inputs: Any, targets: Any) -> Example:
    """Call a network with its inputs."""
    found: Example = inputs
    return found


def any_outputs(outputs: Any, targets: Any, classes: int | None) -> str | None:
    """Take whatever outputs and targets there are, so long as they are numbers."""
    return no_numbers(outputs)


def no_numbers(outputs: Any) -> str | None:
    """Say that outputs hold NaN, which any metric may take for something; None where they do not."""
    if any(tensor.is_floating_point() and bool(tensor.isnan().any()) for tensor in tensors(outputs)):
        return "the network's outputs hold NaN, by which nothing can be judged"
    return None


@dataclass(frozen=True, kw_only=True)
class Task:
    """What the outputs of a network are for. A value: make another with `dataclasses.replace`.

    All its functions get `outputs`, the main one that a network gives for a batch of B inputs, and `targets`, as
    the data set gives them. Where a network gives its loss itself, that is its output in training: `called` gives it
    the targets, and `loss` takes it from there.

    Attributes:
        name: as messages and the report name it.
        loss: (outputs, targets) -> mean loss of the batch, [].
        metrics: by name. By the first one networks are chosen and compared.
        better: whether `higher` or `lower` values of the first metric are better.
        collate: list of (input, target) -> one batch of both.
        called: (inputs, targets) -> what a network is called with, to be trained and to be judged.
        outputs: what the network returns -> (main output, those of auxiliary heads).
        imitation: (outputs, teacher's outputs, temperature) -> mean loss of not being like the teacher, []; None:
            there is no teacher.
        misfit: (outputs, targets, number of classes or None) -> why they are not of this task; None: they are. Asked
            of every batch that is judged.
        outside: (outputs, targets, of any number of inputs) -> which class numbers the outputs have no place for; None:
            they have one for all. Asked of all targets that are in memory; None where targets are no classes.
        counted: targets -> how many of them the loss is the mean over, [], where it leaves some out; None: all count.
            Asked where several processes train, each with a part of the batch and of what counts in it.
        smoothed: share -> the loss with that share of every target spread over all classes; None where targets
            are no classes.
        auxiliary: weight of the loss of each auxiliary head.
    """

    name: str
    loss: Loss = field(repr=False)
    metrics: Mapping[str, Metric] = field(repr=False)
    better: Literal["higher", "lower"] = field(repr=False)
    collate: Callable[[list[Any]], Any] = field(default=stacked, repr=False)
    called: Callable[[Any, Any], Example] = field(default=inputs_alone, repr=False)
    outputs: Callable[[Any], tuple[Any, ...]] = field(default=heads, repr=False)
    imitation: Callable[[Any, Any, float], Tensor] | None = field(default=squared_error, repr=False)
    misfit: Callable[[Any, Any, int | None], str | None] = field(default=any_outputs, repr=False)
    outside: Callable[[Any, Any], str | None] | None = field(default=None, repr=False)
    counted: Callable[[Any], Tensor] | None = field(default=None, repr=False)
    smoothed: Callable[[float], Loss] | None = field(default=None, repr=False)
    auxiliary: float = field(default=0.3, repr=False)  # Szegedy et al. 2014, arXiv:1409.4842

    @property
    def metric(self) -> str:
        """Name of the metric by which networks are chosen and compared."""
        return next(iter(self.metrics))

    @property
    def classifies(self) -> bool:
        """Whether its first metric is the accuracy that every report knows."""
        return self.metric == "accuracy" and self.metrics["accuracy"].unit == "share"

    @classmethod
    def of(
        cls,
        *,
        loss: Loss,
        metrics: Mapping[str, Metric | Callable[[Any, Any], Tensor]],
        better: Literal["higher", "lower"],
        name: str = "own",
        **others: Any,
    ) -> "Task":
        """Make a task of plain functions of (outputs, targets).

        Args:
            loss: mean loss of a batch, [].
            metrics: each a `Metric`, or a function that gives one number an image, [B] (bool: right or wrong),
                or one a batch, []. The first decides.
            better: whether `higher` or `lower` values of the first metric are better.
            name: as messages and the report name it.
            others: further attributes of `Task`, where its defaults do not serve.

        Raises:
            SpecError: there is no metric, or something that is no function.
        """
        checked = _checked(loss, metrics, better)
        return cls(name=name, loss=loss, metrics=checked, better=better, **others)


def _checked(loss: Any, metrics: Any, better: Any) -> dict[str, Metric]:
    if not callable(loss):
        raise SpecError(f"loss is {type(loss).__name__}: it must be a function of (outputs, targets).\n  Give one")
    if not isinstance(metrics, Mapping) or not metrics:
        raise SpecError(
            "metrics are none: a task needs one to compare networks by.\n"
            "  Give metrics={'name': function of (outputs, targets)}"
        )
    if better not in ("higher", "lower"):
        raise SpecError(f"better is {better!r}: it must be 'higher' or 'lower'.\n  Say which values are better")
    for name, metric in metrics.items():
        if not isinstance(metric, Metric) and not callable(metric):
            raise SpecError(f"metric {name!r} is {type(metric).__name__}: it must be a function.\n  Give one")
    return {str(name): m if isinstance(m, Metric) else Metric(m) for name, m in metrics.items()}
