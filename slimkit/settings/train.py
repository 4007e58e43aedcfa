"""What `slimkit train` should do, whatever the method; its own settings are the method's, see `slimkit.methods`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from slimkit.errors import SpecError
from slimkit.settings.checks import choice, number, text, whole
from slimkit.settings.data import DATA_MEANING
from slimkit.settings.run import BUDGETS as KINDS
from slimkit.settings.run import RANKING_MEANING, RANKINGS, RunSpec
from slimkit.settings.setting import setting

METHODS = (
    "early-bird", "progressive", "network-slimming", "lottery-ticket", "weight-ticket", "edge-popup",
    "factorised", "weight-agnostic", "scratch",
)  # fmt: skip

# What says how far to go; which counts and layers are allowed; and all that says which channels go.
BUDGETS = ("ratio", *(f"max_{kind}" for kind in KINDS))
ALLOWED = ("keep", "without_bn", "cap", "round_to")
OF_CHANNELS = (*BUDGETS, "ranking", "scope", *ALLOWED, "constants", "latency_table")

REMOVE_NONE = ("weight-ticket", "edge-popup", "factorised", "weight-agnostic")  # these leave all channels

# What a settings file of the days of `draw` holds though that draw had no use for it, with its default of then.
_IDLE: dict[str, Any] = {
    "penalty": "gamma", "l1": None, "penalty_total": None, "rule": "consecutive", "threshold": 0.1,
    "normalised": False, "interval": None, "deadline": 0.02, "spend": None, "watch": [], "init": "inherit",
    "rewind_step": 0, "passes": 1, "search_precision": "fp32",
}  # fmt: skip
_USED = {  # by the method that took the draw's place
    "early-bird": _IDLE.keys() - {"passes"},
    "at": _IDLE.keys() - {"passes", "deadline"},
    "network-slimming": _IDLE.keys() - {"deadline", "spend"},
    "scratch": {"spend"},
}


@dataclass(frozen=True, kw_only=True)
class TrainSpec(RunSpec):
    """What `slimkit train` should do with an architecture and data."""

    arch: str = setting("", "resnet18, zoo:NAME, timm:NAME, package.module:factory or file.py:factory", text)
    data: str = setting("", f"{DATA_MEANING} or file.py:make", text)
    batch_size: int = setting(128, "images a training step", whole(1))
    learning_rate: float = setting(0.1, "highest learning rate", number(0, above=True))
    method: str = setting(
        "scratch",
        f"how the small network is found: {', '.join(METHODS)}; scratch trains uniform widths",
        choice(*METHODS),
    )
    epochs: int = setting(30, "epochs of the whole schedule, search and training of the small network", whole(1))
    schedule: str = setting(
        "cosine",
        "learning rate over time: cosine, or step (a tenth at 1/2 and again at 3/4)",
        choice("cosine", "step"),
    )
    ranking: str = setting("auto", f"{RANKING_MEANING}; auto: what suits the method", choice("auto", *RANKINGS))

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, example in (("arch", "zoo:resnet20"), ("data", "fashion-mnist")):
            if not getattr(self, name):
                raise SpecError(f"{name} is not set: training needs it.\n  Add it, for example `{name}='{example}'`")


def new_words(settings: Mapping[str, Any]) -> tuple[dict[str, Any], str | None]:
    """Return settings in today's words, and what to say where `draw` was given, which was once the method.

    Raises:
        SpecError: `draw` is given beside a method, or is none of its words.
    """
    new = dict(settings)
    draw = new.pop("draw", None)
    if draw is None:
        return new, None
    if "method" in new:
        raise SpecError(f"draw is {draw!r}, and method is {new['method']!r}: both say how.\n  Leave out draw")
    epoch = re.fullmatch(r"epoch:(\d+)", str(draw))
    words: dict[str, Any]
    if draw in ("early-bird", "end"):
        words = {"method": {"end": "network-slimming"}.get(draw, draw)}
    elif draw == "init" or (epoch and int(epoch[1]) == 0):
        words = {"method": "scratch", "control": "scratch-E", "weights": "initial"}
        if new.pop("init", "inherit") == "fresh":
            words["weights"] = "fresh"
    elif epoch:
        words = {"method": "early-bird", "at": int(epoch[1])}
    else:
        raise SpecError(f"draw is {draw!r}: it was early-bird, end, epoch:K or init.\n  Give method instead")
    if new.get("search_precision") == "fp32":  # it meant what is auto today
        del new["search_precision"]
    for name in _IDLE.keys() - _USED["at" if "at" in words else words["method"]]:
        if name in new and new[name] == _IDLE[name]:
            del new[name]
    said = ", ".join(f"{name} = {value}" for name, value in words.items())
    return new | words, f"draw = {draw} is now {said}"
