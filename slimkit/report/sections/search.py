"""The search for the ticket: when the mask settled, and what training looked like."""

from functools import partial
from typing import Any

from slimkit.report.figures import curves, gammas, masks
from slimkit.report.numbers import digits, metric, moment, percent, titled
from slimkit.report.parts import Cell, Section, Table, pairs, picture, quantity, words
from slimkit.results import Accuracy, PenaltyEntry, Report, Search, Settling

_PRECISIONS = {"fp32": "the precision of the run", "int8-emulated": "INT8, emulated: rounded values, float arithmetic"}


def draw(report: Report) -> Section | None:
    """Distance between masks over the epochs, the matrix of all of them, the draw."""
    search = report.search
    if search is None:
        return None
    distances = [look for look in search.distances if look.distance is not None]
    near = search.threshold or 0.1
    draws = _draws(report, search)
    parts: list[Any] = []
    if len(distances) > 1:
        parts.append(
            picture(
                "distance",
                "Distance between successive masks over the epochs",
                lambda width: curves.distance(distances, search.threshold, draws, width),
                caption="How much the mask still changes",
            )
        )
    if len(search.epochs) > 2:
        parts.append(
            picture(
                "matrix",
                "Distance between the masks of every two epochs",
                lambda width: masks.matrix(search.matrix, search.epochs, near, width),
                caption=f"Every mask against every other: warmer is closer, the line is {near:.3g}",
            )
        )
    if search.ratios:
        parts.append(_ratio_table(search.ratios))
    if distances:
        rows = [
            (
                Cell(text=moment(look.epoch), number=True),
                quantity(look.distance, digits, f"search/distances/{index}/distance"),
            )
            for index, look in enumerate(search.distances)
            if look.distance is not None
        ]
        parts.append(Table(head=("epoch", "mask distance"), rows=rows, caption="All distances", folded=True))
    if not parts:
        return None
    return Section(
        name="draw",
        title="When the mask settled",
        about="A mask says which channels would stay if the network were cut now. Its distance to another is "
        "the share of the channels that may go on which they disagree. Once it stops moving, more training does not "
        f"tell more: the network is cut and the small one is trained on.{_watched(report, search)}",
        parts=parts,
    )


def _watched(report: Report, search: Search) -> str:
    """Say what ranked the channels of the masks that were looked at, and what those of the cut where it is another."""
    ranking = report.spec.get("ranking")
    if search.watched is None:
        return ""
    other = "" if ranking in (None, search.watched) else f"; those that went were ranked by {ranking}, which needs data"
    return f" Channels of these masks are ranked by {search.watched}{other}."


def training(report: Report) -> Section | None:
    """Accuracy and loss over all epochs, gammas over those of the search, the penalty."""
    search = report.search
    if search is None:
        return None
    by = report.after.accuracy or Accuracy(validation=None)
    what = "all weights of a channel" if search.penalty and search.penalty.kind == "group" else "BatchNorm scales"
    parts: list[Any] = []
    if len(search.history) > 1:
        parts.append(_curves(report, search, by))
    if len(search.gamma_history) > 1:
        parts.append(
            picture(
                "gammatime",
                "Histograms of BatchNorm scales over the epochs",
                lambda width: gammas.over_time(search.gamma_history, search.drawn_epoch, width),
                caption="BatchNorm scales until the cut; heights are square roots of counts",
            )
        )
    if search.history:
        parts.append(_epochs_table(search, by, folded=bool(parts)))
    if search.penalty:
        parts.append(pairs(_penalty(search.penalty), f"The penalty on {what}", mono=False))
    if search.precision:
        named = _PRECISIONS.get(search.precision, search.precision)
        parts.append(pairs({"the dense network was trained in": named}, "Precision of the search", mono=False))
    if not parts:
        return None
    return Section(
        name="training",
        title="Training",
        about=f"A penalty pulls {what} towards zero while the mask is searched, so that what can go "
        "stands apart from what cannot."
        if search.penalty
        else "",
        parts=parts,
    )


def _curves(report: Report, search: Search, by: Accuracy) -> Any:
    split, drawn = by.of("validation"), dict(list(_draws(report, search).items())[:1])
    return picture(
        "training",
        "Accuracy and loss over the epochs",
        lambda width: curves.training(search.history, drawn, by, width),
        caption=f"{titled(by.metric)} on {split.of if split else 'validation images'}, and loss",
    )


def _epochs_table(search: Search, by: Accuracy, folded: bool) -> Table:
    shown = partial(metric, unit=by.unit, places=2)
    rows = [
        (
            Cell(text=str(entry.epoch), number=True),
            quantity(entry.loss, digits, f"search/history/{index}/loss"),
            quantity(entry.validation_accuracy, shown, f"search/history/{index}/validation_accuracy"),
        )
        for index, entry in enumerate(search.history)
    ]
    return Table(head=("epoch", "loss", f"validation {by.metric}"), rows=rows, caption="These numbers", folded=folded)


def _draws(report: Report, search: Search) -> dict[str, float]:
    """Name the epochs of the draws, the one that was used first; a mask may be cut before it has settled."""
    asked, used = report.spec.get("ratio"), search.drawn_epoch
    order = sorted(search.ratios, key=lambda name: (float(name) != asked, float(name)))
    first = {} if used is None else {f"cut at {moment(used)}": used}
    return first | {
        f"{percent(float(name), 0)} settled at {moment(settling.epoch)}": settling.epoch
        for name in order
        if (settling := search.ratios[name]).epoch is not None and settling.settled
    }


def _ratio_table(ratios: dict[str, Settling]) -> Table:
    rows = []
    for name, settling in ratios.items():
        epoch = Cell(text="not settled", number=True)
        if settling.settled and settling.epoch is not None:
            epoch = quantity(settling.epoch, moment, f"search/ratios/{name}/epoch")
        final = quantity(settling.distance_to_final, digits, f"search/ratios/{name}/distance_to_final")
        rows.append((words(f"{percent(float(name), 0)} removed"), epoch, final))
    return Table(head=("", "settled at epoch", "distance to the final mask"), rows=rows)


def _penalty(penalty: PenaltyEntry) -> dict[str, str]:
    return {
        "lambda": digits(penalty.strength),
        "S = lambda · Σ learning rate / (1 − momentum)": _pulled(penalty),
        "penalised sizes below a tenth of the median": percent(penalty.share_below_tenth_of_median),
        "gap in the histogram at the cut": {True: "yes", False: "no", None: "unknown"}[penalty.gap],
    }


def _pulled(penalty: PenaltyEntry) -> str:
    """Say S as it was reached, and what it would have come to over the whole schedule."""
    reached, planned = penalty.pull, penalty.pull_of_schedule
    if planned is None or planned == reached:
        return digits(reached)
    return f"{digits(reached)} until the draw, {digits(planned)} over the whole schedule"
