"""What the run cost, how to use what it made, and the conditions under which all this holds."""

from collections.abc import Sequence
from typing import Any

from slimkit.quantity import number_of
from slimkit.report.figures import tradeoff
from slimkit.report.numbers import amount, duration
from slimkit.report.parts import Cell, Code, Section, Table, pairs, picture, quantity, words
from slimkit.results import Cost, Normalisation, Report, Stage, Times


def cost(report: Report) -> Section:
    """What training cost, against the alternatives, and where the run's time went."""
    record = report.cost
    parts: list[Any] = []
    rows = _expenses(record)
    if len(rows) > 1:
        parts.append(picture("cost", "Cost of training", lambda width: tradeoff.expenses(rows, width)))
    if record.times:
        parts.append(_times(record.times))
    parts.append(Table(head=(), rows=_figures(record)))
    if report.stages:
        parts.append(_stages(report.stages))
    return Section(
        name="cost",
        title="What the run cost",
        about="Training counts three times the forward MACs of every image: forward once, backward twice.",
        parts=parts,
    )


def usage(report: Report) -> Section | None:
    """Code to run the model, to copy."""
    arch = report.arch
    shape, scale = arch.input_shape, arch.normalisation
    if shape is None:
        return None
    size = ", ".join(map(str, shape))
    torch_scale, numpy_scale = (_scaling(scale, make) for make in ("torch.tensor", "np.float32"))
    embedded = report.usage is not None and report.usage.embedded
    drawn = f"np.random.rand(1, {size}).astype(np.float32)"
    yours = f"{drawn}  # yours, in [0, 1]\n{numpy_scale}"
    if embedded:
        yours = f"255 * {drawn}  # yours, pixels of 0 to 255: the file normalises them itself\n"
    torch = (
        "import slimkit\nimport torch\n\n"
        'model = slimkit.load("model.safetensors")  # a torch.nn.Module, in eval mode\n'
        f"images = torch.rand(1, {size})  # yours, in [0, 1]\n{torch_scale}"
        "with torch.inference_mode():\n    outputs = model(images)\n"
    )
    onnx = (
        "import numpy as np\nimport onnxruntime as ort\n\n"
        'session = ort.InferenceSession("model.onnx")\n'
        f"images = {yours}"
        "outputs = session.run(None, {session.get_inputs()[0].name: images})[0]\n"
    )
    written = report.proof.slim_vs_onnx is not None
    about = f"{_inputs(shape)}, float32."
    if scale is None:
        about += " Normalise them as in training."
    if arch.assumptions:
        about += f" Assumed, since the checkpoint does not say: {'; '.join(arch.assumptions)}."
    return Section(
        name="usage",
        title="Use the model",
        about=about,
        parts=[Code(title="PyTorch", text=torch), *([Code(title="ONNX Runtime", text=onnx)] if written else [])],
    )


def _inputs(shape: Sequence[int]) -> str:
    if len(shape) != 3:
        return f"Inputs of {' × '.join(map(str, shape)) or 'one'} number{'s' if shape and shape != (1,) else ''}"
    channels, height, width = shape
    return f"Images of {height} × {width} pixels, {number_of(channels, 'channel')}"


def conditions(report: Report) -> Section:
    """Settings and environment."""
    arch = {name: value for name, value in report.arch.to_dict().items() if value not in (None, [], {})}
    parts: list[Any] = [
        pairs(record, caption, folded=True)
        for record, caption in (
            (arch, "The network"),
            (report.spec, "All settings (run.toml repeats the run)"),
            (report.environment, "Machine and versions"),
        )
    ]
    about = "What it takes to do this again."
    return Section(name="conditions", title="Settings and machine", about=about, parts=parts)


def _scaling(scale: Normalisation | None, make: str) -> str:
    """Write code that normalises images, where it is known how; `make` turns numbers into an array."""
    if scale is None:
        return ""
    mean, std = ([float(f"{value:.6g}") for value in values] for values in (scale.mean, scale.std))
    return (
        f"mean, std = ({make}(values).reshape(-1, 1, 1) for values in ({mean}, {std}))\n"
        "images = (images - mean) / std\n"
    )


def _expenses(record: Cost) -> list[tradeoff.Expense]:
    dense = record.dense_training_macs
    if not dense:
        return []
    ours = [
        (name, macs / dense)
        for name, macs in (("search", record.search_macs), ("training", record.training_macs))
        if macs
    ]
    rows = [tradeoff.Expense("this run", tuple(ours), ours=True)] if ours else []
    rows.append(tradeoff.Expense("one dense training", (("training", 1.0),)))
    if record.train_prune_retrain_macs:
        share = record.train_prune_retrain_macs / dense
        rows.append(tradeoff.Expense("train, prune, retrain", (("training", share),)))
    return rows


def _times(times: Times) -> Table:
    """Time and energy of the run's parts, as they were measured."""
    rows = [
        (
            words(name),
            quantity(spent.seconds, duration, f"cost/times/{key}/seconds"),
            quantity(spent.energy_kj, _kilojoules, f"cost/times/{key}/energy_kj"),
        )
        for key, name, spent in (
            ("search", "until the cut", times.search),
            ("training", "training of the small network", times.training),
        )
        if spent
    ]
    return Table(head=("", "time", "energy"), rows=rows)


def _figures(record: Cost) -> list[tuple[Cell, Cell]]:
    rows = []
    for name, note, value, show, path in (
        ("Time", None, record.seconds, duration, "cost/seconds"),
        ("Energy", record.energy_kj.method, record.energy_kj.value, _kilojoules, "cost/energy_kj/value"),
        ("MACs of the search", None, record.search_macs, amount, "cost/search_macs"),
        ("MACs of the training after it", None, record.training_macs, amount, "cost/training_macs"),
        (
            "Repaid after",
            "so many inferences save what the run cost",
            record.break_even_inferences,
            lambda value: f"{amount(value)} inferences",
            "cost/break_even_inferences",
        ),
    ):
        if value:
            rows.append((Cell(text=name, note=note), quantity(value, show, path)))
    return rows


def _stages(stages: tuple[Stage, ...]) -> Table:
    longest = max(stage.seconds for stage in stages) or 1
    rows = [
        (
            words(stage.name),
            quantity(stage.seconds, duration, f"stages/{index}/seconds", bar=stage.seconds / longest),
            quantity(stage.cpu_seconds, duration, f"stages/{index}/cpu_seconds"),
            quantity(stage.peak_mb, _megabytes, f"stages/{index}/peak_mb"),
        )
        for index, stage in enumerate(stages)
    ]
    return Table(head=("stage", "time", "CPU time", "peak memory"), rows=rows, caption="Where the time went")


def _kilojoules(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g} kJ"


def _megabytes(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f} MB".replace(",", " ")
