"""Which of timm's networks with BatchNorm can be slimmed exactly, and what is kept and why.

    python tools/coverage_timm.py [--out docs/results/data/coverage_timm.jsonl] [NAME ...]

One or two small networks of each family, a module of `timm.models`, as resnet.py. Half of every group is removed at
random; the smaller network must compute what the masked one computes. Input shape and normalisation are
timm's own; weights are random, BatchNorms drawn. A line of JSON a network as it comes; one that is there is not run
again. Needs `slimkit[timm]`.
"""

import argparse
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from rows import Row, append, read
from torch import nn

from slimkit.channels import Graph, trace
from slimkit.example import Example, tensors
from slimkit.models import defaults
from slimkit.selection.mask import Mask
from slimkit.surgery import proof

NAMES = """
bat_resnext26ts botnet26t_256 coatnet_nano_rw_224 cs3darknet_s cspdarknet53
cspresnet50 cspresnext50 darknet53 dla34 dpn48b ecaresnet26t edgenext_xx_small
efficientformer_l1 efficientnet_cc_b0_4e efficientnet_lite0 efficientvit_b0 ese_vovnet19b_dw fastvit_t8
fbnetc_100 gcresnet33ts gernet_s ghostnet_100 ghostnetv2_100 halonet26t hardcorenas_a hgnet_tiny hgnetv2_b0
hrnet_w18_small inception_next_tiny inception_resnet_v2 inception_v4 lambda_resnet26t lcnet_050 levit_128s
maxvit_rmlp_pico_rw_256 mixnet_s mobilenetv4_conv_small mobilenetv4_hybrid_medium mobileone_s0 mobilevit_xxs
mobilevitv2_050 regnetz_b16
repghostnet_050 repvgg_a0 repvit_m0_9 res2net50_26w_4s res2next50 resnest14d resnetblur50 resnetv2_50
rexnet_100 selecsls42b semnasnet_075 seresnet50 shvit_s1 skresnet18 skresnext50_32x4d spnasnet_100
starnet_s1 swiftformer_xs tf_efficientnetv2_b0 tiny_vit_5m_224 tinynet_e tresnet_m visformer_tiny vovnet39a
xception41 xcit_nano_12_p16_224
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


def drawn(model: nn.Module) -> nn.Module:
    """Draw what initialisation leaves at 1 or 0, so that nothing is hidden: BatchNorms, biases, scales of branches."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine:
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() and parameter.abs().max() <= 1e-4:
                parameter.normal_(0, 0.2)
    return model.eval()


def measured(model: nn.Module, example: Example) -> Row:
    """Return what can go of a network: exact or not, shares of channels and MACs, what fails, what is kept and why."""
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    start = time.process_time()
    graph = trace(model, example)
    seconds = time.process_time() - start
    mask = half(graph)
    error = proof.error_of(model, graph, mask, [example])
    failing = proof.failing_groups(model, graph, mask, [example]) if error > proof.TOLERANCE else []
    reasons: Counter[str] = Counter()
    for kept in graph.kept:
        if not kept.output:
            reasons[kept.reason.split(" (in ")[0]] += kept.channels
    every, none = torch.ones(graph.units, dtype=torch.bool), torch.zeros(graph.units, dtype=torch.bool)
    total = graph.macs(every)
    return {
        "million_params": round(millions, 2),
        "input_shape": [list(tensor.shape[1:]) for tensor in tensors(example)],
        "seconds": round(seconds, 2),
        "error": error,
        "channels": graph.total,
        "removable": graph.units,
        "failing": sum(len(graph.groups[i].members) for i in failing),
        "macs": total,
        "removable_macs": 1 - graph.macs(none) / total if total else 0.0,
        "kept": dict(reasons.most_common()),
    }


def measure(name: str) -> Row:
    """Return the row of one of timm's networks."""
    import timm

    torch.manual_seed(0)
    model = drawn(timm.create_model(name))
    shape, _ = defaults.input_shape(None, model)
    assert shape is not None
    return measured(model, torch.randn(1, *shape))


def each(names: Sequence[str], out: Path, family: Callable[[str], str], measure: Callable[[str], Row]) -> None:
    """Add a row a network to a file, of those that it lacks; whatever one raises, the next one is run."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    done = {row["name"] for row in read(out)}
    for name in names:
        if name in done:
            continue
        row: Row = {"name": name, "family": family(name)}
        try:
            row |= measure(name)
        except Exception as error:
            row["failed"] = (str(error).splitlines() or [type(error).__name__])[0][:200]
        append(out, row)


def size(row: Row) -> str:
    """Return the size of the images: 224, or 16 x 112 x 112."""
    shapes = row["input_shape"]
    shape = shapes[0] if isinstance(shapes[0], list) else shapes
    places = list(map(str, shape[1:]))
    return places[0] if len(set(places)) == 1 else " x ".join(places)


def table(rows: list[Row]) -> str:
    """Return a markdown table of all rows, in words first."""
    done = [row for row in rows if "error" in row]
    exact = [row for row in done if not row["failing"] and row["error"] <= proof.TOLERANCE]
    lines = [
        f"{len(rows)} networks of {len({row['family'] for row in rows})} families: {len(exact)} are exact with half of "
        f"every group gone, {len(done) - len(exact)} once the groups that the proof finds are kept, "
        f"{len(rows) - len(done)} were not traced.",
        "",
        "| family | network | image | exact | channels that can go | MACs that can go | seconds | kept, and why |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in sorted(rows, key=lambda row: row["family"]):
        if "error" not in row:
            lines.append(f"| {row['family']} | {row['name']} | | | | | | {row['failed']} |")
            continue
        verdict = "yes" if row in exact else f"{row['failing']} channels kept"
        share = (row["removable"] - row["failing"]) / max(row["removable"] + sum(row["kept"].values()), 1)
        why = "; ".join(f"{channels} {reason}" for reason, channels in list(row["kept"].items())[:3])
        lines.append(
            f"| {row['family']} | {row['name']} | {size(row)} | {verdict} | {share:.0%} "
            f"| {row['removable_macs']:.0%} | {row['seconds']:.1f} | {why} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="networks; default: one or two of every family")
    parser.add_argument("--out", type=Path, default=ROWS)
    args = parser.parse_args()
    each(args.names or NAMES.split(), args.out, family_of, measure)


if __name__ == "__main__":
    main()
