"""The verdict on a run: one sentence with its three numbers, and what readers would otherwise get wrong."""

from dataclasses import dataclass
from typing import Any

from slimkit.report.numbers import amount, millijoules, milliseconds, percent, points, ratio

Record = dict[str, Any]


@dataclass(frozen=True)
class Headline:
    """One number of the verdict: what it is, how it reads, where from; `share` of the original."""

    label: str
    value: str
    detail: str
    share: float | None = None


@dataclass(frozen=True)
class Verdict:
    """`sentence` says it all; `headlines` are its three numbers; `notes` are further sentences."""

    sentence: str
    headlines: tuple[Headline, ...]
    notes: tuple[str, ...]


def accuracy(side: Record | None) -> tuple[float | None, str]:
    """Give the accuracy to quote of `before` or `after`, and the split it is of: test where there is one."""
    record = (side or {}).get("accuracy") or {}
    split = "test" if record.get("test") is not None else "validation"
    return record.get(split), split


def latency_key(side: Record | None) -> str:
    """Give the figure of a latency to quote: the median, or one thread's CPU time where the machine was noisy."""
    record = (side or {}).get("latency_ms") or {}
    return "cpu" if record.get("noisy") and record.get("threads") == 1 and "cpu" in record else "median"


def latency_ms(side: Record | None) -> float | None:
    """Give the latency of `before` or `after` to quote, ms."""
    value = ((side or {}).get("latency_ms") or {}).get(latency_key(side))
    return None if value is None else float(value)


def short_name(report: Record) -> str:
    """Give the network's name without where it is from: resnet18 of torchvision:resnet18."""
    name = str((report.get("arch") or {}).get("name") or "").rpartition(":")[2]
    return "network" if name in ("", "exported") else name


def verdict(report: Record) -> Verdict:
    """Sum a report up. Says only what was measured; copes with whatever the run does not have."""
    before, after = report.get("before") or {}, report.get("after") or {}
    name = short_name(report)
    right, costs = _accuracy(before, after), [_latency(before, after), _size(before, after)]
    found = [part for part in costs if part is not None]
    sentence = f"The slim {name} " + (right[0] if right else "needs" if found else "was not measured")
    if found:
        sentence += (", in " if right else " ") + " and ".join(words for words, _ in found)
    headlines = tuple(headline for _, headline in ([right] if right else []) + found)
    return Verdict(f"{sentence}.", headlines, tuple(_notes(report, before, after)))


def _accuracy(before: Record, after: Record) -> tuple[str, Headline] | None:
    (old, _), (new, split) = accuracy(before), accuracy(after)
    if new is None:
        return None
    label, words = f"{split} accuracy", f"gets {percent(new)} of the {split} images right"
    if not old:
        return words, Headline(label, percent(new), "the dense network’s is not known")
    detail = f"{points(new - old)}, from {percent(old)}"
    return f"{words} ({percent(old)} before)", Headline(label, percent(new), detail, new / old)


def _latency(before: Record, after: Record) -> tuple[str, Headline] | None:
    old, new = latency_ms(before), latency_ms(after)
    if not old or new is None:
        return None
    text = ratio(new, old)
    detail = f"{milliseconds(new)} instead of {milliseconds(old)}"
    return f"{text} of the time", Headline("latency", f"× {text}", detail, new / old)


def _size(before: Record, after: Record) -> tuple[str, Headline] | None:
    for key, unit, label, noun in (
        ("bytes", "B", "size", "space"),
        ("params", "", "parameters", "parameters"),
    ):
        old, new = before.get(key), after.get(key)
        if old and new is not None:
            text = ratio(new, old)
            detail = f"{amount(new, unit)} instead of {amount(old, unit)}"
            return f"{text} of the {noun}", Headline(label, f"× {text}", detail, new / old)
    return None


def _notes(report: Record, before: Record, after: Record) -> list[str]:
    notes = _budget(report.get("budget") or {})
    channels = report.get("channels") or {}
    removed, macs_before, macs_after = channels.get("share_removed"), before.get("macs"), after.get("macs")
    if channels.get("removed") == 0:
        notes.append("No channel was removed: this is the dense network, exported and proven.")
    elif removed is not None and macs_before and macs_after is not None:
        left = ratio(macs_after, macs_before)
        if abs(removed - 0.5) < 0.03:
            notes.append(f"Half of the channels is not half of the work: MACs fell to {left}.")
        else:
            notes.append(f"{percent(removed)} of the removable channels were removed; MACs fell to {left}.")
        old, new = latency_ms(before), latency_ms(after)
        if old and new and new >= old:
            notes.append("It is not faster on this machine and engine; a larger round_to may help.")
        elif old and new and new / old > 1.25 * macs_after / macs_before:
            notes.append(f"Time fell less than work: {ratio(new, old)} of the latency at {left} of the MACs.")
    total, removable = channels.get("total"), channels.get("removable")
    if total and removable is not None and removable < 0.98 * total:
        notes.append(f"{percent(1 - removable / total)} of all channels were out of reach; the reasons are listed.")
    if accuracy(after)[0] is None:
        notes.append("Accuracy was not measured: the run had no data.")
    notes += _training(report.get("cost") or {}, report.get("spec") or {})
    return notes + _int8(report.get("int8") or {}, before)


def _training(cost: Record, spec: Record) -> list[str]:
    """Say what `train` cost beside the alternatives, and how to spend what it has saved."""
    dense, instead = cost.get("dense_training_macs"), cost.get("train_prune_retrain_macs")
    if not dense or not instead:
        return []
    share = (cost.get("search_macs", 0) + cost.get("training_macs", 0)) / dense
    said = (
        f"Training cost {ratio(share, 1)} of one dense training; train, prune, retrain costs {ratio(instead, dense)}."
    )
    if spec.get("spend") is None and share < 0.5:
        said += " With --spend 0.55 the small network trains on until 0.55 is used up."
    emulated = (
        "The search ran in emulated INT8: values were rounded as INT8 would, the arithmetic was that of floats, so "
        "no time was saved."
    )
    return [said] + [emulated] * (spec.get("search_precision") == "int8-emulated")


def _int8(side: Record, before: Record) -> list[str]:
    """Say what the INT8 file is worth, where one was written."""
    right, split = accuracy(side)
    old, new = latency_ms(before), latency_ms(side)
    found = [] if right is None else [f"{percent(right, 2)} of the {split} images right"]
    if new is not None:
        found.append(milliseconds(new) + (f", {ratio(new, old)} of the original’s time" if old else ""))
    return [f"INT8 (model.int8.onnx): {'; '.join(found)}."] if found else []


def _budget(record: Record) -> list[str]:
    """Say what a budget that had to be measured came to when the channels were chosen."""
    original, reached, target = (record.get(key) for key in ("original", "reached", "target"))
    if not original or reached is None or target is None:
        return []
    show = {"latency": milliseconds, "energy": millijoules}.get(record.get("kind", ""), lambda v: amount(v, "B"))
    said = f"Asked for {show(target)}, chosen with {show(reached)}: {ratio(reached, original)} of {show(original)}."
    return [said, *record.get("notes", [])]
