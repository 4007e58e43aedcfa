"""Is a latency budget met? `max_latency` on networks of several families, checked in a fresh process.

    python tools/bench_latency_budget.py [--share 0.5] [--out bench_latency_budget.jsonl] [NAME ...]

Per network: one process chooses the channels (its cache of layer times starts empty), removes and exports them;
another one times the dense file and the smaller one in turns. ONNX Runtime, one thread, batch 1; the least CPU
milliseconds beside wall time, since the machine may be shared. Gammas as in `bench_widths.py`.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from bench_widths import network
from coverage import SIZES
from rows import by_name, printed_by

NETWORKS = (
    "resnet18",
    "resnet50",
    "mobilenet_v2",
    "mobilenet_v3_large",
    "efficientnet_b0",
    "densenet121",
    "shufflenet_v2_x1_0",
    "regnet_x_400mf",
    "mnasnet1_0",
    "resnext50_32x4d",
)


def solve(name: str, share: float, folder: Path, settings: dict[str, str]) -> dict[str, Any]:
    """Choose, remove and export; what it took and what the solver thinks it reached."""
    from slimkit.channels import trace
    from slimkit.export import export_onnx
    from slimkit.measure.size import count_params
    from slimkit.runs.start import allowed_widths, measured_budget
    from slimkit.selection.ranking import Context, rank
    from slimkit.settings import CompressSpec
    from slimkit.surgery.remove import remove

    torch.set_num_threads(1)
    model = network(name)
    image = torch.randn(1, 3, SIZES.get(name, 224), SIZES.get(name, 224))
    spec = CompressSpec(max_latency=share, **settings)
    graph = trace(model, image)
    scores = rank(spec.ranking, model, graph, spec.scope, Context())
    fixed = torch.zeros(graph.units, dtype=torch.bool)
    shown: list[str] = []
    solver = measured_budget(spec, model, image, lambda message, _: shown.append(message))
    wall, cpu = time.perf_counter(), time.process_time()
    mask = solver(graph, scores, allowed_widths(spec), fixed)
    row: dict[str, Any] = {
        "name": name,
        "seconds": time.perf_counter() - wall,
        "cpu_seconds": time.process_time() - cpu,
    }
    slim = remove(model, graph, mask)
    export_onnx(model, folder / "dense.onnx", image)
    export_onnx(slim, folder / "slim.onnx", image)
    row["rounds"] = [[one.predicted, one.reached] for one in solver.rounds]
    row["timed"] = sum(message.startswith("timing layers") for message in shown)
    row["macs"] = graph.macs(mask.keep) / graph.macs(torch.ones_like(mask.keep))
    row["params"] = count_params(slim) / count_params(model)
    row["notes"] = solver.notes
    return row


def check(folder: Path) -> dict[str, Any]:
    """Time the two files of a folder in turns."""
    from slimkit.measure.latency import measure

    dense, slim = measure([folder / "dense.onnx", folder / "slim.onnx"], seconds=8.0)
    return {
        "dense_ms": dense.median_ms,
        "slim_ms": slim.median_ms,
        "dense_cpu_ms": dense.cpu_ms,
        "slim_cpu_ms": slim.cpu_ms,
        "noisy": dense.noisy or slim.noisy,
    }


def run(name: str, share: float, settings: dict[str, str]) -> dict[str, Any]:
    """Run both processes for one network."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as cache:
        given = [name, "--share", str(share), "--folder", folder]
        given += [word for key, value in settings.items() for word in (f"--{key}", value)]
        row: dict[str, Any] = {"name": name}
        for step in ("solve", "check"):
            found, said = printed_by(__file__, *given, "--step", step, env=os.environ | {"XDG_CACHE_HOME": cache})
            if found is None:
                return row | {"error": said[:200]}
            row |= found
        return row


def table(rows: list[dict[str, Any]], share: float) -> str:
    """Return a markdown table and what it comes to."""
    lines = [
        "| network | original | target | reached, CPU | reached, wall | MACs | parameters | rounds | layer times "
        "| seconds | CPU-seconds |",
        "|" + " --- |" * 11,
    ]
    off = []
    for row in rows:
        if "error" in row:
            lines.append(f"| {row['name']} | {row['error']} |" + " |" * 9)
            continue
        cpu = row["slim_cpu_ms"] / row["dense_cpu_ms"]
        off.append(cpu / share - 1)
        lines.append(
            f"| {row['name']} | {row['dense_cpu_ms']:.1f} ms | {share:.3f} | {cpu:.3f} "
            f"| {row['slim_ms'] / row['dense_ms']:.3f}{' (noisy)' if row['noisy'] else ''} | {row['macs']:.2f} "
            f"| {row['params']:.2f} | {len(row['rounds'])} | {row['timed']} | {row['seconds']:.0f} "
            f"| {row['cpu_seconds']:.0f} |"
        )
    if off:
        within = sum(abs(value) <= 0.05 for value in off)
        lines.append(
            f"\n{within} of {len(rows)} within 5 % of the target in a fresh process; "
            f"furthest below {min(off):+.1%}, furthest above {max(off):+.1%}."
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="networks; default: ten of nine families")
    parser.add_argument("--share", type=float, default=0.5)
    parser.add_argument("--ranking", default="group-norm")
    parser.add_argument("--scope", default="group")
    parser.add_argument("--out", type=Path, default=Path("bench_latency_budget.jsonl"))
    parser.add_argument("--step", choices=("solve", "check"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    settings = {"ranking": args.ranking, "scope": args.scope}
    if args.step == "solve":
        print(json.dumps(solve(args.names[0], args.share, args.folder, settings)))
        return
    if args.step == "check":
        print(json.dumps(check(args.folder)))
        return
    names = args.names or NETWORKS
    found = by_name(names, args.out, lambda name: run(name, args.share, settings))
    print(table(found, args.share))


if __name__ == "__main__":
    main()
