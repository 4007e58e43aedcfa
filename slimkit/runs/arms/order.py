"""The arms of a study: which runs there are, and which wait for another's widths or cost."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

from slimkit.errors import SlimkitError, SpecError
from slimkit.methods import METHODS, scratch
from slimkit.results import Arm
from slimkit.runs.plan import Plan, plan
from slimkit.settings import StudySpec, TrainSpec
from slimkit.settings.files import FileSpec

REFERENCE = "reference"  # stands for what the reference has: as its cost, or the epoch of its draw
STRICT = "scratch-B-strict"
CONTROLS: dict[str, dict[str, Any]] = {
    **{name: {"method": "scratch", "control": name} for name in scratch.CONTROLS},
    STRICT: {"method": "scratch", "control": "scratch-B", "worth": REFERENCE},
}
_AT_WILL = ("uniform", "uniform-params", "permuted", "scratch-E")  # controls that may be trained for any cost
# What may be the word `reference`, and what stands in for it until the reference is trained.
_STAND_INS: dict[str, Any] = {"spend": 1.0, "worth": 1.0, "at": 1}
_OF_FILES = (*(entry.name for entry in fields(FileSpec)), "int8")
_OF_TIMES = ("runtime", "threads", "batch")


@dataclass(frozen=True)
class Planned:
    """A run to come.

    Attributes:
        arm: its name.
        budget: in words, as `ratio 0.5`; empty where it has none.
        seed: of everything.
        settings: by name, for `plan`; the word `reference` stands for what is not known yet.
        waits: the run whose widths or cost it takes; None where it takes none.
    """

    arm: str
    budget: str
    seed: int
    settings: Mapping[str, Any]
    waits: tuple[str, str, int] | None = None

    @property
    def key(self) -> tuple[str, str, int]:
        """What there is once in a study."""
        return self.arm, self.budget, self.seed

    def resolved(self, found: Mapping[tuple[str, str, int], Arm]) -> dict[str, Any]:
        """Return the settings with what the run waited for.

        Args:
            found: finished arms by key.

        Raises:
            SpecError: the other one has no such thing.
        """
        settings = dict(self.settings)
        if self.waits is None:
            return settings
        other = found[self.waits]
        if settings["method"] == "scratch" and not _has_widths(settings):
            settings["kept"] = list(other.widths)
        known = {"spend": other.spent.dense_trainings, "worth": other.spent.dense_trainings, "at": _epoch(other)}
        for name, value in settings.items():
            if value == REFERENCE and known.get(name) is None:
                raise SpecError(f"arm {self.arm!r}: {name} is {value!r}, but {other.arm!r} has none.\n  Give a number")
        return {name: known[name] if value == REFERENCE else value for name, value in settings.items()}

    def plan(self, found: Mapping[tuple[str, str, int], Arm]) -> Plan:
        """Return the run as its method takes it."""
        return plan(self.resolved(found), source=f"arm {self.arm!r}", ignoring=self.settings)

    def stood_in(self, widths: Sequence[int] = (1,)) -> dict[str, Any]:
        """Return the settings with something in place of what the reference will say, its `widths` among it.

        Raises:
            SpecError: the reference has no such thing.
        """
        for name, value in self.settings.items():
            if value == REFERENCE and name not in _STAND_INS:
                raise SpecError(
                    f"arm {self.arm!r}: {name} is {REFERENCE!r}, which only {', '.join(_STAND_INS)} may be.\n"
                    "  Give a value"
                )
        settings = {name: _STAND_INS[name] if value == REFERENCE else value for name, value in self.settings.items()}
        if self.waits and settings["method"] == "scratch" and not _has_widths(settings):
            settings["kept"] = list(widths)
        return settings


@contextmanager
def naming(arm: str) -> Iterator[None]:
    """Let an error name the arm that it is of, unless it does so, or the name is empty."""
    try:
        yield
    except SlimkitError as error:
        if arm and f"arm {arm!r}" not in str(error):
            error.args = (f"arm {arm!r}: {error}",)
        raise


def _epoch(arm: Arm) -> int | None:
    return None if arm.drawn_epoch is None else max(1, round(arm.drawn_epoch))


def planned(spec: StudySpec) -> list[Planned]:
    """Return all runs of a study, in the order of its lines: seed by seed.

    Raises:
        SpecError: an arm is unknown, has a setting that is or that a study has no use for, or cannot share the others'
            budget.
    """
    arms = _by_name(spec)
    removing = [name for name, settings in arms.items() if METHODS[settings["method"]].removes and not _dense(settings)]
    _share_budget(spec, arms, removing)
    like = _reference(spec, arms)
    if spec.equal_cost and like is None:
        raise SpecError(
            "equal_cost is true: the study has no arm whose cost is to be equalled.\n"
            "  Add a method that removes channels, or leave it out"
        )
    given_budgets = spec.budgets or ((("ratio", 0.5),) if removing else ())
    budgets = {f"{name} {value}": (name, value) for name, value in given_budgets}
    found = []
    for name, settings in arms.items():
        for words in budgets if name in removing else ("",):
            given = {**spec.shared, "arch": spec.arch, "data": spec.data, **settings}
            if words:
                axis, value = budgets[words]
                given[axis] = value
            waits = like if name != like and _takes(settings, like) else None
            if waits and spec.equal_cost and settings["method"] == "scratch" and settings.get("control") in _AT_WILL:
                given.setdefault("spend", REFERENCE)
            if waits is None and (left := [key for key, value in settings.items() if value == REFERENCE]):
                raise SpecError(
                    f"arm {name!r}: {left[0]} is {REFERENCE!r}, but the study has no arm to take it from.\n"
                    "  Name one with `like`, or add a method that removes channels"
                )
            found += [
                Planned(name, words, seed, given | {"seed": seed}, None if waits is None else (waits, words, seed))
                for seed in range(spec.seeds)
            ]
    plans: dict[tuple[str, str], Plan] = {}
    for run in {(run.arm, run.budget): run for run in found}.values():
        ignoring = run.settings.keys() - arms[run.arm].keys()
        with naming(run.arm if run.arm in spec.arm else ""):  # the others have only what all share
            plans[run.arm, run.budget] = plan(run.stood_in(), source=f"arm {run.arm!r}", ignoring=ignoring)
    for (name, _), asked in plans.items():
        with naming(name if name in spec.arm else ""):
            _refuse_idle(spec, asked, times=any(map(_times, plans.values())))
    return sorted(found, key=lambda run: run.seed)  # so that a study that is cut short has whole seeds


def _refuse_idle(spec: StudySpec, asked: Plan, times: bool) -> None:
    """Refuse settings that a study has no use for; `times`: a method of it times networks itself."""
    asked.spec.refuse_idle(
        _OF_FILES, "a study leaves no file of a network", "Leave `{name}` out: slimkit train writes files"
    )
    if not spec.latency and not times:
        asked.spec.refuse_idle(
            _OF_TIMES, "no latency is measured, since latency is False", "Leave out `{name}`, or `latency=False`"
        )


def _times(asked: Plan) -> bool:
    """Tell whether a method times networks itself."""
    return asked.spec.budget.kind in ("latency", "energy") or getattr(asked.config, "only_faster", False)


def _has_widths(settings: Mapping[str, Any]) -> bool:
    return bool(settings.get("kept") or settings.get("like"))


def _by_name(spec: StudySpec) -> dict[str, dict[str, Any]]:
    """Return the settings of every arm by its name.

    Raises:
        SpecError: a name is there twice, or an arm is of no method or control.
    """
    found: dict[str, dict[str, Any]] = {}
    for name in _words(spec.methods):
        if name in found:
            raise SpecError(f"methods names {name!r} twice: scratch is all controls but {STRICT}.\n  Leave one out")
        found[name] = _expanded(f"methods names {name!r}", {"method": name})
    for name, settings in spec.arm.items():
        if name in found:
            raise SpecError(f"arm {name!r} is among the methods too.\n  Give it another name")
        method = settings.get("method", TrainSpec.method)
        found[name] = _expanded(f"arm {name!r}: method is {method!r}", {**settings, "method": method})
    return found


def _expanded(said: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of an arm with the method and the settings that the name of a control stands for.

    Args:
        said: what names the method, for messages.
        settings: of the arm, with `method`.

    Raises:
        SpecError: there is no such method or control, or the arm has a setting that the control has too.
    """
    method = settings["method"]
    if not isinstance(method, str) or method not in (*METHODS, *CONTROLS):
        known = ", ".join([*METHODS, *CONTROLS])
        raise SpecError(f"{said}: there is no such method or control.\n  There are {known}")
    control = {"method": method, **CONTROLS.get(method, {})}
    for name, value in control.items():
        if name != "method" and settings.get(name, value) != value:
            raise SpecError(
                f"{said}, whose {name} is {value!r}, and {name} is {settings[name]!r}.\n  Leave one of them out"
            )
    by_default = {"control": scratch.ScratchConfig.control} if method == "scratch" else {}
    return {**by_default, **settings, **control}


def _words(methods: tuple[str, ...]) -> Iterator[str]:
    for name in methods:
        yield from scratch.CONTROLS if name == "scratch" else (name,)


def _dense(settings: Mapping[str, Any]) -> bool:
    return settings["method"] == "scratch" and settings.get("control") == "dense"


def _takes(settings: Mapping[str, Any], like: str | None) -> bool:
    """Tell whether an arm needs a reference that the study has."""
    control = settings["method"] == "scratch" and not _dense(settings)
    return like is not None and ((control and not _has_widths(settings)) or REFERENCE in settings.values())


def _reference(spec: StudySpec, arms: Mapping[str, Mapping[str, Any]]) -> str | None:
    finds = [n for n, s in arms.items() if s["method"] != "scratch" and METHODS[s["method"]].removes]
    if spec.like is None:
        alone = [name for name in finds if REFERENCE not in arms[name].values()]
        return alone[0] if alone else None
    if spec.like not in finds:
        raise SpecError(
            f"like is {spec.like!r}: it is no arm of this study that finds widths by itself.\n"
            f"  Give one of {', '.join(finds) or 'its methods, once it has some that remove channels'}"
        )
    return spec.like


def _share_budget(spec: StudySpec, arms: Mapping[str, Mapping[str, Any]], removing: list[str]) -> None:
    """Refuse arms that cannot have the same budget.

    Raises:
        SpecError: some arms remove channels and others none, or a budget is set for arms that remove none.
    """
    without = [name for name in arms if name not in removing and not _dense(arms[name])]
    if without and (removing or spec.budgets):
        budget = f"{spec.budgets[0][0]} = {spec.budgets[0][1]}" if spec.budgets else f"that of {removing[0]!r}"
        raise SpecError(
            f"arm {without[0]!r} removes no channels, so it cannot share a budget of channels ({budget}).\n"
            "  Leave it out, or make a study of its own of the methods that remove none, without a budget"
        )
