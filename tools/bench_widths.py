"""Does a network with fewer MACs run as much faster? Latency ratio over MACs ratio, beside torch-pruning.

    python tools/bench_widths.py [--out bench_widths.jsonl] [--no-rival] [NAME ...]

Every torchvision classifier with BatchNorm, at `ratio = 0.5` and `max_macs = 0.5`; at each, torch-pruning with
the same MACs (its pruning ratio is searched for), with its defaults and with `round_to=16`. Gammas of a trained
network are imitated: a channel's is log-normal (sigma 0.5) around its layer's, which is log-normal (sigma 0.3)
around 1; seed 0. ONNX Runtime, one thread, batch 1, files of one network timed in turns, the least CPU
milliseconds, since the machine may be shared. One process a network, a line of JSON each as it comes.
"""

import argparse
import copy
import json
import math
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from coverage import SIZES, names_with_batch_norm
from rows import Row, by_name, printed_by
from torch import Tensor, nn

SETTINGS: tuple[dict[str, float], ...] = ({"ratio": 0.5}, {"max_macs": 0.5})
RIVAL_LIMIT_S = 120  # to build its graph and search; slower ones are reported as such


def network(name: str) -> nn.Module:
    """Return a torchvision network with gammas spread like those of a trained one."""
    from torchvision.models import get_model

    torch.manual_seed(0)
    model: nn.Module = get_model(name, weights=None).eval()
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        layer = torch.randn(1) * 0.3
        norm.weight.data = (layer + torch.randn(norm.num_features) * 0.5).exp()
    return model


def ours(model: nn.Module, image: Tensor, setting: dict[str, Any]) -> nn.Module:
    """Trace, choose, and remove."""
    from slimkit.channels import trace
    from slimkit.runs.start import allowed_widths
    from slimkit.selection.choose import choose
    from slimkit.selection.ranking import Context, rank
    from slimkit.settings import CompressSpec, make
    from slimkit.surgery.remove import remove

    spec = make(CompressSpec, setting)
    graph = trace(model, image)
    scores = rank(spec.ranking, model, graph, spec.scope, Context())
    fixed = torch.zeros(graph.units, dtype=torch.bool)
    return remove(model, graph, choose(graph, scores, spec.budget, allowed_widths(spec), fixed))


def theirs(model: nn.Module, image: Tensor, goal: int, round_to: int | None) -> nn.Module:
    """Prune by gamma, whole network, to the same MACs: the pruning ratio is halved towards them."""
    import torch_pruning as tp

    from slimkit.measure.macs import count_macs

    low, high, best, nearest = 0.0, 1.0, None, math.inf
    for _ in range(6):
        net = copy.deepcopy(model)
        last = [m for m in net.modules() if isinstance(m, nn.Linear) and m.out_features == 1000]
        ratio = (low + high) / 2
        tp.pruner.MagnitudePruner(
            net, image, importance=tp.importance.BNScaleImportance(), global_pruning=True,
            pruning_ratio=ratio, ignored_layers=last, round_to=round_to,
        ).step()  # fmt: skip
        macs = count_macs(net, tuple(image.shape[1:]))
        if abs(macs - goal) < nearest:
            best, nearest = net, abs(macs - goal)
        if nearest <= 0.02 * goal:
            break
        low, high = (ratio, high) if macs > goal else (low, ratio)
    assert best is not None
    return best


def run_one(name: str, rival: bool, ranked: dict[str, str]) -> dict[str, Any]:
    """Measure one network; what a tool raises goes into its row."""
    from slimkit.export import export_onnx
    from slimkit.measure.latency import measure
    from slimkit.measure.macs import count_macs

    torch.set_num_threads(1)
    signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(TimeoutError("too slow")))
    model = network(name)
    shape = (3, SIZES.get(name, 224), SIZES.get(name, 224))
    image = torch.randn(1, *shape)
    nets: dict[str, nn.Module] = {"dense": model}
    row: dict[str, Any] = {"name": name, "errors": {}}

    def attempt(key: str, make: Callable[[], nn.Module], seconds: int = 0) -> None:
        try:
            signal.alarm(seconds)
            nets[key] = make()
        except Exception as error:
            row["errors"][key] = f"{type(error).__name__}: {str(error)[:80]}"
        finally:
            signal.alarm(0)

    for setting in SETTINGS:
        own = "=".join(str(part) for part in next(iter(setting.items())))
        attempt(own, lambda given=setting: ours(model, image, ranked | given))
        if rival and own in nets and not any(said.startswith("TimeoutError") for said in row["errors"].values()):
            goal = count_macs(nets[own], shape)
            attempt(f"{own}, rival", lambda macs=goal: theirs(model, image, macs, None), RIVAL_LIMIT_S)
            attempt(f"{own}, rival 16", lambda macs=goal: theirs(model, image, macs, 16), RIVAL_LIMIT_S)
    with tempfile.TemporaryDirectory() as folder:
        paths: dict[str, Path] = {}
        for number, (key, net) in enumerate(nets.items()):
            try:
                export_onnx(net, Path(folder, f"{number}.onnx"), image)
                paths[key] = Path(folder, f"{number}.onnx")
            except Exception as error:
                row["errors"][key] = f"{type(error).__name__}: {str(error)[:80]}"
        times = measure(list(paths.values()), seconds=2.0)
        row["cpu_ms"] = {key: time.cpu_ms for key, time in zip(paths, times, strict=True)}
        row["ms"] = {key: time.median_ms for key, time in zip(paths, times, strict=True)}
    row["macs"] = {key: count_macs(net, shape) for key, net in nets.items()}
    return row


def excess(row: dict[str, Any], key: str, clock: str = "cpu_ms") -> float | None:
    """Return the latency ratio over the MACs ratio of one network of a row."""
    if key not in row.get(clock, {}):
        return None
    latency = row[clock][key] / row[clock]["dense"]
    return float(latency / (row["macs"][key] / row["macs"]["dense"]))


def table(rows: list[dict[str, Any]]) -> str:
    """Return a markdown table and what it comes to, per setting."""
    keys = ["ratio=0.5", "max_macs=0.5"]
    keys = [f"{key}{end}" for key in keys for end in ("", ", rival", ", rival 16")]
    lines = ["| network | " + " | ".join(keys) + " |", "|" + " --- |" * (len(keys) + 1)]
    for row in rows:
        cells = []
        for key in keys:
            found = excess(row, key)
            if found is None:
                cells.append(row.get("errors", {}).get(key, "-").split(":")[0])
                continue
            latency = row["cpu_ms"][key] / row["cpu_ms"]["dense"]
            cells.append(f"{latency:.2f} / {row['macs'][key] / row['macs']['dense']:.2f} = {found:.2f}")
        lines.append(f"| {row['name']} | " + " | ".join(cells) + " |")
    for title, pick in (("geometric mean", None), ("worst", max)):
        cells = []
        for key in keys:
            found = [value for row in rows if (value := excess(row, key)) is not None]
            mean = math.exp(sum(map(math.log, found)) / len(found)) if found else math.nan
            cells.append(f"{pick(found) if pick and found else mean:.2f} (n = {len(found)})")
        lines.append(f"| **{title}** | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="networks; default: all with BatchNorm")
    parser.add_argument("--out", type=Path, default=Path("bench_widths.jsonl"))
    parser.add_argument("--no-rival", action="store_true")
    parser.add_argument("--ranking", default="group-norm", help="slimkit's; the rival ranks by gamma, whole network")
    parser.add_argument("--scope", default="group")
    parser.add_argument("--one", action="store_true", help="measure the one network in this process")
    args = parser.parse_args()
    if args.one:
        print(json.dumps(run_one(args.names[0], not args.no_rival, {"ranking": args.ranking, "scope": args.scope})))
        return
    names = args.names or [n for n in names_with_batch_norm()[0] if n != "regnet_y_128gf"]
    extra = ["--ranking", args.ranking, "--scope", args.scope, *["--no-rival"] * args.no_rival]

    def measure(name: str) -> Row:
        row, said = printed_by(__file__, name, "--one", *extra)
        return row or {"name": name, "errors": {"all": said[:100]}}

    print(table(by_name(names, args.out, measure)))


if __name__ == "__main__":
    main()
