"""Made-up reports with everything in them, for tests of what is shown; the arithmetic in them holds."""

import math
import random
from typing import Any

SIZES = {"layer1": 56, "layer2": 28, "layer3": 14, "layer4": 7}
WIDTHS = {"layer1": 64, "layer2": 128, "layer3": 256, "layer4": 512}
KEPT = {"layer1": 0.62, "layer2": 0.78, "layer3": 0.68, "layer4": 0.56}


def compress_report() -> dict[str, Any]:
    """ResNet-18 on 224-pixel images, half of the channels removed, retrained for 12 epochs."""
    layers, groups = _resnet18()
    before_macs, after_macs = (sum(layer[f"macs_{side}"] for layer in layers) for side in ("before", "after"))
    before_params, after_params = (sum(layer[f"params_{side}"] for layer in layers) for side in ("before", "after"))
    removed = sum(group["before"] - group["after"] for group in groups)
    removable = sum(group["before"] for group in groups)
    how = {"engine": "onnxruntime 1.30.0", "threads": 1, "batch": 1, "repeats": 60}
    return {
        "schema": "slimkit.report/1",
        "slimkit": "0.1.0",
        "created": "2026-02-03T14:05:09+00:00",
        "command": "compress",
        "spec": {
            "ratio": 0.5,
            "ranking": "gamma",
            "scope": "global",
            "round_to": "auto",
            "cap": 0.9,
            "constants": "fold",
            "data": "folder:flowers",
            "epochs": 12,
            "seed": 0,
            "arch": None,
        },
        "arch": {
            "name": "resnet18",
            "arguments": {"num_classes": 102},
            "source": "state dict",
            "input_shape": [3, 224, 224],
            "classes": 102,
            "assumptions": ["images of 224 x 224 pixels, normalised as for ImageNet"],
        },
        "channels": {
            "total": removable + 166,
            "removable": removable,
            "removed": removed,
            "asked": 0.5,
            "share_removed": removed / removable,
            "kept": [
                {"layer": "fc", "channels": 102, "reason": "names of channels reach the output"},
                {
                    "layer": "stem.<gate>",
                    "channels": 64,
                    "reason": "aten.softmax: mixes channels & cannot be cut",
                },
            ],
        },
        "groups": groups,
        "layers": layers,
        "before": {
            "params": before_params,
            "macs": before_macs,
            "bytes": 4 * before_params + 9_000,
            "latency_ms": {"median": 31.42, "q25": 31.1, "q75": 32.6, "cpu": 31.3, **how},
            "energy_mj": {"value": 402.0, "method": "modelled (4.6 pJ a MAC, 640 pJ a DRAM word)"},
            "accuracy": {"validation": 0.9412, "test": 0.9367, "images": 6149},
        },
        "after": {
            "params": after_params,
            "macs": after_macs,
            "bytes": 4 * after_params + 9_000,
            "latency_ms": {"median": 9.87, "q25": 9.71, "q75": 10.4, "cpu": 9.8, **how},
            "energy_mj": {"value": 118.0, "method": "modelled (4.6 pJ a MAC, 640 pJ a DRAM word)"},
            "accuracy": {"validation": 0.9365, "test": 0.9311, "images": 6149},
        },
        "after_cut": [
            {"constants": "zero", "batch_norm": "as trained", "output_error": 1.41, "accuracy": 0.112},
            {"constants": "fold", "batch_norm": "as trained", "output_error": 0.83, "accuracy": 0.384},
            {"constants": "zero", "batch_norm": "re-estimated", "output_error": 0.61, "accuracy": 0.702},
            {"constants": "fold", "batch_norm": "re-estimated", "output_error": 0.52, "accuracy": 0.741},
        ],
        "gammas": _gammas(),
        "recovery": {
            "epochs": 12,
            "history": [
                {
                    "epoch": e,
                    "loss": 0.35 + 1.4 * math.exp(-e / 2.2),
                    "learning_rate": 0.02 * (1 + math.cos(math.pi * e / 12)) / 2,
                    "validation_accuracy": 0.9365 - 0.19 * math.exp(-e / 2.4) * (e < 12),
                }
                for e in range(1, 13)
            ],
        },
        "search": None,
        "proof": {
            "masked_vs_slim": 2.1e-6,
            "slim_vs_reloaded": 0.0,
            "slim_vs_onnx": 3.8e-6,
            "tolerance": 1e-4,
            "inputs": "4 random, 16 of the data",
            "kept_after_failing": [],
        },
        "cost": {
            "training_macs": 3.2e15,
            "dense_training_macs": 1.31e16,
            "seconds": 2140.0,
            "energy_kj": {"value": 96.0, "method": "modelled (45 W)"},
            "break_even_inferences": 338_000,
        },
        "stages": [
            {"name": name, "seconds": seconds, "cpu_seconds": cpu, "peak_mb": peak}
            for name, seconds, cpu, peak in (
                ("load", 0.61, 0.58, 412),
                ("trace", 0.14, 0.14, 430),
                ("rank", 0.02, 0.02, 431),
                ("remove", 0.19, 0.18, 520),
                ("prove", 1.3, 1.2, 590),
                ("re-estimate", 21.4, 21.0, 910),
                ("retrain", 2098.0, 2081.0, 1480),
                ("export", 4.9, 4.7, 1480),
                ("measure", 11.2, 10.9, 1480),
            )
        ],
        "alternatives": [
            {"name": "random channels", "accuracy": 0.9012, "latency_ms": 10.1, "macs": 4.9e8},
            {"name": "uniform widths", "accuracy": 0.9203, "latency_ms": 9.6, "macs": 4.7e8},
            {"name": "smaller stock network", "accuracy": 0.9107, "latency_ms": 12.8, "macs": 5.8e8},
        ],
        "environment": {"cpu": "AMD EPYC, AVX-512", "cores": 2, "torch": "2.11.0", "onnxruntime": "1.30.0"},
        "warnings": ["latency: the spread was above 5 % in one of 5 rounds"],
    }


def train_report() -> dict[str, Any]:
    """ResNet-18 trained on Fashion-MNIST for 30 epochs, drawn after 5, two more ratios watched."""
    epochs = list(range(1, 13))
    report = compress_report()
    distances = [0.47 * math.exp(-e / 2.6) + 0.02 + 0.01 * math.sin(3 * e) for e in epochs]
    matrix = [
        [0.0 if i == j else 0.44 * abs(math.exp(-i / 3) - math.exp(-j / 3)) ** 0.6 + 0.015 for j in epochs]
        for i in epochs
    ]
    dense = 1.31e16
    report |= {
        "command": "train",
        "spec": {
            "arch": "resnet18",
            "data": "fashion-mnist",
            "ratio": 0.5,
            "draw": "early-bird",
            "rule": "consecutive",
            "init": "inherit",
            "epochs": 30,
            "penalty_total": 2.0,
            "seed": 0,
            "watch": [0.3, 0.7],
        },
        "after_cut": [],
        "recovery": None,
        "search": {
            "draw_policy": "early-bird",
            "rule": "consecutive",
            "ratios": {
                "0.3": {"epoch": 6, "distance_to_final": 0.08},
                "0.5": {"epoch": 5, "distance_to_final": 0.11},
                "0.7": {"epoch": 4, "distance_to_final": None},
            },
            "distances": [{"epoch": e, "distance": d} for e, d in zip(epochs, distances, strict=True)],
            "matrix": matrix,
            "epochs": epochs,
            "threshold": 0.1,
            "gamma_history": [_gamma_snapshot(e) for e in epochs],
            "history": [
                {
                    "epoch": e,
                    "loss": 0.3 + 1.9 * math.exp(-e / 4) + (0.25 if e == 6 else 0),
                    "accuracy": 0.915 - 0.45 * math.exp(-e / 3) - (0.09 if e == 6 else 0),
                }
                for e in range(1, 31)
            ],
            "penalty": {"lambda": 0.00093, "S": 2.0, "share_below_tenth_of_median": 0.31, "gap": True},
        },
        "cost": {
            "search_macs": 0.17 * dense,
            "training_macs": 0.24 * dense,
            "dense_training_macs": dense,
            "train_prune_retrain_macs": 1.27 * dense,
            "seconds": 4980.0,
            "energy_kj": {"value": 212.0, "method": "modelled (45 W)"},
            "break_even_inferences": 912_000,
        },
    }
    return report


def _resnet18() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    layers: list[dict[str, Any]] = []
    groups: list[dict[str, Any]] = []

    def conv(name: str, ins: tuple[int, int], outs: tuple[int, int], kernel: int, size: int) -> None:
        params = [i * o * kernel**2 for i, o in zip(ins, outs, strict=True)]
        layers.append(
            {
                "name": name,
                "kind": "Conv2d",
                "channels_before": outs[0],
                "channels_after": outs[1],
                "macs_before": params[0] * size**2,
                "macs_after": params[1] * size**2,
                "params_before": params[0],
                "params_after": params[1],
                "ms_before": params[0] * size**2 / 6.1e7,
                "ms_after": params[1] * size**2 / 5.2e7,
            }
        )

    draw = random.Random(1)
    stream = (64, 40)
    conv("conv1", (3, 3), stream, 7, 112)
    groups.append(
        {
            "name": "stem + layer1",
            "layers": ["conv1", "layer1.0.conv2", "layer1.1.conv2"],
            "before": 64,
            "after": 40,
            "limit": None,
        }
    )
    for stage, width in WIDTHS.items():
        out = stream if stage == "layer1" else (width, round(width * KEPT[stage] / 8) * 8)
        if stage != "layer1":
            groups.append(
                {
                    "name": stage,
                    "layers": [f"{stage}.{i}.conv2" for i in (0, 1)],
                    "before": out[0],
                    "after": out[1],
                    "limit": None,
                }
            )
        for block in (0, 1):
            inner = (width, max(8, round(width * KEPT[stage] * draw.uniform(0.4, 1.1) / 8) * 8))
            if (stage, block) == ("layer4", 1):
                inner = (width, 56)
            conv(f"{stage}.{block}.conv1", stream, inner, 3, SIZES[stage])
            conv(f"{stage}.{block}.conv2", inner, out, 3, SIZES[stage])
            if stream[0] != width:
                conv(f"{stage}.{block}.downsample.0", stream, out, 1, SIZES[stage])
            groups.append(
                {
                    "name": f"{stage}.{block}.conv1",
                    "layers": [f"{stage}.{block}.conv1"],
                    "before": inner[0],
                    "after": inner[1],
                    "limit": "cap" if inner[1] == 56 else None,
                }
            )
            stream = out
    params = [stream[0] * 102 + 102, stream[1] * 102 + 102]
    layers.append(
        {
            "name": "fc",
            "kind": "Linear",
            "channels_before": 102,
            "channels_after": 102,
            "macs_before": stream[0] * 102,
            "macs_after": stream[1] * 102,
            "params_before": params[0],
            "params_after": params[1],
            "ms_before": 0.01,
            "ms_after": 0.008,
        }
    )
    return layers, groups


def _gammas() -> dict[str, Any]:
    edges = [0.02 * i for i in range(31)]
    before = [
        round(900 * math.exp(-(((e - 0.01) / 0.035) ** 2)) + 190 * math.exp(-(((e - 0.27) / 0.08) ** 2)))
        for e in edges[:-1]
    ]
    after = [count if e > 0.13 else count // 12 for e, count in zip(edges, before, strict=False)]
    return {"edges": edges, "before": before, "after": after}


def _gamma_snapshot(epoch: int) -> dict[str, Any]:
    edges = [0.04 * i for i in range(31)]
    middle = 0.35 + 0.6 * math.exp(-epoch / 4)
    low = 900 * (1 - math.exp(-epoch / 4))
    counts = [
        round(low * math.exp(-(((e - 0.02) / 0.05) ** 2)) + 500 * math.exp(-(((e - middle) / 0.12) ** 2)))
        for e in edges[:-1]
    ]
    return {"epoch": epoch, "edges": edges, "counts": counts}
