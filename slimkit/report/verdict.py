"""The verdict on a run: one sentence with its numbers, what was not done, and what readers would get wrong."""

from dataclasses import dataclass

from slimkit.intervals import wilson
from slimkit.quantity import number_of
from slimkit.report.next_command import next_command, no_images
from slimkit.report.numbers import amount, change, digits, interval, metric, millijoules, milliseconds, percent, ratio
from slimkit.results import Cost, Figures, Fit, MeasuredBudget, Proof, Report
from slimkit.settings import REMOVE_NONE


@dataclass(frozen=True)
class Headline:
    """One number of the verdict: what it is, how it reads, where from; `share` of the original."""

    label: str
    value: str
    detail: str
    share: float | None = None


@dataclass(frozen=True)
class Verdict:
    """What is said first.

    Attributes:
        sentence: that says it all.
        meaning: what it means that the network was not retrained, and `command`: what does that; "" where it was.
        proof: what was proven, on what.
        headlines: the numbers of the sentence.
        notes: further sentences.
    """

    sentence: str
    headlines: tuple[Headline, ...]
    notes: tuple[str, ...]
    proof: str = ""
    meaning: str = ""
    command: str = ""


def short_name(report: Report) -> str:
    """Give the network's name without where it is from: resnet18 of torchvision:resnet18."""
    name = report.arch.name.rpartition(":")[2]
    return "network" if name in ("", "exported") else name


def verdict(report: Report) -> Verdict:
    """Sum a report up."""
    before, after = report.before, report.after
    right, costs = _accuracy(before, after), [_latency(before, after), _size(before, after)]
    found = [part for part in costs if part is not None]
    name = f"slim {short_name(report)}"
    words = (right[0] if right else "needs") + ((", in " if right else " ") + " and ".join(said for said, _ in found))
    untrained = _not_retrained(report)
    lost = _lost(report)
    sentence = f"The {name} {words}"
    if untrained:
        sentence = f"Not {'recovered' if lost else 'retrained'}: the {name} {words}"
    if right is None:
        strange = ", but such inputs are not what the network was trained on" if _strange(report) else ""
        sentence += f"{_agreement(report)}{strange}; how much it still gets right was not measured"
        sentence += ": give --calibration or --data" if _without_inputs(report) else ""
    return Verdict(
        sentence=f"{sentence}.",
        headlines=tuple(headline for _, headline in ([right] if right else []) + found),
        notes=tuple(_notes(report)),
        proof=_proof(report.proof, report.channels.removed),
        meaning=untrained,
        command=next_command(report) if untrained and not _in_vain(report) else "",
    )


def _not_retrained(report: Report) -> str:
    """Say what it means that no weight was trained after the cut; nothing where one was."""
    record = report.recovery
    trained = record and record.delivered and (record.images or record.by == "own")
    if report.command != "compress" or not report.channels.removed or trained:
        return ""
    if _in_vain(report):
        return "A retraining made it no better, and what it began with was delivered: a warning says what to change."
    if any(entry.constants == "reconstructed" for entry in report.after_cut):
        if report.fit and report.fit.made:
            return (
                "What the removed channels did was given to those that stay, by least squares on images made from "
                "noise; no weight has been trained. What is lost on real inputs is not known: judge it on some first."
            )
        return (
            "What the removed channels did was given to those that stay, by least squares; no weight has been trained, "
            "so expect it to get somewhat less right than the original until it is retrained."
        )
    why = f" {no_images(report)}" if report.fit is None and _without_inputs(report) else ""
    return (
        "The channels that went did some of the work, and no weight has been trained to take it over: expect it to get "
        f"much less right than the original until it is retrained.{why}"
    )


def _in_vain(report: Report) -> bool:
    """Tell whether a retraining was thrown away, as what it began with was better."""
    return report.recovery is not None and not report.recovery.delivered and report.recovery.images > 0


def _lost(report: Report) -> bool:
    """Tell whether so much is gone that the network is of no use as it is.

    A tenth of the images, or of agreement, or of the variance of values: half their mean square is the divergence. On
    mixtures of images made from noise a quarter of agreement: three networks that lost 9 to 25 points had 70 to 83 %
    there, and six that lost 1 to 4 had 76 to 93. Of class maps a U-Net that lost 6 points of mean IoU had 89, one that
    lost 16 had 78.
    """
    before, after = (side.accuracy.quoted if side.accuracy else None for side in (report.before, report.after))
    if before and after:
        lost = before.value - after.value
        return after.by.unit == "share" and (lost if after.by.better == "higher" else -lost) > 0.1
    fit = report.fit
    if fit is None or fit.strange:
        return True
    far = fit.after is None or fit.after > 0.05
    if fit.agreement is not None:  # what was fitted to always agrees
        least = 0.75 if fit.made else 0.85 if fit.agreement_by == "mean IoU" else 0.9
        return fit.agreement < least or (far and not fit.apart)
    return far or (fit.off is not None and fit.off**2 > 0.1)


_MIXTURES = "mixtures of images made from noise"
_FEW = 32  # inputs, of 8 a network agreed on all that was right on 53 to 72 % in place of 80


def _agreement(report: Report) -> str:
    """Say how often the two networks agree, or how far they are apart, where that is all that can be told."""
    fit = report.fit
    if fit is not None and fit.off is not None:
        where = _held_out(fit) if fit.apart else "of the inputs it was fitted to"
        where = _MIXTURES if fit.made else where
        more = (
            ", a guess for real inputs, too low or too high"
            if fit.made
            else ""
            if fit.apart
            else ", and by more on others"
        )
        said = f"its outputs are off by {percent(fit.off, 1)} of the spread of what it computes"
        return f"; on {fit.held} {where} {said}{more}"
    if fit is not None and not fit.apart and fit.groups == 1:
        return (
            "; its inputs all resemble each other, as frames of one scene do, which does not tell how often it agrees "
            "with the original on others"
        )
    if fit is None or fit.agreement is None:
        return ""
    maps = fit.agreement_by == "mean IoU"
    on = f"; on {'the pixels of ' if maps else ''}{fit.held}"
    agrees = f"it agrees with the original {'by a mean IoU of' if maps else 'on'} {percent(fit.agreement, 1)}"
    # An interval for inputs held out alone: from others it says nothing of those to come.
    if fit.made:
        return f"{on} {_MIXTURES} {agrees}, a guess for real inputs, too low or too high"
    if not fit.apart and fit.held < _FEW:
        return (
            f"; {fit.held} inputs, to which it was fitted, are too few to tell how often it agrees with the original "
            "on others"
        )
    if not fit.apart and fit.groups is not None:
        return (
            f"; its inputs resemble each other, in {number_of(fit.groups, 'group')}, which are too few to tell how "
            "often it agrees with the original on others"
        )
    if not fit.apart:
        return f"{on} of the inputs it was fitted to {agrees}, and less {'' if maps else 'often '}on others"
    low, high = fit.interval or wilson(fit.agreement, fit.groups or fit.held)  # earlier reports have no interval
    return f"{on} {_held_out(fit)} {agrees} ({percent(low, 0)} to {percent(high, 0)})"


def _held_out(fit: Fit) -> str:
    alike = f", of {number_of(fit.groups, 'group')} that resemble each other," if fit.groups else ""
    return f"inputs held out{alike}"


def _strange(report: Report) -> bool:
    return report.fit is not None and report.fit.strange


def _without_inputs(report: Report) -> bool:
    """Tell whether inputs would have been used to recover on, and there were none but made ones."""
    if report.fit is not None:
        return report.fit.made
    fits = report.spec.get("recover") is True and report.spec.get("constants") == "fit"
    return fits and any(row.output_error is not None for row in report.after_cut)


_NEARLY = 1.5  # times the drop allowed: no further ahead of a constant answer, a network may lose all that it knows
_BUDGETS = ("max_latency", "max_macs", "max_params", "max_bytes", "max_energy", "max_drop", "ratio")


def asked(report: Report) -> str:
    """Give the budget of a run as it was set: ratio 0.5, latency 2.5ms."""
    for name in _BUDGETS:
        if report.spec.get(name) is not None:
            return f"{name.removeprefix('max_')} {report.spec[name]}"
    return ""


def _proof(proof: Proof, removed: int) -> str:
    cut = "it computes what the original does with those channels switched off, and " if removed else ""
    above = ", and more where float32 itself is off by as much" if proof.error > proof.tolerance else ""
    return (
        f"Proven: {cut}its files compute what it does. Largest error {digits(proof.error, 2)} of the outputs’ spread, "
        f"on {', '.join(proof.inputs)}; up to {digits(proof.tolerance, 1)} counts as equal{above}."
    )


def _accuracy(before: Figures, after: Figures) -> tuple[str, Headline] | None:
    new, old = (side.accuracy.quoted if side.accuracy else None for side in (after, before))
    if new is None:
        return None
    unit, name = new.by.unit, new.by.metric
    shown, before_words = metric(new.value, unit), f" ({metric(old.value, unit)} before)" if old else ""
    if name == "accuracy" and unit == "share":
        words = f"gets {shown} of the {new.of} right{before_words}"
    else:
        words = f"has a {name} of {shown} on {new.of}{before_words}"
    detail = "the dense network’s is not known"
    if old:
        detail = f"{change(new.value, old.value, unit)}, from {metric(old.value, unit)}"
    span = f"; {interval(new.interval, unit)} with 95 % confidence" if new.interval else ""
    share = new.value / old.value if old and old.value and unit == "share" else None
    return words, Headline(f"{new.split} {name}", shown, detail + span, share)


def _latency(before: Figures, after: Figures) -> tuple[str, Headline] | None:
    if before.latency_ms is None or after.latency_ms is None or not before.latency_ms.quoted:
        return None
    old, new = before.latency_ms.quoted, after.latency_ms.quoted
    text = ratio(new, old)
    detail = f"{milliseconds(new)} instead of {milliseconds(old)}"
    return f"{text} of the time", Headline("latency", f"× {text}", detail, new / old)


def _size(before: Figures, after: Figures) -> tuple[str, Headline] | None:
    for old, new, unit, label, noun in (
        (before.bytes, after.bytes, "B", "size", "space"),
        (before.params, after.params, "", "parameters", "parameters"),
    ):
        if old and new is not None:
            text = ratio(new, old)
            detail = f"{amount(new, unit)} instead of {amount(old, unit)}"
            return f"{text} of the {noun}", Headline(label, f"× {text}", detail, new / old)
    return None


def _notes(report: Report) -> list[str]:
    notes = _budget(report.budget) if report.budget else []
    before, after, channels = report.before, report.after, report.channels
    if not channels.removed:
        notes.append(_whole(report))
        notes += _speed(report) if report.search and report.search.method == "factorised" else []
    elif before.macs and after.macs is not None:
        left = ratio(after.macs, before.macs)
        if abs(channels.share_removed - 0.5) < 0.03:
            notes.append(f"Half of the channels is not half of the work: MACs fell to {left}.")
        else:
            notes.append(
                f"{percent(channels.share_removed)} of the removable channels were removed; MACs fell to {left}."
            )
        notes[-1] += _by_work(report, after.macs / before.macs)
        notes += _speed(report)
    if channels.removable < 0.98 * channels.total:
        out = percent(1 - channels.removable / channels.total)
        notes.append(f"{out} of all channels were out of reach; the reasons are listed.")
    notes += _guessing(report)
    notes += _training(report.cost, report)
    return notes + (_int8(report.int8, before) if report.int8 else [])


def _guessing(report: Report) -> list[str]:
    """Say where as much is right by saying the same class always, or would be after the drop that was allowed."""
    before, after = report.before.accuracy, report.after.accuracy
    right, classes = after.quoted if after else None, report.arch.classes
    if after is None or right is None or right.by.metric != "accuracy":
        return []
    notes, common = [], after.commonest
    if common is not None and (classes is None or common > 1.5 / classes):
        if right.interval and right.interval[0] <= common:
            said = f"saying nothing but the commonest class gets {percent(common)} right"
            notes.append(f"So many right may be luck: {said}.")
    elif classes and right.interval and right.interval[0] <= 1 / classes:
        notes.append(f"So many right may be luck: guessing among {classes} classes does as well.")
    old = before.quoted if before else None
    if report.drop and common is not None and old and 100 * (old.value - common) <= _NEARLY * report.drop.max_drop:
        notes.append(
            f"A drop of {report.drop.max_drop:g} says little here: saying nothing but the commonest class gets "
            f"{percent(common)} right, the original {percent(old.value)}. Allow less, or give a task whose metric "
            "counts what is rare."
        )
    return notes


def _by_work(report: Report, share: float) -> str:
    """Say where the same work could be shared out by what is lost, and every group lost the same share instead."""
    spec = report.spec
    by_loss = report.command == "compress" and report.fit is not None and spec.get("ranking") == "auto"
    if not by_loss or spec.get("ratio") is None or share > 0.99:
        return ""
    return f" For that work --max-macs {share:.2g} mostly loses less, before retraining: layers keep what counts."


def _speed(report: Report) -> list[str]:
    """Say where time did not follow the work."""
    before, after = report.before.latency_ms, report.after.latency_ms
    if before and after and before.quoted and after.quoted >= before.quoted:
        advice = {
            None: "a larger round_to may help",
            False: "--set only_faster=true leaves whole what is slower as two thin layers",
            True: "its layers alone were: give a lower rank_share, or remove channels instead",
        }[report.spec.get("only_faster")]
        return [f"It is not faster on this machine and engine; {advice}."]
    return [f"Time fell less than work: {found}."] if (found := behind(report)) else []


def behind(report: Report) -> str:
    """Give the share of the time that is left beside that of the work, where it is much larger; else nothing."""
    before, after = report.before, report.after
    if before.latency_ms is None or after.latency_ms is None or not before.latency_ms.quoted:
        return ""
    if not report.channels.removed or not before.macs or after.macs is None:
        return ""
    share, work = after.latency_ms.quoted / before.latency_ms.quoted, after.macs / before.macs
    return f"{ratio(share, 1)} of the latency at {ratio(work, 1)} of the MACs" if share > 1.25 * work else ""


def _training(cost: Cost, report: Report) -> list[str]:
    """Say what `train` cost beside the alternatives, and how to spend what it has saved."""
    dense, instead = cost.dense_training_macs, cost.train_prune_retrain_macs
    if not dense or not instead:
        return []
    share = (cost.search_macs + cost.training_macs) / dense
    said = (
        f"Training cost {ratio(share, 1)} of one dense training in MACs; train, prune, retrain costs "
        f"{ratio(instead, dense)}."
    )
    if "spend" in report.spec and report.spec["spend"] is None and _at_will(report) and share < 0.5:
        said += " With --spend 0.55 the small network trains on until 0.55 is used up."
    emulated = (
        "The search ran in emulated INT8: values were rounded as INT8 would, the arithmetic was that of floats, so "
        "no time was saved."
    )
    uniform = (
        "In slimkit’s studies uniform widths, trained from their beginning for an equal cost, did as well or better: "
        f"--method scratch --spend {ratio(share, 1)}."
    )
    chosen = bool(report.channels.removed and report.search and report.search.method != "scratch")
    return [said] + [uniform] * chosen + [emulated] * (cost.search_precision == "int8-emulated")


def _at_will(report: Report) -> bool:
    """Tell whether the small network can be trained for any cost: some controls say for how long."""
    return report.spec.get("control") in (None, "uniform", "uniform-params", "permuted", "scratch-E")


def _int8(side: Figures, before: Figures) -> list[str]:
    """Say what the INT8 file is worth."""
    found = []
    if side.accuracy and (right := side.accuracy.quoted):
        value = metric(right.value, right.by.unit, 2)
        by = right.by.metric
        found.append(f"{value} of the {right.of} right" if by == "accuracy" else f"{by} {value} on {right.of}")
    if side.latency_ms:
        old = before.latency_ms.quoted if before.latency_ms else None
        times = f", {ratio(side.latency_ms.quoted, old)} of the original’s time" if old else ""
        found.append(milliseconds(side.latency_ms.quoted) + times)
    return [f"INT8 (model.int8.onnx): {'; '.join(found)}."] if found else []


def _whole(report: Report) -> str:
    """Say what a network is from which no channel went."""
    method = report.search.method if report.search else ""
    if method in REMOVE_NONE:
        return f"No channel was removed: {method} changes the network in another way, which the notes below tell."
    return "No channel was removed: this is the dense network, exported and proven."


def _budget(budget: MeasuredBudget) -> list[str]:
    """Say what a budget that had to be measured came to when the channels were chosen."""
    show = {"latency": milliseconds, "energy": millijoules}.get(budget.kind, _bytes)
    share = ratio(budget.reached, budget.original)
    said = f"Asked for {show(budget.target)}, chosen with {show(budget.reached)}: {share} of {show(budget.original)}."
    again = "Both were measured while channels were chosen; the table has the finished files, measured again."
    notes = list(budget.notes)
    return [said, *([again] if budget.kind != "bytes" and not budget.by_table else []), *notes]


def _bytes(value: float | None) -> str:
    return amount(value, "B")
