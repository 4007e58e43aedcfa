"""How good the network is: right after the cut, over the retraining, and whether it is what it should be."""

from typing import Any

from slimkit.report.figures import curves, tradeoff
from slimkit.report.numbers import digits, percent
from slimkit.report.parts import Cell, Section, Table, picture, quantity, words
from slimkit.report.verdict import Record

_CHECKS = (
    ("masked_vs_slim", "The dense network with the channels switched off, against the slim one"),
    ("slim_vs_reloaded", "The slim network, against itself read back from its file"),
    ("slim_vs_onnx", "The slim network, against the ONNX file in ONNX Runtime"),
)


def recovery(report: Record) -> Section | None:
    """Right after the cut, with and without folding and BatchNorm re-estimation, and what retraining gave."""
    dense = ((report.get("before") or {}).get("accuracy") or {}).get("validation")
    parts = [*_cut(report.get("after_cut") or [], dense), *_retraining(report.get("recovery") or {}, dense)]
    if not parts:
        return None
    return Section(
        name="recovery",
        title="The cut, and recovery",
        about="A removed channel was not silent: on average it put out a constant. Folding adds that "
        "constant to what read it. Re-estimating gives BatchNorm the statistics of the network that is left.",
        parts=parts,
    )


def proof(report: Record) -> Section | None:
    """That the files compute what they should."""
    record = report.get("proof") or {}
    bound = record.get("tolerance")
    rows = []
    for key, meaning in _CHECKS:
        error = record.get(key)
        if error is None:
            continue
        fine = bound is None or error <= bound
        verdict = Cell(text="equal" if fine else "differs", number=True)
        rows.append((words(meaning), quantity(error, _error, f"proof/{key}"), verdict))
    if not rows:
        return None
    about = "Largest difference of any output, in standard deviations of the outputs."
    if bound is not None:
        about += f" Up to {digits(bound, 1)} counts as equal."
    if record.get("inputs"):
        about += f" Inputs: {record['inputs']}."
    parts: list[Any] = [Table(head=("", "error", ""), rows=rows)]
    failed = record.get("kept_after_failing") or []
    if failed:
        caption = "Groups kept whole, since the proof failed without them"
        parts.append(Table(head=("group",), rows=[(words(name, mono=True),) for name in failed], caption=caption))
    return Section(name="proof", title="The proof", about=about, parts=parts)


def _cut(entries: list[Record], dense: float | None) -> list[Any]:
    if not entries:
        return []
    known = all(entry.get("accuracy") is not None for entry in entries)
    key = "accuracy" if known else "output_error"
    shown = [(_treatment(entry), float(entry[key])) for entry in entries if entry.get(key) is not None]
    rows = []
    for index, entry in enumerate(entries):
        right = quantity(entry.get("accuracy"), lambda share: percent(share, 2), f"after_cut/{index}/accuracy")
        error = quantity(entry.get("output_error"), digits, f"after_cut/{index}/output_error")
        rows.append((words(_treatment(entry)), right, error))
    table = Table(head=("", "accuracy", "output error"), rows=rows, caption="These numbers", folded=True)
    if not shown:
        return [table]
    drawn = picture(
        "cut",
        "The network right after the cut",
        lambda width: tradeoff.after_cut(shown, dense, known, width),
        caption="Right after the cut, before any retraining",
    )
    return [drawn, table]


def _retraining(record: Record, dense: float | None) -> list[Any]:
    history = record.get("history") or []
    if not any(entry.get("validation_accuracy") is not None for entry in history):
        return []
    drawn = picture(
        "retraining",
        "Validation accuracy over the epochs of retraining",
        lambda width: curves.recovery(history, dense, width),
        caption="Retraining; what is delivered is the last epoch, never the best",
    )
    rows = [
        (
            Cell(text=str(entry.get("epoch")), number=True),
            quantity(entry.get("loss"), digits, f"recovery/history/{index}/loss"),
            quantity(entry.get("learning_rate"), digits, f"recovery/history/{index}/learning_rate"),
            quantity(
                entry.get("validation_accuracy"),
                lambda share: percent(share, 2),
                f"recovery/history/{index}/validation_accuracy",
            ),
        )
        for index, entry in enumerate(history)
    ]
    head = ("epoch", "loss", "learning rate", "validation accuracy")
    return [drawn, Table(head=head, rows=rows, caption="These numbers", folded=True)]


def _treatment(entry: Record) -> str:
    known = {"fold": "constants folded", "zero": "no folding"}
    return f"{known.get(str(entry.get('constants')), '')}, BatchNorm {entry.get('batch_norm')}"


def _error(value: float | None) -> str:
    return digits(value, 2)
