"""The search for the ticket: when the mask settled, and what training looked like."""

from typing import Any

from slimkit.report.figures import curves, gammas, masks
from slimkit.report.numbers import digits, percent
from slimkit.report.parts import Cell, Section, Table, pairs, picture, quantity, words
from slimkit.report.verdict import Record

_PRECISIONS = {"fp32": "the precision of the run", "int8-emulated": "INT8, emulated: rounded values, float arithmetic"}


def draw(report: Record) -> Section | None:
    """Distance between masks over the epochs, the matrix of all of them, the draw."""
    search = report.get("search") or {}
    distances = [entry for entry in search.get("distances") or [] if entry.get("distance") is not None]
    ratios, threshold = search.get("ratios") or {}, search.get("threshold")
    near = threshold or 0.1
    draws = _draws(report)
    parts: list[Any] = []
    if distances:
        parts.append(
            picture(
                "distance",
                "Distance between successive masks over the epochs",
                lambda width: curves.distance(distances, threshold, draws, width),
                caption="How much the mask still changes",
            )
        )
    if search.get("matrix"):
        parts.append(
            picture(
                "matrix",
                "Distance between the masks of every two epochs",
                lambda width: masks.matrix(search["matrix"], search["epochs"], near, width),
                caption=f"Every mask against every other: warmer is closer, the line is {near:.3g}",
            )
        )
    if ratios:
        parts.append(_ratio_table(ratios))
    if distances:
        rows = [
            (
                Cell(text=f"{entry['epoch']:g}", number=True),
                quantity(entry["distance"], digits, f"search/distances/{index}/distance"),
            )
            for index, entry in enumerate(search["distances"])
            if entry.get("distance") is not None
        ]
        parts.append(Table(head=("epoch", "mask distance"), rows=rows, caption="All distances", folded=True))
    if not parts:
        return None
    return Section(
        name="draw",
        title="When the mask settled",
        about="A mask says which channels would stay if the network were cut now. Its distance to another is "
        "the share of channels on which they disagree. Once it stops moving, more training does not tell "
        "more: the network is cut and the small one is trained on.",
        parts=parts,
    )


def training(report: Record) -> Section | None:
    """Accuracy and loss over all epochs, gammas over those of the search, the penalty."""
    search = report.get("search") or {}
    history = search.get("history") or []
    draws = _draws(report)
    first = next(iter(draws.values()), None)
    group = (search.get("penalty") or {}).get("kind") == "group"
    what = "all weights of a channel" if group else "BatchNorm scales"
    parts: list[Any] = []
    if any(entry.get("accuracy") is not None or entry.get("loss") is not None for entry in history):
        parts.append(
            picture(
                "training",
                "Accuracy and loss over the epochs",
                lambda width: curves.training(history, dict(list(draws.items())[:1]), width),
            )
        )
    snapshots = search.get("gamma_history") or []
    if snapshots:
        parts.append(
            picture(
                "gammatime",
                "Histograms of BatchNorm scales over the epochs",
                lambda width: gammas.over_time(snapshots, first, width),
                legend=[("ink", "while searching"), ("after", "after the draw")] if first is not None else (),
                caption="BatchNorm scales epoch by epoch; heights are square roots of counts",
            )
        )
    if history:
        rows = [
            (
                Cell(text=f"{entry.get('epoch'):g}", number=True),
                quantity(entry.get("loss"), digits, f"search/history/{index}/loss"),
                quantity(entry.get("accuracy"), lambda share: percent(share, 2), f"search/history/{index}/accuracy"),
            )
            for index, entry in enumerate(history)
        ]
        parts.append(Table(head=("epoch", "loss", "accuracy"), rows=rows, caption="These numbers", folded=True))
    if search.get("penalty"):
        parts.append(pairs(_penalty(search["penalty"]), f"The penalty on {what}", mono=False))
    if search.get("precision"):
        named = _PRECISIONS.get(search["precision"], search["precision"])
        parts.append(pairs({"the dense network was trained in": named}, "Precision of the search", mono=False))
    if not parts:
        return None
    return Section(
        name="training",
        title="Training",
        about=f"A penalty pulls {what} towards zero while the mask is searched, so that what can go "
        "stands apart from what cannot.",
        parts=parts,
    )


def _draws(report: Record) -> dict[str, float]:
    """Name the epochs of the draws, the one that was used first; a mask may be cut before it has settled."""
    search = report.get("search") or {}
    ratios, used = search.get("ratios") or {}, search.get("drawn_epoch")
    asked = (report.get("spec") or {}).get("ratio")
    order = sorted(ratios, key=lambda name: (_number(name) != asked, name))
    first = {} if used is None else {f"cut at {used:g}": float(used)}
    return first | {
        f"{percent(_number(name), 0)} settled at {ratios[name]['epoch']:g}": ratios[name]["epoch"]
        for name in order
        if (ratios[name] or {}).get("epoch") is not None and ratios[name].get("settled", True)
    }


def _ratio_table(ratios: Record) -> Table:
    rows = []
    for name, record in ratios.items():
        epoch = Cell(text="not settled", number=True)
        if record.get("settled", True):
            epoch = quantity(record.get("epoch"), _epoch, f"search/ratios/{name}/epoch")
        final = quantity(record.get("distance_to_final"), digits, f"search/ratios/{name}/distance_to_final")
        rows.append((words(f"{percent(_number(name), 0)} removed"), epoch, final))
    return Table(head=("", "settled at epoch", "distance to the final mask"), rows=rows)


def _penalty(record: Record) -> Record:
    share, gap = record.get("share_below_tenth_of_median"), record.get("gap")
    return {
        "lambda": digits(record.get("lambda")),
        "S = lambda · Σ learning rate / (1 − momentum)": _pulled(record),
        "penalised sizes below a tenth of the median": percent(share),
        "gap in the histogram at the cut": {True: "yes", False: "no", None: "unknown"}[gap],
    }


def _pulled(record: Record) -> str:
    """Say S as it was reached, and what it would have come to over the whole schedule."""
    reached, planned = record.get("S"), record.get("S_of_schedule")
    if planned is None or planned == reached:
        return digits(reached)
    return f"{digits(reached)} until the draw, {digits(planned)} over the whole schedule"


def _epoch(value: float | None) -> str:
    return "not settled" if value is None else f"{value:g}"


def _number(name: str) -> float | None:
    try:
        return float(name)
    except ValueError:
        return None
