"""How a network is retrained after channels have been removed: by `training.train`, with the original as teacher."""

from slimkit.training.recipe import Recipe


def recipe(epochs: float, seed: int = 0) -> Recipe:
    """Return the default settings of retraining: shorter and gentler than training from scratch."""
    return Recipe(epochs=epochs, seed=seed, learning_rate=0.05, label_smoothing=0.1, distillation=0.5, warm_up=0.1)
