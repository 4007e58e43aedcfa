"""Seconds to export networks to ONNX: slimkit, torch's dynamo exporter, torch's deprecated legacy exporter.

    python tools/bench_export.py [MODEL ...]

Prints a Markdown table. Per network and exporter: CPU seconds of one thread (in brackets slimkit's without
its checks: the checker, and two batches in ONNX Runtime against torch), the parity max|a-b|/std(a) with torch
on two random images, the latency of the file in ONNX Runtime, CPU milliseconds of one thread, in turns.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models import get_model

from slimkit.export import direct, export_onnx
from slimkit.measure.engines import open_runner
from slimkit.measure.environment import environment
from slimkit.measure.latency import measure

MODELS = (
    "resnet50",
    "densenet121",
    "mobilenet_v3_large",
    "efficientnet_b0",
    "shufflenet_v2_x1_0",
    "googlenet",
    "maxvit_t",
)


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the roads to ONNX.")
    parser.add_argument("models", nargs="*", default=MODELS, help="names of torchvision classifiers")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    logging.disable(logging.ERROR)
    warnings.simplefilter("ignore")
    roads: dict[str, Callable[[nn.Module, Tensor, Path], None]] = {
        "slimkit": export_onnx_to,
        "dynamo": dynamo,
        "legacy": legacy,
    }
    with tempfile.TemporaryDirectory() as folder:
        warm_up = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval()
        for name, road in roads.items():  # the first export imports much
            road(warm_up, torch.randn(2, 3, 8, 8), Path(folder) / f"{name}.onnx")
        heads = ("slimkit", "dynamo", "legacy")
        columns = [f"{kind}, {head}" for kind in ("export CPU-s", "parity", "CPU-ms") for head in heads]
        print("| " + " | ".join(["model", *columns]) + " |\n" + "| --- " * 10 + "|")
        for name in parser.parse_args().models:
            print(row(name, roads, Path(folder)), flush=True)
    print("\n" + ", ".join(f"{key} {value}" for key, value in environment().items()))


def row(name: str, roads: dict[str, Callable[[nn.Module, Tensor, Path], None]], folder: Path) -> str:
    """Export one network on every road and return its line of the table."""
    model = get_model(name, weights=None)
    randomise(model)
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        expected = model(images)
    seconds, errors, paths = [], [], []
    for road_name, road in roads.items():
        path = folder / f"{road_name}.onnx"
        start = time.process_time()
        road(model, images, path)
        seconds.append(time.process_time() - start)
        found = torch.from_numpy(open_runner(path).run(images.numpy())[0])
        errors.append(float((found - expected).abs().max() / expected.std()))
        paths.append(path)
    start = time.process_time()
    direct.translate(model, images).save(folder / "alone.onnx")
    alone = time.process_time() - start
    times = [latency.cpu_ms for latency in measure(paths, seconds=2)]
    cells = [name, f"{seconds[0]:.2f} ({alone:.2f})", *(f"{s:.2f}" for s in seconds[1:])]
    cells += [f"{error:.0e}" for error in errors] + [f"{ms:.1f}" for ms in times]
    return "| " + " | ".join(cells) + " |"


def randomise(model: nn.Module) -> None:
    """Give the norms statistics as after training, and put the network in evaluation mode."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.1)
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    model.eval()


def export_onnx_to(model: nn.Module, images: Tensor, path: Path) -> None:
    export_onnx(model, path, images)


def dynamo(model: nn.Module, images: Tensor, path: Path) -> None:
    """Export as torch's documentation says, with a dynamic batch."""
    with contextlib.redirect_stdout(io.StringIO()):
        torch.onnx.export(
            model,
            (images,),
            str(path),
            dynamo=True,
            external_data=False,
            input_names=["input"],
            output_names=["output"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )


def legacy(model: nn.Module, images: Tensor, path: Path) -> None:
    """Export with the deprecated TorchScript exporter."""
    torch.onnx.export(
        model,
        (images,),
        str(path),
        dynamo=False,
        input_names=["input"],
        output_names=["output"],
        dynamic_axes={"input": {0: "batch"}, "output": {0: "batch"}},
    )


if __name__ == "__main__":
    main()
