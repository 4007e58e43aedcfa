"""What training minimises: the loss of the task, and being unlike a teacher in all it returns; and its gradients."""

from typing import Any

import torch
from torch import Tensor, nn

from slimkit.errors import DataError, SpecError, TrainingError
from slimkit.example import Example, in_float32, tensors
from slimkit.tasks import Task
from slimkit.training.others import imitated, others
from slimkit.training.recipe import Recipe


class Objective:
    """The loss of a task as a recipe asks for it: with smoothed labels, with a share of distillation.

    Raises:
        SpecError: labels are to be smoothed, but the targets of the task are no classes.
    """

    def __init__(self, task: Task, recipe: Recipe) -> None:
        self.task, self.recipe, self.loss = task, recipe, task.loss
        if recipe.label_smoothing:
            if task.smoothed is None:
                raise SpecError(
                    f"label_smoothing is {recipe.label_smoothing}: the targets of the task {task.name!r} are no "
                    "classes.\n  Leave it at 0"
                )
            self.loss = task.smoothed(recipe.label_smoothing)

    def asked(self, inputs: Example, targets: Any) -> Example:
        """Return what the network is called with; where there are no targets, its inputs."""
        return inputs if targets is None else self.task.called(inputs, targets)

    def __call__(self, returned: Any, targets: Any, wanted: Any = None, share: Tensor | float = 1.0) -> Tensor:
        """Return the mean loss of a batch, float32 []; of outputs in half precision it is computed in float32 too.

        Args:
            returned: what the network gave.
            targets: as the task takes them; None where there are none, so that the teacher alone is followed.
            wanted: what the teacher gave, or None.
            share: weight of the loss of the task, which a part of a batch has by how many of its targets count.

        Raises:
            TrainingError: there is neither a target nor a teacher, or none that can be imitated, or the loss is not one
                number with gradients.
        """
        task, recipe = self.task, self.recipe
        returned, wanted = in_float32(returned), in_float32(wanted)
        outputs, *auxiliary = task.outputs(returned)
        imitation = None
        if wanted is not None and recipe.distillation and task.imitation is not None:
            imitation = self._imitated(outputs, task.outputs(wanted)[0])
            for pair in others(task, wanted, returned, targets is not None):
                imitation = imitation + imitated(*pair)
        if targets is None:
            if imitation is None:
                raise TrainingError("the inputs have no targets, and there is no teacher.\n  Give one of them")
            return imitation
        try:
            value = self.loss(outputs, targets)
        except IndexError as error:
            raise DataError(
                f"targets of training do not fit the outputs of the network: {error}\n"
                "  Give labels from 0 to its number of classes, less 1"
            ) from error
        if not isinstance(value, Tensor) or value.dim():
            what = f"numbers {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise TrainingError(
                f"the loss of the task {task.name!r} gave {what} for a batch.\n  Return one number, as a tensor"
            )
        if not value.requires_grad and any(tensor.requires_grad for tensor in tensors(outputs)):
            raise TrainingError(
                f"the loss of the task {task.name!r} gives no gradients.\n"
                "  Compute it of the outputs, with PyTorch alone"
            )
        value = value.float() * share  # of outputs alone it is in their precision
        if imitation is not None:
            value = torch.lerp(value, imitation, recipe.distillation)
        for head in auxiliary:
            value = value + task.auxiliary * share * self.loss(head, targets)
        return value

    def _imitated(self, outputs: Any, wanted: Any) -> Tensor:
        assert self.task.imitation is not None
        try:
            return self.task.imitation(outputs, wanted, self.recipe.temperature)
        except (IndexError, NotImplementedError) as error:  # of one number, of no images: there is no row of scores
            raise TrainingError(
                f"what the network returns cannot be imitated as {self.task.name}: "
                f"{(str(error).splitlines() or [''])[0][:200]}.\n"
                "  Give the part that returns scores [N, classes], or a task of your own, or do without training: "
                "`epochs=0`"
            ) from error


def backward(value: Tensor, model: nn.Module) -> None:
    """Give the parameters of a network the gradients of a loss, [].

    Raises:
        TrainingError: no gradient leads back.
    """
    try:
        value.backward()  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        if value.requires_grad and "inplace operation" not in str(error):
            raise
        raise TrainingError(
            f"{type(model).__name__} cannot be trained: "
            f"{'an activation is changed in place' if value.requires_grad else 'it computes without gradients'}.\n"
            "  Mend its forward, or do without training: `epochs=0`"
        ) from error
