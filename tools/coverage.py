"""Slim every torchvision classifier with BatchNorm, whole command, and say how it went.

    python tools/coverage.py [--ratio 0.5] [--out coverage.jsonl] [NAME ...]

Weights are random, gammas drawn from U(0.05, 1) and biases from N(0, 0.1), so that ranking has something to
rank; BatchNorm's statistics are those of the network on noise. One process a network; a line of JSON each as it
comes (a network that already has one is not run again), then a table. Latency is CPU time over CPU time, since the
machine may be shared.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from rows import Row, by_name, printed_by

SIZES = {"inception_v3": 299}
ARGUMENTS = {"googlenet": {"init_weights": False}, "inception_v3": {"init_weights": False}}  # minutes of scipy


def names_with_batch_norm() -> tuple[list[str], list[str]]:
    """Return torchvision's classifiers with BatchNorm, and those without."""
    import torchvision
    from torch import nn

    from slimkit.models import building
    from slimkit.models.reference import parse

    with_norm, without = [], []
    for name in torchvision.models.list_models(module=torchvision.models):
        modules = building.skeleton(parse(f"torchvision:{name}"), {}).modules()
        (with_norm if any(isinstance(m, nn.BatchNorm2d) for m in modules) else without).append(name)
    return with_norm, without


def network(name: str) -> Any:
    """Return a torchvision network with gammas worth ranking, and statistics of its own."""
    import torch
    from torch import nn
    from torchvision.models import get_model

    torch.manual_seed(0)
    model = get_model(name, weights=None, **ARGUMENTS.get(name, {}))
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.05, 1.0)
        nn.init.normal_(norm.bias, 0.0, 0.1)
        norm.momentum = None
    model.eval()
    for norm in norms:
        norm.train()
    with torch.no_grad():
        model(torch.randn(4, 3, SIZES.get(name, 224), SIZES.get(name, 224)))
    return model.eval()


def run_one(name: str, ratio: float) -> dict[str, Any]:
    """Run the whole command on one network and return its row."""
    import torch

    from slimkit.cli import main

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint, out = Path(folder, "model.pt"), Path(folder, "out")
        model = network(name)
        torch.save(model.state_dict(), checkpoint)
        del model
        began, cpu = time.perf_counter(), time.process_time()
        words = ["compress", str(checkpoint), "--ratio", str(ratio), "--out", str(out), "--arch", name]
        status = main(words)
        row: dict[str, Any] = {"name": name, "ratio": ratio, "status": status}
        row |= {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - cpu}
        if status == 0:
            report = json.loads((out / "report.json").read_text())
            row |= {key: report[key] for key in ("channels", "proof", "before", "after", "stages")}
        return row


def table(rows: list[dict[str, Any]]) -> str:
    """Return a markdown table of all rows."""
    lines = [
        "| network | removable | removed | MACs | latency | worst error | seconds | peak MB | kept, and why |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        if row["status"] != 0:
            lines.append(f"| {row['name']} | | | | | | {row['seconds']:.0f} | | exit {row['status']} |")
            continue
        channels, before, after = row["channels"], row["before"], row["after"]
        proof = max(row["proof"][k] for k in ("masked_vs_slim", "slim_vs_reloaded", "slim_vs_onnx"))
        kept: dict[str, int] = {}
        for entry in channels["kept"]:
            if "output of the network" not in entry["reason"]:
                reason = entry["reason"].split(" (in ")[0]
                kept[reason] = kept.get(reason, 0) + entry["channels"]
        times = [side.get("latency_ms", {}).get("cpu") for side in (before, after)]
        latency = f"{times[1] / times[0]:.2f}" if all(times) else "-"
        lines.append(
            f"| {row['name']} | {channels['removable'] / channels['total']:.2f} | {channels['share_removed']:.3f} "
            f"| {after['macs'] / before['macs']:.2f} | {latency} | {proof:.0e} | {row['seconds']:.0f} "
            f"| {max(s['peak_mb'] for s in row['stages']):.0f} "
            f"| {'; '.join(f'{n} {r}' for r, n in kept.items())} |"
        )
    done = [r for r in rows if r["status"] == 0]
    lines.append(f"\n{len(done)} of {len(rows)} networks end in a proven ONNX file.")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="networks; default: all with BatchNorm")
    parser.add_argument("--ratio", type=float, default=0.5)
    parser.add_argument("--out", type=Path, default=Path("coverage.jsonl"))
    parser.add_argument("--one", action="store_true", help="run the one network in this process")
    args = parser.parse_args()
    if args.one:
        print(json.dumps(run_one(args.names[0], args.ratio)))
        return
    names = args.names or names_with_batch_norm()[0]

    def measure(name: str) -> Row:
        row, said = printed_by(__file__, name, "--one", "--ratio", str(args.ratio))
        return (row or {"name": name, "status": 1, "seconds": 0.0}) | {"stderr": [said]}

    print(table(by_name(names, args.out, measure)))


if __name__ == "__main__":
    main()
