"""Network -> ONNX file: self-contained, checked, with a free batch dimension.

The direct road (`direct.py`) is tried first; a network that it doesn't cover, or for which ONNX Runtime then
computes something else than torch, goes the general road (`general.py`).
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from slimkit._version import __version__
from slimkit.errors import EngineError, OutputError, TraceError
from slimkit.export import direct, general
from slimkit.export.file import OnnxModel
from slimkit.export.recording import Unsupported
from slimkit.export.writer import INPUT
from slimkit.modules import evaluating

_TOLERANCE = 1e-3  # max |a - b| / std(a): above it is a wrong translation, below it rounding
_LARGEST = 2**31 - 1  # bytes of one protobuf message
_Array = NDArray[Any]


class _Mismatch(Exception):
    """ONNX Runtime does not run the file, or computes something else than torch."""


def export_onnx(
    model: nn.Module, path: str | Path, example_input: Tensor, metadata: dict[str, str] | None = None
) -> None:
    """Write a network in evaluation mode to one ONNX file; the network is left as it was found.

    The input is called `input`, [batch, ...]; the output `output`, or `output_0`, `output_1`, ... in the
    order in which the network returns them. BatchNorm is folded into the layer before it where that is exact.
    The same network gives the same bytes. The file takes its place only after `onnx.checker` has passed and
    ONNX Runtime has computed batches of 1 and 3 as torch does.

    Args:
        model: any network with one tensor as input.
        path: the file; one that is there is replaced.
        example_input: [N, ...], any N; read for its shape and type.
        metadata: written to the file's `metadata_props`, beside `slimkit` (the version).

    Raises:
        TraceError: the network does not run on such an input.
        EngineError: it cannot be expressed in ONNX, or not in one file of 2 GB.
        OutputError: the file cannot be written; nothing is left of it.
    """
    path = Path(path)
    if sum(t.nbytes for t in (*model.parameters(), *model.buffers())) > _LARGEST:
        raise EngineError(
            f"{type(model).__name__} cannot be exported to ONNX: one file holds 2 GB, its weights are more.\n"
            "  Use the .safetensors file instead"
        )
    if any(t.device.type != "cpu" for t in (*model.parameters(), *model.buffers())):
        model = copy.deepcopy(model).cpu()
    images, expected = _reference(model, example_input)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        try:
            _write(direct.translate(model, images), part, metadata or {})
            _check(part, images, expected)
        except (Unsupported, _Mismatch):
            _write(general.translate(model, images), part, metadata or {})
            try:
                _check(part, images, expected)
            except _Mismatch as error:
                raise EngineError(
                    f"{type(model).__name__} cannot be exported to ONNX: {error}.\n"
                    "  Keep the network as the .safetensors file"
                ) from error
        _guard(path, lambda: os.replace(part, path))
    finally:
        part.unlink(missing_ok=True)


def _reference(model: nn.Module, example_input: Tensor) -> tuple[Tensor, list[_Array]]:
    """Return random images [3, ...] like the example, and what torch computes for them."""
    shape = (3, *example_input.shape[1:])
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(shape, generator=generator).to(example_input.dtype)
    with evaluating(model), torch.no_grad():
        try:
            outputs = model(images)
        except Exception as error:
            raise TraceError(
                f"{type(model).__name__} does not run on a batch of shape {tuple(shape)}: {_line(error)}.\n"
                "  Give an example input of the shape this network was made for"
            ) from error
    return images, [leaf.numpy() for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)]


def _write(model: OnnxModel, path: Path, metadata: dict[str, str]) -> None:
    model.proto.producer_name, model.proto.producer_version = "slimkit", __version__
    onnx.helper.set_model_props(model.proto, dict(sorted({**metadata, "slimkit": __version__}.items())))
    _guard(path, lambda: model.save(path))


def _guard(path: Path, action: Callable[[], object]) -> None:
    try:
        action()
    except OSError as error:
        raise OutputError(
            f"{path.parent}: the ONNX file cannot be written: {error.strerror or error}.\n"
            "  Make room, or choose another place with --out"
        ) from error


def _check(path: Path, images: Tensor, expected: list[_Array]) -> None:
    """Let `onnx.checker` read the file, and ONNX Runtime compute a batch of 1 and one of 3."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    try:
        onnx.checker.check_model(str(path))
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        for batch in (1, len(images)):
            outputs = session.run(None, {INPUT: images[:batch].numpy()})
            for got, want in zip(outputs, expected, strict=True):
                _compare(got, want if len(want) != len(images) else want[:batch])
    except _Mismatch:
        raise
    except Exception as error:  # the runtime's exceptions share no base class
        raise _Mismatch(_line(error)) from error


def _compare(got: _Array, want: _Array) -> None:
    if got.shape != want.shape:
        raise _Mismatch(f"ONNX Runtime returns the shape {got.shape} where torch returns {want.shape}")
    scale = float(want.std()) or float(np.abs(want).max()) or 1.0
    error = float(np.abs(got.astype(np.float64) - want).max()) / scale
    if np.isfinite(want).all() and not error < _TOLERANCE:
        raise _Mismatch(f"ONNX Runtime computes something else than torch, relative error {error:.1e}")


def _line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
