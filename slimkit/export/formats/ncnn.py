"""ncnn: model.ncnn.param and model.ncnn.bin, of one image at a time. Converter: pnnx, by ncnn's authors."""

import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from slimkit.errors import EngineError
from slimkit.export.formats.source import Compute, Format, Source, needed

# What ncnn does to be fast, in half precision also where weights are not: off, so that the file itself is looked at.
_SHORTCUTS = (
    "use_vulkan_compute", "use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage",
    "use_winograd_convolution", "use_sgemm_convolution",
)  # fmt: skip


def _convert(source: Source, path: Path) -> int | None:
    image = source.image("ncnn")
    pnnx = needed("pnnx", "ncnn")
    with tempfile.TemporaryDirectory() as folder:
        source.scripted().save(f"{folder}/model.pt")
        shape = ",".join(map(str, image.shape))
        words = [pnnx.EXEC_PATH, "model.pt", f"inputshape=[{shape}]f32", f"fp16={int(source.half)}"]
        words += [f"ncnnparam={path.absolute()}", f"ncnnbin={_weights(path).absolute()}"]
        done = subprocess.run(words, cwd=folder, capture_output=True, text=True)
    left = [line.split()[0] for line in path.read_text().splitlines()[2:]] if path.exists() else []
    foreign = next((kind for kind in left if "." in kind or kind.startswith("pnnx")), None)
    if done.returncode or not left or foreign:
        why = f"no layer for {foreign}" if foreign else (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
        raise EngineError(f"ncnn: pnnx cannot convert this network: {why[:300]}.\n  Leave 'ncnn' out of `to`")
    return 1


def _weights(path: Path) -> Path:
    return path.with_suffix(".bin")


def _run(path: Path) -> Compute:
    ncnn = needed("ncnn", "ncnn")
    net = ncnn.Net()
    for shortcut in _SHORTCUTS:
        setattr(net.opt, shortcut, False)
    net.load_param(str(path))
    net.load_model(str(_weights(path)))

    def run(given: Sequence[Tensor]) -> list[Tensor]:
        found: list[list[Tensor]] = []
        for image in given[0]:
            extractor = net.create_extractor()
            extractor.input("in0", ncnn.Mat(image.numpy()).clone())
            outputs = [extractor.extract(name)[1] for name in net.output_names()]
            found.append([torch.tensor(output.numpy()) for output in outputs])
        return [torch.stack(outputs) for outputs in zip(*found, strict=True)]

    return run


FORMAT = Format("model.ncnn.param", _convert, run=_run, packages=("ncnn", "pnnx"))
