"""Train a network of the zoo by its recipe; write the checkpoint of the first seed, and the card.

    python tools/train_zoo.py model_zoo/recipes/resnet8-digits.toml

Accuracy is that of the last epoch. The card is written anew after every seed; seeds that stand on a card of the same
recipe are left out, so the tool goes on where it was stopped.
"""

import argparse
import json
import statistics
import time
import tomllib
from pathlib import Path
from typing import Any

import torch

from slimkit import data, models, provenance, zoo
from slimkit.data import Dataset
from slimkit.measure.quality import quality as accuracy
from slimkit.training import Recipe, Run, Trained, gamma_penalty, solve_strength, train
from slimkit.training.penalty import gammas, share_near_zero
from slimkit.training.schedules import total


def train_one(recipe: dict[str, Any], dataset: Dataset, seed: int) -> Trained:
    """Train one network from fresh weights."""
    torch.manual_seed(seed)
    model = zoo.ARCHITECTURES[recipe["arch"]](**recipe["arguments"])
    settings = Recipe(seed=seed, **recipe["training"])
    steps = settings.epochs * (len(dataset.train) // settings.batch_size)
    hooks = []
    if recipe["gamma_pull"]:
        rates = settings.learning_rate * total(settings.rate_share, steps)
        strength = solve_strength(recipe["gamma_pull"], rates, settings.momentum)
        hooks.append(gamma_penalty(lambda step: strength))
    return train(
        model,
        dataset.train,
        settings,
        hooks=hooks,
        evaluate=lambda model: accuracy(model, dataset.validation),
        progress=tell,
    )


def tell(run: Run) -> None:
    """Print a line an epoch."""
    if run.step % run.steps_per_epoch == 0:
        print(run.history[-1], flush=True)


def card(name: str, recipe: dict[str, Any], dataset: Dataset, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what a user of the checkpoint should know."""
    tests = [run["test_accuracy"] for run in runs]
    return {
        "name": name,
        "command": f"python tools/train_zoo.py model_zoo/recipes/{name}.toml",
        "arch": f"zoo:{recipe['arch']}",
        "arguments": recipe["arguments"],
        "data": recipe["data"],
        "images": {part: len(getattr(dataset, part)) for part in ("train", "validation", "test")},
        "normalisation": dataset.normalisation,
        "recipe": recipe,
        "test_accuracy": {"mean": statistics.fmean(tests), "lowest": min(tests), "highest": max(tests)},
        "runs": runs,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def known_runs(path: Path, recipe: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the runs of an earlier card, none where the recipe has changed."""
    if not path.exists():
        return []
    old = json.loads(path.read_text())
    return list(old["runs"]) if old["recipe"] == recipe else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, help="a TOML file of model_zoo/recipes")
    parser.add_argument("--data-root", type=Path, help="folder with the data set's files")
    out = Path(zoo.__file__).parent
    parser.add_argument("--out", type=Path, default=out, help="default: the zoo itself")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    recipe = tomllib.loads(options.recipe.read_text())
    name = options.recipe.stem
    runs = known_runs(options.out / "cards" / f"{name}.json", recipe)
    for seed in recipe["seeds"][len(runs) :]:
        # The validation split is the same for all seeds, so that whoever opens the data by default gets it.
        dataset = data.open(recipe["data"], options.data_root)
        began = time.process_time()
        trained = train_one(recipe, dataset, seed)
        cpu_seconds = time.process_time() - began
        values = torch.cat([gamma.detach() for _, gamma in gammas(trained.model)])
        runs.append(
            {
                "seed": seed,
                "test_accuracy": accuracy(trained.model, dataset.test),
                "validation_accuracy": trained.history[-1].validation_accuracy,
                "share_of_gammas_below_tenth_of_median": share_near_zero(values),
                "seconds": round(trained.seconds, 1),
                "cpu_seconds": round(cpu_seconds, 1),
                "device": trained.device,
                "precision": trained.precision,
            }
        )
        if len(runs) == 1:
            known = provenance.Provenance(
                arch=f"zoo:{recipe['arch']}",
                arguments=recipe["arguments"],
                input_shape=dataset.input_shape,
                classes=dataset.classes,
                normalisation=dataset.normalisation,
            )
            provenance.attach(trained.model, known)
            models.save(trained.model, options.out / f"{name}.safetensors")
        text = json.dumps(card(name, recipe, dataset, runs), indent=2)
        (options.out / "cards").mkdir(exist_ok=True)
        (options.out / "cards" / f"{name}.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
