"""What the run cost, how to use what it made, and the conditions under which all this holds."""

from typing import Any

from slimkit.report.figures import tradeoff
from slimkit.report.numbers import amount, duration
from slimkit.report.parts import Cell, Code, Section, Table, pairs, picture, quantity, words
from slimkit.report.verdict import Record


def cost(report: Record) -> Section | None:
    """What training cost, against the alternatives, and where the run's time went."""
    record, stages = report.get("cost") or {}, report.get("stages") or []
    parts: list[Any] = []
    rows = _expenses(record)
    if len(rows) > 1:
        parts.append(picture("cost", "Cost of training", lambda width: tradeoff.expenses(rows, width)))
    if any((record.get("times") or {}).values()):
        parts.append(_times(record["times"]))
    figures = _figures(record)
    if figures:
        parts.append(Table(head=(), rows=figures))
    if stages:
        parts.append(_stages(stages))
    if not parts:
        return None
    return Section(
        name="cost",
        title="What the run cost",
        about="Training counts three times the forward MACs of every image: forward once, backward twice.",
        parts=parts,
    )


def usage(report: Record) -> Section | None:
    """Code to run the model, to copy."""
    arch = report.get("arch") or {}
    shape = arch.get("input_shape")
    if not shape:
        return None
    size = ", ".join(map(str, shape))
    scale = arch.get("normalisation") or {}
    torch_scale, numpy_scale = (_scaling(scale, make) for make in ("torch.tensor", "np.float32"))
    torch = (
        "import slimkit\nimport torch\n\n"
        'model = slimkit.load("model.safetensors")  # a torch.nn.Module, in eval mode\n'
        f"images = torch.rand(1, {size})  # yours, in [0, 1]\n{torch_scale}"
        "with torch.inference_mode():\n    outputs = model(images)\n"
    )
    onnx = (
        "import numpy as np\nimport onnxruntime as ort\n\n"
        'session = ort.InferenceSession("model.onnx")\n'
        f"images = np.random.rand(1, {size}).astype(np.float32)  # yours, in [0, 1]\n{numpy_scale}"
        "outputs = session.run(None, {session.get_inputs()[0].name: images})[0]\n"
    )
    pixels = " × ".join(map(str, shape[1:]))
    about = f"Images of {pixels} pixels, {shape[0]} channel{'s' if shape[0] != 1 else ''}, float32."
    if not scale:
        about += " Normalise them as in training."
    assumed = arch.get("assumptions") or []
    if assumed:
        about += f" Assumed, since the checkpoint does not say: {'; '.join(assumed)}."
    return Section(
        name="usage",
        title="Use the model",
        about=about,
        parts=[Code(title="PyTorch", text=torch), Code(title="ONNX Runtime", text=onnx)],
    )


def conditions(report: Record) -> Section | None:
    """Settings and environment."""
    parts: list[Any] = []
    arch = {key: value for key, value in (report.get("arch") or {}).items() if value not in (None, [], {})}
    for record, caption in (
        (arch, "The network"),
        (report.get("spec") or {}, "All settings (run.toml repeats the run)"),
        (report.get("environment") or {}, "Machine and versions"),
    ):
        if record:
            parts.append(pairs(record, caption, folded=True))
    if not parts:
        return None
    about = "What it takes to do this again."
    return Section(name="conditions", title="Settings and machine", about=about, parts=parts)


def _scaling(scale: Record, make: str) -> str:
    """Write code that normalises images, where it is known how; `make` turns numbers into an array."""
    if not (scale.get("mean") and scale.get("std")):
        return ""
    mean, std = ([round(value, 6) for value in scale[key]] for key in ("mean", "std"))
    return (
        f"mean, std = ({make}(values).reshape(-1, 1, 1) for values in ({mean}, {std}))\n"
        "images = (images - mean) / std\n"
    )


def _expenses(record: Record) -> list[tradeoff.Expense]:
    dense = record.get("dense_training_macs")
    if not dense:
        return []
    ours = [
        (name, record[key] / dense)
        for name, key in (("search", "search_macs"), ("training", "training_macs"))
        if record.get(key)
    ]
    rows = [tradeoff.Expense("this run", tuple(ours), ours=True)] if ours else []
    rows.append(tradeoff.Expense("one dense training", (("training", 1.0),)))
    if record.get("train_prune_retrain_macs"):
        share = record["train_prune_retrain_macs"] / dense
        rows.append(tradeoff.Expense("train, prune, retrain", (("training", share),)))
    return rows


def _times(times: Record) -> Table:
    """Time and energy of the run's parts, and what the alternatives would have taken."""
    rows = [
        (
            Cell(text=name, note=note),
            quantity(times[key]["seconds"], duration, f"cost/times/{key}/seconds"),
            quantity(times[key]["energy_kj"], _kilojoules, f"cost/times/{key}/energy_kj"),
        )
        for key, name, note in (
            ("search", "search", None),
            ("training", "training of the small network", None),
            ("dense_training", "one dense training", "estimated from the time an image took"),
            ("train_prune_retrain", "train, prune, retrain", "estimated likewise"),
        )
        if times.get(key)
    ]
    return Table(head=("", "time", "energy"), rows=rows)


def _figures(record: Record) -> list[tuple[Cell, Cell]]:
    energy = record.get("energy_kj") or {}
    rows = []
    for name, note, value, show, path in (
        ("Time", None, record.get("seconds"), duration, "cost/seconds"),
        ("Energy", energy.get("method"), energy.get("value"), _kilojoules, "cost/energy_kj/value"),
        ("MACs of the search", None, record.get("search_macs"), amount, "cost/search_macs"),
        ("MACs of the training", None, record.get("training_macs"), amount, "cost/training_macs"),
        (
            "Repaid after",
            "so many inferences save what the run cost",
            record.get("break_even_inferences"),
            lambda value: f"{amount(value)} inferences",
            "cost/break_even_inferences",
        ),
    ):
        if value:
            rows.append((Cell(text=name, note=note), quantity(value, show, path)))
    return rows


def _stages(stages: list[Record]) -> Table:
    longest = max((stage.get("seconds") or 0) for stage in stages) or 1
    rows = []
    for index, stage in enumerate(stages):
        seconds = stage.get("seconds")
        rows.append(
            (
                words(stage.get("name", "")),
                quantity(seconds, duration, f"stages/{index}/seconds", bar=(seconds or 0) / longest),
                quantity(stage.get("cpu_seconds"), duration, f"stages/{index}/cpu_seconds"),
                quantity(stage.get("peak_mb"), _megabytes, f"stages/{index}/peak_mb"),
            )
        )
    return Table(head=("stage", "time", "CPU time", "peak memory"), rows=rows, caption="Where the time went")


def _kilojoules(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g} kJ"


def _megabytes(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f} MB".replace(",", " ")
