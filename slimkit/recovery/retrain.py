"""Getting accuracy back after channels have been removed."""

import copy
import time
from collections.abc import Callable, Sequence

from torch import nn

from slimkit.recovery.statistics import reestimate
from slimkit.tasks import CLASSIFICATION, Task
from slimkit.training.loop import Trained, train
from slimkit.training.protocols import Split
from slimkit.training.recipe import Recipe
from slimkit.training.run import Hook, Run
from slimkit.training.state import Store


def recipe(epochs: float, seed: int = 0) -> Recipe:
    """Return the default settings of retraining: shorter and gentler than training from scratch."""
    return Recipe(epochs=epochs, seed=seed, learning_rate=0.05, label_smoothing=0.1, distillation=0.5, warm_up=0.1)


def recover(
    model: nn.Module,
    split: Split,
    recipe: Recipe,
    *,
    task: Task = CLASSIFICATION,
    teacher: nn.Module | None = None,
    hooks: Sequence[Hook] = (),
    evaluate: Callable[[nn.Module], float] | None = None,
    progress: Callable[[Run], None] | None = None,
    store: Store | None = None,
) -> Trained:
    """Measure BN's statistics anew, then retrain; with 0 epochs only the former.

    The arguments are those of `loop.train`; `teacher` is the network before surgery.
    """
    began = time.perf_counter()
    model = copy.deepcopy(model)
    reestimate(model, split, seed=recipe.seed)
    if recipe.epochs:
        return train(
            model,
            split,
            recipe,
            task=task,
            teacher=teacher,
            hooks=hooks,
            evaluate=evaluate,
            progress=progress,
            store=store,
        )
    return Trained(model.eval(), (), (), 0, time.perf_counter() - began, (0.0, 0.0), "cpu", "fp32", ())
