"""What `slimkit study` should do: arms that share data, budget and recipe; no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from slimkit.errors import SpecError
from slimkit.settings.budget import budget_setting, parse_budget
from slimkit.settings.checks import flag, optional, several, text, whole
from slimkit.settings.data import READING
from slimkit.settings.run import SHARE
from slimkit.settings.setting import Settings, setting
from slimkit.settings.toml_file import make

BUDGET_AXES = ("ratio", "max_macs", "max_params")  # a study has one of them, with several values
# What an arm cannot have for itself: with it, it would have another budget, other data, another recipe or other times.
SHARED = (
    "arch", "data", "task", *READING, "epochs", "batch_size", "seed", "precision", "device",
    "ratio", "max_macs", "max_params", "max_bytes", "max_latency", "max_energy", "runtime", "threads", "batch",
)  # fmt: skip


def _table(name: str, value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise SpecError(f"{name} is {value!r}: it must be a table of settings.\n  Write [{name}.NAME] above them")
    return dict(value)


def _once(name: str, values: Sequence[Any]) -> None:
    """Refuse a value that is there twice, in other words too: 0.5, "50%".

    Raises:
        SpecError: one is.
    """
    known: list[Any] = []
    for value in values:
        one = parse_budget(value, name.removeprefix("max_")) if name in ("max_macs", "max_params") else value
        if one in known:
            first = values[known.index(one)]
            wrong = f"{value} is there twice" if str(first) == str(value) else f"{first} and {value} are the same"
            raise SpecError(f"{name} is {', '.join(map(str, values))}: {wrong}.\n  Leave one of them out")
        known.append(one)


@dataclass(frozen=True, kw_only=True)
class StudySpec(Settings):
    """Which arms are trained, on what, and how often.

    Raises:
        SpecError: a value is of the wrong kind or out of range, arms have one name, or cannot share a budget.
    """

    arch: str = setting("", "architecture, as `slimkit train` takes it", text)
    data: str = setting("", "data set, as `slimkit train` takes it", text)
    methods: tuple[str, ...] = setting(
        (),
        "arms by name: methods of `slimkit train`, and controls: dense, uniform, uniform-params, permuted, scratch-E, "
        "scratch-B, fine-tune, random-channels (scratch is all of these), and scratch-B-strict",
        several(text),
    )
    ratio: tuple[float, ...] = setting((), "shares of the removable channels to remove, each in [0, 1)", several(SHARE))
    max_macs: tuple[str | float, ...] = setting(
        (), "MACs that may be left, shares or amounts", several(budget_setting("macs"))
    )
    max_params: tuple[str | float, ...] = setting(
        (), "parameters that may be left, shares or amounts", several(budget_setting("params"))
    )
    seeds: int = setting(3, "seeds of every arm: 0, 1, 2 and so on", whole(1))
    images: int | None = setting(None, "training images, the first ones; default: all", optional(whole(1)))
    pixels: int | None = setting(
        None, "height and width to average the images down to; default: as they are", optional(whole(1))
    )
    like: str | None = setting(
        None,
        "arm whose widths, and whose cost where that is to be equal, the controls take; default: the first method "
        "that removes channels",
        optional(text),
    )
    equal_cost: bool = setting(
        False, "controls that are trained from their beginning spend as much as that arm has: more epochs", flag
    )
    latency: bool = setting(
        True, "measure the latency of every arm's network, by `runtime`, `threads` and `batch`", flag
    )
    shared: Mapping[str, Any] = setting(None, "settings of `slimkit train` that all arms share", _table)
    arm: Mapping[str, Any] = setting(
        None,
        "further arms by name, each a table of settings of `slimkit train`; its `method` may be a control by name",
        _table,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        axes = [name for name in BUDGET_AXES if getattr(self, name)]
        for name in ("methods", *axes):
            _once(name, getattr(self, name))
        if len(axes) > 1:
            raise SpecError(f"{' and '.join(axes)} are set: a study has one kind of budget.\n  Leave one of them")
        for name in ("arch", "data"):
            if not getattr(self, name):
                raise SpecError(f"{name} is not set: a study needs it.\n  Add it, as for slimkit train")
        if not self.methods and not self.arm:
            raise SpecError(
                "methods is empty: a study needs arms.\n  Give some, for example methods=early-bird,scratch"
            )
        for name in ("method", "seed", "control", *BUDGET_AXES):
            if name in self.shared:
                raise SpecError(f"{name} is {self.shared[name]!r} for all arms: a study has an axis for it.\n  {_AXIS}")
        for arm, settings in self.arm.items():
            for name in _table(f"arm.{arm}", settings):
                if name in SHARED:
                    raise SpecError(
                        f"arm {arm!r} sets {name} = {settings[name]!r}: arms that are compared share it, their budget "
                        "and how they are timed.\n  Set it for the whole study, or make a study of its own of that arm"
                    )

    @property
    def budgets(self) -> tuple[tuple[str, Any], ...]:
        """The values of the budget axis, by the name that `slimkit train` has for it; empty where none is set."""
        return tuple((name, value) for name in BUDGET_AXES for value in getattr(self, name))


_AXIS = "Give methods, seeds (how many) and ratio, max_macs or max_params instead"


def study_spec(settings: Mapping[str, Any]) -> StudySpec:
    """Make a study of settings by name: its own, and any of `slimkit train` that all arms are to share."""
    own = {entry.name for entry in fields(StudySpec)} - {"shared"}
    shared = {name: value for name, value in settings.items() if name not in own}
    return make(StudySpec, {**{name: value for name, value in settings.items() if name in own}, "shared": shared})
