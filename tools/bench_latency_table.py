"""How far a latency table alone is from the truth: what it promises, and what is then measured.

    python tools/bench_latency_table.py [NETWORK...] [--engine NAME]... [--out FILE]

For every network of torchvision and engine: `slimkit bench --table`, channels for half the latency by that table
as `slimkit compress --latency-table` chooses them, both networks measured side by side in CPU time.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rows import append, read
from torchvision import models

from slimkit.channels import trace
from slimkit.export import export_onnx
from slimkit.measure.conditions import Conditions
from slimkit.measure.latency import measure
from slimkit.runs import bench as benching
from slimkit.selection.budget import Widths
from slimkit.selection.choose import choose_within_reach
from slimkit.selection.measured import LatencySolver
from slimkit.settings import parse_budget
from slimkit.surgery.remove import remove

NETWORKS = ("resnet18", "resnet50", "mobilenet_v2", "efficientnet_b0", "densenet121", "regnet_x_400mf")
ENGINES = ("onnxruntime", "openvino", "openvino-bf16")


def row(network: str, engine: str, target: float = 0.5) -> dict[str, Any]:
    """Make a table, meet a latency by it, and measure what came of it."""
    torch.manual_seed(0)
    model, image = getattr(models, network)(weights=None).eval(), torch.randn(1, 3, 224, 224)
    graph = trace(model, image)
    scores = torch.rand(graph.units) + 0.5
    with tempfile.TemporaryDirectory() as folder:
        dense, slim, file = (Path(folder, name) for name in ("dense.onnx", "slim.onnx", "table.json"))
        export_onnx(model, dense, image)
        began = time.process_time()
        _, table = benching.make_table(dense, file, engine)
        seconds = time.process_time() - began
        budget = parse_budget(target, "latency")
        solver = LatencySolver(model, remove, budget, image, Conditions(engine=engine), str(file))
        fixed = torch.zeros(graph.units, dtype=torch.bool)
        mask = choose_within_reach(graph, scores, budget, Widths(table.step, adapt=True), fixed, solver)
        export_onnx(remove(model, graph, mask), slim, image)
        before, after = measure([dense, slim], engine=engine)
    return {
        "job": [network, engine],
        "engine": table.engine,
        "original_ms": before.cpu_ms,
        "table": solver.reached / solver.original,
        "measured": after.cpu_ms / before.cpu_ms,
        "cpu_seconds": seconds,
        "layers": len(table.rows),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=NETWORKS)
    parser.add_argument("--engine", action="append", choices=ENGINES)
    parser.add_argument("--out", type=Path, default=Path("bench_latency_table.jsonl"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = read(args.out)
    for network in args.networks:
        for engine in args.engine or ENGINES:
            if [network, engine] not in [entry["job"] for entry in rows]:
                rows.append(row(network, engine))
                append(args.out, rows[-1])
    print("| network | engine | original | by the table | measured | layers | CPU-seconds for the table |")
    print("|" + " --- |" * 7)
    for entry in rows:
        print(
            f"| {entry['job'][0]} | {entry['engine']} | {entry['original_ms']:.1f} ms | {entry['table']:.3f} "
            f"| {entry['measured']:.3f} | {entry['layers']} | {entry['cpu_seconds']:.0f} |"
        )


if __name__ == "__main__":
    main()
