"""The arms of a study side by side: what they reached, what it cost, and which differences are more than chance."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from slimkit.quantity import number_of
from slimkit.report.figures import tradeoff
from slimkit.report.numbers import (
    MISSING,
    Show,
    amount,
    change,
    digits,
    interval,
    metric,
    milliseconds,
    possible,
    ratio,
)
from slimkit.report.parts import Cell, Section, Table, picture, quantity, telling, words
from slimkit.report.verdict import Headline, Verdict
from slimkit.results import Accuracy, Arm
from slimkit.results.comparison import (
    BETTER,
    LESS,
    MORE,
    SAME,
    SPENT,
    WORSE,
    Difference,
    Mean,
    differences,
    grouped,
    opponents,
    step_of,
    student,
)


@dataclass(frozen=True)
class Row:
    """An arm at one budget: means over its seeds.

    Attributes:
        name, budget: of the arm.
        test: of the metric, with its interval.
        cost: in dense trainings.
        clock: CPU time of training, in those of the dense arm; None where there is none.
        macs, params: as shares of the dense network's.
        latency: ms; None where it was not measured.
        control: it is one.
    """

    name: str
    budget: str
    test: Mean
    cost: float
    clock: float | None
    macs: float
    params: float
    latency: float | None
    control: bool

    @property
    def title(self) -> str:
        """Its name and its budget."""
        return titled(self.name, self.budget)


def titled(name: str, budget: str) -> str:
    """Return what an arm at a budget is called in a table."""
    return f"{name}, {budget}" if budget else name


def rows(arms: Sequence[Arm]) -> list[Row]:
    """Sum the arms up over their seeds, in the order of the study."""
    dense = [arm.clock.cpu_seconds for arm in arms if arm.settings.get("control") == "dense"]
    found = []
    for (name, budget), own in grouped(arms).items():
        times = [arm.clock.latency_ms for arm in own if arm.clock.latency_ms is not None]
        seconds = statistics.fmean(arm.clock.cpu_seconds for arm in own)
        found.append(
            Row(
                name=name,
                budget=budget,
                test=student([arm.test.value for arm in own], step_of(own[0])),
                cost=statistics.fmean(arm.spent.dense_trainings for arm in own),
                clock=seconds / statistics.fmean(dense) if dense and statistics.fmean(dense) else None,
                macs=statistics.fmean(arm.macs / arm.dense_macs for arm in own),
                params=statistics.fmean(arm.params / arm.dense_params for arm in own),
                latency=statistics.fmean(times) if len(times) == len(own) else None,
                control=own[0].control,
            )
        )
    return found


def said_of(arms: Sequence[Arm]) -> Verdict:
    """Say what a study tells, and what it does not."""
    against = opponents(arms)
    found = [one for one in differences(arms, against) if one.against == against[0]]
    methods = {arm.arm for arm in arms if not arm.control}
    tested = [one for one in found if one.arm in methods] or found
    unit = arms[0].unit
    best = max(rows(arms), key=lambda row: row.test.value if arms[0].better == "higher" else -row.test.value)
    headline = Headline(f"best mean on test, {_seeds(best.test.seeds)}", metric(best.test.value, unit, 2), best.title)
    better = [one for one in found if one not in tested and one.verdict in (BETTER, MORE)]  # controls, told apart
    pairs = [one.mean.seeds for one in (*tested, *better)] or [len(own) for own in grouped(arms).values()]
    told = [count for count in pairs if count > 1]
    if not told:
        common = " in common" if any(len(own) > 1 for own in grouped(arms).values()) else ""
        note = "Give more seeds: differences between trainings of one seed are no smaller than those between seeds."
        sentence = f"One seed{common}: nothing can be told between these arms."
        return Verdict(sentence, (headline,), (note, *_same(arms)))
    over = _seeds(max(told)) if len(set(told)) == 1 else f"{min(told)} to {_seeds(max(told))}"
    sentence = _sentence(tested, better, against[0], over, unit)
    return Verdict(sentence, (headline,), (*_notes(tested, over), *_same(arms)))


def _sentence(found: Sequence[Difference], controls: Sequence[Difference], against: str, over: str, unit: str) -> str:
    def listed(better: Sequence[Difference]) -> str:
        said = (f"{_title(one)} by {change(one.mean.value, 0, unit).lstrip('+−')}{_at(one, ', ')}" for one in better)
        return "; ".join(said)

    by = {verdict: [one for one in found if one.verdict == verdict] for verdict in (BETTER, WORSE, SAME, MORE, LESS)}
    if by[BETTER]:
        sentence = f"Better than {against}: {listed(by[BETTER])}"
    else:
        sentence = f"No {'method' if controls else 'arm'} is better than {against} at {over}"
    rest = [f"{len(by[MORE])} better for more"] * bool(by[MORE]) + [f"{len(by[LESS])} worse for less"] * bool(by[LESS])
    counts = [f"{len(by[BETTER])} better", f"{len(by[WORSE])} worse", f"{len(by[SAME])} without a difference", *rest]
    sentence += f" ({', '.join(counts)})"
    sentence += f"; better for more: {listed(by[MORE])}" if by[MORE] else ""
    return f"{sentence}; of the controls, better is {listed(controls)}." if controls else f"{sentence}."


def _at(one: Difference, before: str) -> str:
    """Say what an arm has more or less of than the other, after `before`; nothing where they are alike."""
    said = [f"{ratio(share, 1.0)} times its {SPENT[name][0]}" for name, share in one.unequal.items()]
    if not said:
        return ""
    return f"{before}at {' and '.join(filter(None, (', '.join(said[:-1]), said[-1])))}"


def judged(one: Difference) -> str:
    """Write a verdict, and what the two have not alike."""
    return one.verdict + _at(one, ": ")


def _notes(found: Sequence[Difference], over: str) -> list[str]:
    said = [
        "Differences are paired: an arm and the other one share data, order and seed. Intervals are Student's, 95 %, "
        f"over {over}; one of twenty misses by chance."
    ]
    more = [one for one in found if one.more is not None]
    if more:
        one = min(more, key=lambda each: each.more or 0)
        said.append(f"{_title(one)} would need about {one.more} more of them to be told from {one.against}.")
    return said


def _same(arms: Sequence[Arm]) -> list[str]:
    """Say which arms are one network under several names: of the same widths and results, seed by seed."""
    alike: dict[tuple[object, ...], list[list[Arm]]] = {}
    for own in grouped(arms).values():
        if all(arm.widths for arm in own):
            found = tuple((arm.seed, arm.widths, arm.validation, arm.test) for arm in own)
            alike.setdefault((own[0].budget, found), []).append(own)
    said = []
    for several in (each for each in alike.values() if len(each) > 1):
        *names, last = (own[0].arm for own in several)
        scoped = {arm.settings.get("scope") for own in several for arm in own} - {"global", None}
        hint = "; with scope = 'global' widths are found that differ" if scoped else ""
        said.append(
            f"{', '.join(names)} and {last} are the same network at {several[0][0].budget}: widths and results are "
            f"equal for every seed{hint}."
        )
    return said


def comparison_of_arms(arms: Sequence[Arm]) -> tuple[Verdict, list[Section]]:
    """Sum a study up: what to say first, and the sections that show it."""
    found = rows(arms)
    by = Accuracy(metric=arms[0].metric, unit=arms[0].unit, better=arms[0].better, validation=None)
    pictures = [section for axis in _axes(arms) if (section := _against(found, by, *axis)) is not None]
    return said_of(arms), [_means(found, by.unit), *pictures, _differences(arms, by.unit), _every(arms, by.unit)]


def _times(value: float | None) -> str:
    return MISSING if value is None else f"{digits(value, 2)} ×"


def _exactly(value: float | None) -> str:
    """Write a multiple with all digits that the ticks of an axis have."""
    return MISSING if value is None else f"{digits(value, 3)} ×"


_Axis = tuple[str, str, Callable[[Row], float | None], Show]


def _axes(arms: Sequence[Arm]) -> tuple[_Axis, ...]:
    return (
        ("cost", "cost of training, in dense trainings", lambda row: row.cost, _exactly),
        ("macs", "MACs, of the dense network’s", lambda row: row.macs, _exactly),
        ("params", "parameters, of the dense network’s", lambda row: row.params, _exactly),
        ("latency", f"latency, {timed_as(arms)}", lambda row: row.latency, milliseconds),
    )


def timed_as(arms: Sequence[Arm]) -> str:
    """Say what the latencies of a study are of; "" where it has none."""
    clock = next((arm.clock for arm in arms if arm.clock.latency_ms is not None), None)
    if clock is None:
        return ""
    how = "CPU time" if clock.threads == 1 else f"fastest run on {clock.threads} threads"
    what = "an image" if clock.batch == 1 else f"a batch of {clock.batch}"
    return f"{how} of {what}" + (f" in {clock.engine}" if clock.engine else "")


def _against(
    found: Sequence[Row], by: Accuracy, name: str, label: str, cost: Callable[[Row], float | None], show: Show
) -> Section | None:
    points = [
        tradeoff.Point(
            row.title,
            spent,
            row.test.value,
            "before" if row.control else "after",
            possible(row.test.interval, by.unit) if row.test.interval else None,
            label=str(number),
        )
        for number, row in enumerate(found, 1)
        if (spent := cost(row)) is not None
    ]
    if len(points) < 2:
        return None
    drawn = picture(
        name,
        f"{by.metric} on test against {label}",
        lambda width: tradeoff.accuracy_against(points, label, show, by, width),
        legend=[("after", "methods"), ("before", "controls")],
    )
    about = (
        f"Numbers are those of the arms. Means over seeds with their 95 % intervals. {tradeoff.best(by)}; the axis "
        "starts at nothing."
    )
    return Section(name=f"by-{name}", title=f"Against {label.partition(',')[0]}", about=about, parts=[drawn])


def _means(found: Sequence[Row], unit: str) -> Section:
    head = ["no.", "arm", "budget", "test", "cost", "CPU time", "MACs", "parameters", "latency"]
    table = [
        [
            Cell(text=str(number), number=True),
            words(row.name),
            words(row.budget),
            Cell(text=metric(row.test.value, unit, 2), number=True, note=_spread(row.test, unit)),
            quantity(row.cost, _times),
            quantity(row.clock, _times),
            quantity(row.macs, _times),
            quantity(row.params, _times),
            quantity(row.latency, milliseconds),
        ]
        for number, row in enumerate(found, 1)
    ]
    about = (
        "Of the last epoch; test was read once a training. Costs are multiples of one training of the dense network: "
        "in MACs as counted, and in CPU time as measured."
    )
    return Section(name="means", title="Arms", about=about, parts=[telling(head, table, MISSING)])


def _differences(arms: Sequence[Arm], unit: str) -> Section:
    head = ["arm", "budget", "against", "difference", "verdict", "more seeds"]
    table = [
        [
            words(one.arm),
            words(one.budget),
            words(one.against),
            Cell(text=change(one.mean.value, 0, unit), number=True, note=span(one.mean, unit)),
            words(judged(one)),
            Cell(text=MISSING if one.more is None else str(one.more), number=True),
        ]
        for one in differences(arms, opponents(arms))
    ]
    about = (
        "On test, seed by seed, with Student’s 95 % interval. The last column: how many more seeds would tell, if "
        "difference and spread stayed as they are."
    )
    return Section(name="differences", title="Differences", about=about, parts=[Table(head=head, rows=table)])


def _every(arms: Sequence[Arm], unit: str) -> Section:
    head = ["arm", "budget", "seed", "validation", "test", "cost", "MACs", "parameters", "latency", "CPU s"]
    table = [
        [
            words(arm.arm),
            words(arm.budget),
            Cell(text=str(arm.seed), number=True),
            quantity(arm.validation.value, lambda v: metric(v, unit, 2), f"arms/{place}/validation/value"),
            Cell(
                text=metric(arm.test.value, unit, 2),
                number=True,
                path=f"arms/{place}/test/value",
                value=arm.test.value,
                note=f"{arm.test.right} of {arm.test.images}" if arm.test.right is not None else None,
            ),
            quantity(arm.spent.dense_trainings, _times, f"arms/{place}/spent/dense_trainings"),
            quantity(arm.macs, amount, f"arms/{place}/macs"),
            quantity(arm.params, amount, f"arms/{place}/params"),
            quantity(arm.clock.latency_ms, milliseconds, f"arms/{place}/clock/latency_ms"),
            quantity(arm.clock.cpu_seconds, digits, f"arms/{place}/clock/cpu_seconds"),
        ]
        for place, arm in enumerate(arms)
    ]
    return Section(name="every", title="Every training", parts=[telling(head, table, MISSING)])


def span(mean: Mean, unit: str) -> str | None:
    """Write the interval of a difference."""
    if mean.interval is None:
        return None
    low, high = (change(end, 0, unit) for end in possible(mean.interval, unit, -1.0))
    return f"{low.removesuffix(' points')} to {high}"


def _spread(mean: Mean, unit: str) -> str:
    return f"{interval(mean.interval, unit)}, {_seeds(mean.seeds)}" if mean.interval else _seeds(mean.seeds)


def _title(one: Difference) -> str:
    return f"{one.arm} at {one.budget}" if one.budget else one.arm


def _seeds(count: int) -> str:
    return number_of(count, "seed")
