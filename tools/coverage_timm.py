"""Which of timm's convolutional networks can be slimmed exactly, and what is kept and why.

    python tools/coverage_timm.py [--out docs/results/data/coverage_timm.jsonl] [NAME ...]

The smallest network of every stem of the installed timm. Networks share a stem if their module in `timm.models` is the
same (resnet.py) and their names are, without sizes: numbers, single letters and words as "tiny" (`stem_of`). Those with
fewer than two convolutions over more than one pixel are passed over as pure transformers and mixers, those above 60
million parameters as too large. What layers compute as weights is stored first, as `compress` does. Half of every group
is removed at random; the smaller network must compute what the masked one computes. Images are of 160 pixels, or of
timm's own size where that is smaller or the network runs at no other; weights are random, BatchNorms drawn. A line of
JSON a stem as it comes; one that is there is not run again, so that a run that was stopped goes on. Each network has a
process and 300 seconds. Needs `slimkit[timm]`.
"""

import argparse
import re
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from rows import Row, append, guarded, read
from torch import nn

from slimkit import plain_weights, trace
from slimkit.channels import Graph
from slimkit.example import Example, tensors
from slimkit.models import defaults
from slimkit.selection.mask import Mask
from slimkit.surgery import proof
from slimkit.surgery.evidence import runs
from slimkit.surgery.plain_weights import replaced
from slimkit.surgery.trials import Trial

SIDE = 160  # pixels; a proof at 224 takes twice as long
LARGEST = 60  # million parameters
SECONDS = 300
SIZES = """
zepto atto femto pico nano mini tiny little small base medium mid large huge giant plus
xxs xs xl xxl xxsmall xsmall xlarge xxlarge xtiny xxtiny ti xx
"""
ROWS = Path(__file__).parents[1] / "docs" / "results" / "data" / "coverage_timm.jsonl"


def half(graph: Graph) -> Mask:
    """Return a mask that lacks a random half of every group."""
    generator = torch.Generator().manual_seed(0)
    keep = torch.ones(graph.units, dtype=torch.bool)
    for group in graph.groups:
        order = torch.randperm(len(group.members), generator=generator)
        keep[group.members[order[: len(order) // 2]]] = False
    return Mask(keep)


def family_of(name: str) -> str:
    """Return the module of timm that has a network."""
    from timm.models import _registry

    return str(_registry._model_to_module[name])


def stem_of(name: str) -> str:
    """Return a name without sizes; versions and numbers inside a word stay: `resnetv2_50d_gn` gives resnetv2_gn."""
    parts = [part if re.search(r"v\d$", part) else re.sub(r"\d+(?![a-z]{3})", "", part) for part in name.split("_")]
    return "_".join(part for part in parts if len(part) > 1 and part not in SIZES.split())


def stems(names: Iterable[str]) -> dict[tuple[str, str], list[str]]:
    """Return the networks of every module and stem, the first stem of each module first, then the second ones."""
    found: dict[tuple[str, str], list[str]] = {}
    for name in names:
        found.setdefault((family_of(name), stem_of(name)), []).append(name)
    turn: Counter[str] = Counter()
    turns = {key: turn.update([key[0]]) or turn[key[0]] for key in found}
    return dict(sorted(found.items(), key=lambda item: turns[item[0]]))


def smallest(names: Iterable[str]) -> tuple[str, float] | None:
    """Return the convolutional network with the fewest parameters and its millions; None where there is none."""
    import timm

    sizes: dict[str, float] = {}
    for name in names:
        with torch.device("meta"):
            model = timm.create_model(name)
        wide = [m for m in model.modules() if isinstance(m, nn.Conv2d) and max(m.kernel_size) > 1]
        if len(wide) < 2:
            return None  # and so are the others of the stem
        sizes[name] = sum(p.numel() for p in model.parameters()) / 1e6
    return min(sizes.items(), key=lambda item: item[1], default=None)


def drawn(model: nn.Module, noise: torch.Tensor | None = None) -> nn.Module:
    """Draw what initialisation leaves at 1 or 0, so that nothing is hidden: BatchNorms, biases, scales of branches.

    BatchNorms that take their statistics from noise keep what a deep network says from fading to a constant.
    """
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine:
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() and parameter.abs().max() <= 1e-4:
                parameter.normal_(0, 0.2)
        if noise is not None:
            for norm in (m for m in model.eval().modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)):
                norm.momentum = None
                norm.train()
            model(noise)
    return model.eval()


def measured(model: nn.Module, example: Example) -> Row:
    """Return what can go of a network: exact or not, shares of channels and MACs, what fails, what is kept and why."""
    start = time.process_time()
    graph = trace(model, example)
    seconds = time.process_time() - start
    if graph.computed:
        model = plain_weights(model, example)
        graph = trace(model, example)
    mask = half(graph)
    error = proof.evidence_for(model, graph, mask, [example]).error
    failing = proof.failing_groups(model, graph, mask, [example]) if error > proof.TOLERANCE else []
    reasons: Counter[str] = Counter()
    for kept in graph.kept:
        if not kept.output:
            reasons[kept.reason.split(" (in ")[0]] += kept.channels
    least = torch.zeros(graph.units, dtype=torch.bool)
    for number in failing:
        least[graph.groups[number].members] = True
    total = graph.macs(torch.ones_like(least))
    return {
        "input_shape": [list(tensor.shape[1:]) for tensor in tensors(example)],
        "seconds": round(seconds, 2),
        "error": error,
        "channels": graph.total,
        "removable": graph.units,
        "failing": sum(len(graph.groups[i].members) for i in failing),
        "macs": total,
        "removable_macs": 1 - graph.macs(least) / total if total else 0.0,
        "kept": dict(reasons.most_common()),
        **({"stored": len(stored)} if (stored := replaced(model)) else {}),
    }


def measure(name: str) -> Row:
    """Return the row of one of timm's networks."""
    import timm

    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    shape, _ = defaults.input_shape(None, model)
    assert shape is not None
    small = torch.randn(4, shape[0], *(min(side, SIDE) for side in shape[1:]))
    noise = small if runs(model, Trial("", small[:1])) else torch.randn(4, *shape)
    return measured(drawn(model, noise), noise[:1])


def measured_least(names: Sequence[str]) -> Row:
    """Return the row of the smallest network of a stem, or why it is left out."""
    least = smallest(names)
    if least is None:
        return {"left_out": "fewer than two convolutions over more than one pixel"}
    name, millions = least
    row: Row = {"name": name, "million_params": round(millions, 2)}
    if millions > LARGEST and len(names) > 1:
        return row | {"left_out": f"more than {LARGEST} million parameters"}
    return row | guarded(measure, name, SECONDS)


def size(row: Row) -> str:
    """Return the size of the images: 224, or 16 x 112 x 112."""
    shapes = row["input_shape"]
    shape = shapes[0] if isinstance(shapes[0], list) else shapes
    places = list(map(str, shape[1:]))
    return places[0] if len(set(places)) == 1 else " x ".join(places)


def share(row: Row) -> float:
    """Return the share of a network's channels that can go, and are proven."""
    total = row["removable"] + sum(row["kept"].values())
    return float((row["removable"] - row["failing"]) / max(total, 1))


def reason_of(row: Row) -> str:
    """Return what keeps most channels of a network."""
    reasons = row["kept"] | ({"fails the proof": row["failing"]} if row["failing"] else {})
    return max(reasons, key=lambda reason: reasons[reason], default="nothing")


def in_words(rows: Sequence[Row]) -> str:
    """Return what rows say, in three sentences: how many, how many exact, how much of their work can go and why not."""
    left_out = Counter(row["left_out"] for row in rows if "left_out" in row)
    tried = [row for row in rows if "left_out" not in row]
    done = [row for row in tried if "error" in row]
    exact = [row for row in done if is_exact(row)]
    most = [row for row in done if row["removable_macs"] > 0.9]
    rest = Counter(reason_of(row) for row in done if row["removable_macs"] <= 0.9)
    passed_over = ", ".join(f"{count} ({reason})" for reason, count in left_out.most_common())
    why = ", ".join(f"{reason} ({count})" for reason, count in rest.most_common())
    stored = sum("stored" in row for row in done)
    families = len({row["family"] for row in tried})
    return (
        f"{len(tried)} networks of {families} families, each the smallest of its stem; stems passed over: "
        f"{passed_over or 'none'}. {len(exact)} are exact with half of every group gone, {len(done) - len(exact)} once "
        f"the groups that the proof finds are kept, {len(tried) - len(done)} were not traced. In {stored} the weights "
        f"that layers compute were stored first. Of {len(most)} more than 90 % of the MACs can go; what keeps most "
        f"channels of the other {rest.total()}: {why or 'nothing'}."
    )


def is_exact(row: Row) -> bool:
    """Tell whether half of every group could go at once."""
    return not row["failing"] and row["error"] <= proof.TOLERANCE


def table(rows: list[Row]) -> str:
    """Return all rows in words, and a markdown table of those that were tried, folded."""
    lines = [
        "<details markdown>",
        f"<summary>{in_words(rows)}</summary>",
        "",
        "| family | network | image | exact | channels that can go | MACs that can go | seconds | kept, and why |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    tried = (row for row in rows if "left_out" not in row)
    for row in sorted(tried, key=lambda row: (row["family"], row["name"])):
        if "error" not in row:
            lines.append(f"| {row['family']} | {row['name']} | | | | | | {row['failed']} |")
            continue
        verdict = "yes" if is_exact(row) else f"{row['failing']} channels kept"
        why = "; ".join(f"{channels} {reason}" for reason, channels in list(row["kept"].items())[:3])
        lines.append(
            f"| {row['family']} | {row['name']} | {size(row)} | {verdict} | {share(row):.0%} "
            f"| {row['removable_macs']:.0%} | {row['seconds']:.1f} | {why} |"
        )
    return "\n".join((*lines, "", "</details>"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="networks; default: the smallest of every stem")
    parser.add_argument("--out", type=Path, default=ROWS)
    args = parser.parse_args()
    import timm

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    groups = [(family_of(name), stem_of(name), [name]) for name in args.names]
    done = {(row["family"], row["stem"]) for row in read(args.out)}
    for family, stem, names in groups or [(*key, names) for key, names in stems(timm.list_models()).items()]:
        if (family, stem) not in done:
            append(args.out, {"family": family, "stem": stem, **measured_least(names)})


if __name__ == "__main__":
    main()
