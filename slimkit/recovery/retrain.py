"""How a network is retrained after channels have been removed: by `training.train`, with the original as teacher."""

from slimkit.training.recipe import Recipe

# Epochs up to which images are given as they are. Varied ones, of which the teacher itself is less sure, cost up to 1.2
# points in the first epochs, and on small data sets still 0.8 after ten (docs/results/accuracy.md).
_FEW = 10


def recipe(epochs: float, seed: int = 0) -> Recipe:
    """Return the default settings of retraining: shorter and gentler than training from scratch."""
    return Recipe(
        epochs=epochs,
        seed=seed,
        learning_rate=0.02,
        label_smoothing=0.1,
        distillation=0.5,
        temperature=2.0,
        warm_up=0.1,
        augment=epochs > _FEW,
    )
