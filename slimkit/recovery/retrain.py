"""How a network is retrained after channels have been removed: by `training.train`, with the original as teacher."""

from slimkit.training.recipe import Recipe

# Epochs up to which images are given as they are. Varied ones, of which the teacher itself is less sure, cost up to 1.2
# points in the first epochs, and on small data sets still 0.8 after ten (docs/results/accuracy.md).
_FEW = 10
_PACES = {  # highest learning rate and weight decay
    "sgd": (0.02, 5e-4),
    "adamw": (1e-3, 0.05),
}


def recipe(epochs: float, seed: int = 0, optimizer: str = "sgd") -> Recipe:
    """Return the default settings of retraining: shorter and gentler than training from scratch."""
    learning_rate, weight_decay = _PACES[optimizer]
    return Recipe(
        epochs=epochs,
        seed=seed,
        optimizer=optimizer,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        clip=True,
        label_smoothing=0.1,
        distillation=0.5,
        temperature=2.0,
        warm_up=0.1,
        augment=epochs > _FEW,
    )
