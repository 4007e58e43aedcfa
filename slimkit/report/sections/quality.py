"""How good the network is: right after the cut, over the retraining, and whether it is what it should be."""

from functools import partial
from typing import Any

from slimkit.report.figures import curves, tradeoff
from slimkit.report.numbers import digits, metric
from slimkit.report.parts import Cell, Section, Table, picture, quantity, words
from slimkit.results import Accuracy, AfterCut, Recovery, Report

_CHECKS = (
    ("masked_vs_slim", "The dense network with the channels switched off, against the slim one"),
    ("slim_vs_reloaded", "The slim network, against itself read back from its file"),
    ("slim_vs_onnx", "The slim network, against the ONNX file in ONNX Runtime"),
)
_CONSTANTS = {"fold": "constants folded", "zero": "no folding", "reconstructed": "reconstructed"}


def recovery(report: Report) -> Section | None:
    """Right after the cut, with and without what repairs it, and what retraining gave."""
    dense = report.before.accuracy.of("validation") if report.before.accuracy else None
    split = report.after.accuracy.of("validation") if report.after.accuracy else None
    images = split.of if split else "validation images"
    by, value = report.after.accuracy or Accuracy(validation=None), dense.value if dense else None
    parts = _cut(report.after_cut, value, by, images)
    if report.recovery:
        parts += _retraining(report.recovery, value, by, images)
    if not parts:
        return None
    return Section(
        name="recovery",
        title="The cut, and recovery",
        about="A removed channel was not silent: on average it put out a constant. Folding adds that "
        "constant to what read it. Re-estimating gives BatchNorm the statistics of the network that is left.",
        parts=parts,
    )


def proof(report: Report) -> Section:
    """That the files compute what they should."""
    found = report.proof
    rows = []
    for key, meaning in _CHECKS:
        error = getattr(found, key)
        if error is None:
            continue
        verdict = Cell(text="equal" if error <= found.tolerance else "equal, rounded", number=True)
        rows.append((words(meaning), quantity(error, _error, f"proof/{key}"), verdict))
    about = (
        "Largest difference of any output, in standard deviations of the outputs. "
        f"Up to {digits(found.tolerance, 1)} counts as equal. Inputs: {', '.join(found.inputs)}."
    )
    parts: list[Any] = [Table(head=("", "error", ""), rows=rows)]
    if found.kept_after_failing:
        caption = "Groups kept whole, since the proof failed without them"
        rows_kept = [(words(name, mono=True),) for name in found.kept_after_failing]
        parts.append(Table(head=("group",), rows=rows_kept, caption=caption))
    return Section(name="proof", title="The proof", about=about, parts=parts)


def _cut(entries: tuple[AfterCut, ...], dense: float | None, by: Accuracy, images: str) -> list[Any]:
    by_accuracy = all(entry.accuracy is not None for entry in entries)
    shown = [
        (_treatment(entry), value)
        for entry in entries
        if (value := entry.accuracy if by_accuracy else entry.output_error) is not None
    ]
    rows = []
    for index, entry in enumerate(entries):
        right = quantity(entry.accuracy, partial(metric, unit=by.unit, places=2), f"after_cut/{index}/accuracy")
        error = quantity(entry.output_error, digits, f"after_cut/{index}/output_error")
        rows.append((words(_treatment(entry)), right, error))
    unit = "; output error is the root mean square of the difference, in standard deviations of the outputs"
    caption = "Right after the cut, before any retraining" + (f": {images}" if by_accuracy else unit)
    head = ("", by.metric, "output error")
    if len(shown) < 2:  # a chart of one bar says nothing that a line of a table does not
        return [Table(head=head, rows=rows, caption=caption)] if rows else []
    drawn = picture(
        "cut",
        "The network right after the cut",
        lambda width: tradeoff.after_cut(shown, dense, by if by_accuracy else None, width),
        caption=caption,
    )
    return [drawn, Table(head=head, rows=rows, caption="These numbers", folded=True)]


def _retraining(record: Recovery, dense: float | None, by: Accuracy, images: str) -> list[Any]:
    history = record.history
    if not history:
        return []
    rows = [
        (
            Cell(text=str(entry.epoch), number=True),
            quantity(entry.loss, digits, f"recovery/history/{index}/loss"),
            quantity(entry.learning_rate, digits, f"recovery/history/{index}/learning_rate"),
            quantity(
                entry.validation_accuracy,
                partial(metric, unit=by.unit, places=2),
                f"recovery/history/{index}/validation_accuracy",
            ),
        )
        for index, entry in enumerate(history)
    ]
    head = ("epoch", "loss", "learning rate", f"validation {by.metric}")
    which = "the last epoch, never the best" if record.delivered else "what it began with, which did better"
    caption = f"Retraining, {images}; what is delivered is {which}"
    if sum(entry.validation_accuracy is not None for entry in history) < 2:
        return [Table(head=head, rows=rows, caption=caption)]
    drawn = picture(
        "retraining",
        "Validation accuracy over the epochs of retraining",
        lambda width: curves.recovery(history, dense, by, width),
        caption=caption,
    )
    return [drawn, Table(head=head, rows=rows, caption="These numbers", folded=True)]


def _treatment(entry: AfterCut) -> str:
    return f"{_CONSTANTS.get(entry.constants, entry.constants)}, BatchNorm {entry.batch_norm}"


def _error(value: float | None) -> str:
    return digits(value, 2)
