"""slimkit beside torch-pruning: CPU-seconds to trace and remove, correctness, latency at the same ratio.

    python tools/bench_torch_pruning.py [--out bench_torch_pruning.jsonl] [--no-latency] [NAME ...]

Both get the same torchvision networks (`tools/coverage.py` gives them gammas worth ranking), rank by gamma over
the whole network and remove half of the channels; torch-pruning is told to leave the classifier alone. One
process a network, one thread, both tools in turn; CPU-seconds, since the machine may be shared. "Right" means:
the smaller network runs, keeps its output shape, trains, and equals the dense one with the same channels silent.
"""

import argparse
import copy
import json
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from coverage import SIZES, names_with_batch_norm, network
from rows import Row, by_name, printed_by
from torch import nn

RATIO = 0.5
LIMIT_S = 200


def cpu(function: Callable[[], Any]) -> tuple[Any, float]:
    """Return what a function returns, and the CPU-seconds that it took."""
    began = time.process_time()
    result = function()
    return result, time.process_time() - began


def ours(model: nn.Module, image: torch.Tensor) -> tuple[nn.Module, float]:
    """Trace, choose and remove; the network and CPU-seconds, without the proof."""
    from slimkit.channels import trace
    from slimkit.runs.start import allowed_widths
    from slimkit.selection.choose import choose
    from slimkit.selection.ranking import Context, rank
    from slimkit.settings import CompressSpec
    from slimkit.surgery.remove import remove

    spec = CompressSpec(ratio=RATIO, ranking="gamma", scope="global")

    def run() -> nn.Module:
        graph = trace(model, image)
        scores = rank(spec.ranking, model, graph, spec.scope, Context())
        fixed = torch.zeros(graph.units, dtype=torch.bool)
        return remove(model, graph, choose(graph, scores, spec.budget, allowed_widths(spec), fixed))

    return cpu(run)


def theirs(model: nn.Module, image: torch.Tensor, round_to: int | None) -> tuple[nn.Module, nn.Module, float]:
    """Run torch-pruning; its network, the dense one with the same channels silent, and CPU-seconds."""
    import torch_pruning as tp

    pruned, silent = copy.deepcopy(model), copy.deepcopy(model)
    names = {module: name for name, module in pruned.named_modules()}
    last = [m for m in pruned.modules() if isinstance(m, nn.Linear) and m.out_features == 1000]

    def build() -> Any:
        return tp.pruner.MagnitudePruner(
            pruned, image, importance=tp.importance.BNScaleImportance(), global_pruning=True,
            pruning_ratio=RATIO, ignored_layers=last, round_to=round_to,
        )  # fmt: skip

    pruner, seconds = cpu(build)
    rows: dict[nn.Module, list[int]] = {}
    dense = dict(silent.named_modules())
    steps = pruner.step(interactive=True)
    while True:
        group, spent = cpu(lambda: next(steps, None))
        seconds += spent
        if group is None:
            break
        for dependency, indices in group:
            module = dependency.target.module
            if not isinstance(module, nn.Module) or "in_channels" in dependency.handler.__name__:
                continue
            weight = getattr(module, "weight", None)
            if weight is None or module not in names:
                continue
            left = rows.setdefault(module, list(range(len(weight))))
            gone = [left[i] for i in indices if i < len(left)]
            with torch.no_grad():
                for tensor in (dense[names[module]].weight, dense[names[module]].bias):
                    if tensor is not None:
                        tensor[gone] = 0.0
            rows[module] = [row for row in left if row not in set(gone)]
        seconds += cpu(group.prune)[1]
    return pruned, silent, seconds


def verdict(pruned: nn.Module, silent: nn.Module, image: torch.Tensor) -> str:
    """Say what is wrong with a smaller network, or `right`."""
    from slimkit.surgery.proof import relative_error

    with torch.no_grad():
        error = relative_error(silent.eval()(image), pruned.eval()(image))
    if not error < 1e-4:
        return f"output off by {error:.0e}"
    pruned.train()(torch.cat([image, image]))
    pruned.eval()
    return "right"


def run_one(name: str, latency: bool) -> dict[str, Any]:
    """Measure one network; whatever a tool raises goes into its row."""
    from slimkit.export import export_onnx
    from slimkit.measure.latency import measure
    from slimkit.measure.macs import count_macs

    torch.set_num_threads(1)
    signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(TimeoutError(f"over {LIMIT_S} s")))
    model = network(name)
    size = SIZES.get(name, 224)
    image = torch.randn(1, 3, size, size)
    with torch.no_grad():
        model(image)
        forward = median(cpu(lambda: model(image))[1] for _ in range(3))
    runs = [ours(model, image) for _ in range(3)]
    row: dict[str, Any] = {"name": name, "forward_s": forward, "ours_s": median(s for _, s in runs)}
    nets = {"dense": model, "slimkit": runs[0][0]}
    for key, round_to in (("torch-pruning", None), ("torch-pruning, 16", 16)):
        try:
            signal.alarm(LIMIT_S)
            pruned, silent, seconds = theirs(model, image, round_to)
            signal.alarm(0)
            row[key] = {"seconds": seconds, "verdict": verdict(pruned, silent, image)}
            nets[key] = pruned
        except Exception as error:
            row[key] = {"verdict": f"{type(error).__name__}: {str(error).splitlines()[0][:60] if str(error) else ''}"}
        finally:
            signal.alarm(0)
    row["macs"] = {key: count_macs(net, (3, size, size)) for key, net in nets.items()}
    if latency:
        with tempfile.TemporaryDirectory() as folder:
            paths = []
            for i, net in enumerate(nets.values()):
                paths.append(Path(folder, f"{i}.onnx"))
                export_onnx(net, paths[-1], image)
            times = measure(paths, seconds=2.0)
            row["ms"] = {key: time.median_ms for key, time in zip(nets, times, strict=True)}
    return row


def table(rows: list[dict[str, Any]]) -> str:
    """Return a markdown table, and what it comes to."""
    keys = ("slimkit", "torch-pruning", "torch-pruning, 16")
    lines = [
        "| network | forward s | slimkit s | torch-pruning s | torch-pruning is | "
        + " | ".join(f"{k}: MACs, latency" for k in keys) + " |",
        "|" + " --- |" * 8,
    ]  # fmt: skip
    for row in rows:
        if "error" in row:
            lines.append(f"| {row['name']} | {row['error']} |" + " |" * 6)
            continue
        peer = row["torch-pruning"]
        cells = [row["name"], f"{row['forward_s']:.2f}", f"{row['ours_s']:.2f}"]
        cells += [f"{peer['seconds']:.1f}" if "seconds" in peer else "-", peer["verdict"]]
        for key in keys:
            share = row["macs"].get(key, 0) / row["macs"]["dense"]
            ms = row.get("ms", {})
            cells.append(f"{share:.2f}, {ms[key] / ms['dense']:.2f}" if key in ms else f"{share:.2f}" if share else "-")
        lines.append("| " + " | ".join(cells) + " |")
    good = [r for r in rows if "error" not in r]
    right = sum(r["torch-pruning"]["verdict"] == "right" for r in good)
    faster = sum(r["ours_s"] < r["torch-pruning"].get("seconds", float("inf")) for r in good)
    within = sum(r["ours_s"] <= 3 * r["forward_s"] for r in good)
    lines.append(
        f"\nslimkit is faster on {faster} of {len(good)} and within three forward passes on {within}; "
        f"its slowest takes {max(r['ours_s'] for r in good):.2f} s. torch-pruning ends right on {right}."
    )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="networks; default: all with BatchNorm")
    parser.add_argument("--out", type=Path, default=Path("bench_torch_pruning.jsonl"))
    parser.add_argument("--no-latency", action="store_true")
    parser.add_argument("--one", action="store_true", help="measure the one network in this process")
    args = parser.parse_args()
    if args.one:
        print(json.dumps(run_one(args.names[0], not args.no_latency)))
        return
    names = args.names or [n for n in names_with_batch_norm()[0] if n != "regnet_y_128gf"]
    extra = ["--no-latency"] if args.no_latency else []

    def measure(name: str) -> Row:
        row, said = printed_by(__file__, name, "--one", *extra)
        return row or {"name": name, "error": said[:100]}

    print(table(by_name(names, args.out, measure)))


if __name__ == "__main__":
    main()
