"""Network -> ONNX file: self-contained, checked, with a free batch dimension.

The direct road (`direct.py`) is tried first; a network that it doesn't cover, or for which ONNX Runtime then
computes something else than torch, goes the general road (`general.py`).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from slimkit._version import __version__
from slimkit.errors import EngineError, OutputError, TraceError
from slimkit.example import Example, call, describe, mapped, of_batch, tensors
from slimkit.export import direct, general
from slimkit.export.file import OnnxModel
from slimkit.export.writer import named
from slimkit.modules import copied, dtype_of, private, unwrapped

# max |a - b| / std(a): above it is a wrong translation, below it rounding
_TOLERANCE = 1e-3
_TOLERANCES = {"float16": 3e-2}
_Translate = Callable[[nn.Module, Example], OnnxModel]
_log = logging.getLogger("slimkit")
_LARGEST = 2**31 - 1  # bytes of one protobuf message
_Array = NDArray[Any]


class _Mismatch(Exception):
    """ONNX Runtime does not run the file, or computes something else than torch."""


@dataclass(frozen=True)
class Exported:
    """How a network came to its ONNX file.

    Attributes:
        road: `direct`, our own translation, or `general`, torch's exporter.
        batch: the batch size that the file is bound to; None where it is free.
    """

    road: str
    batch: int | None


def export_onnx(
    model: nn.Module,
    path: str | Path,
    example_input: Example,
    metadata: dict[str, str] | None = None,
    *,
    opset: int = direct.OPSET,
    fixed_batch: bool = False,
) -> Exported:
    """Write a network in evaluation mode to one ONNX file; the network is left as it was found.

    One input is called `input`, those of a tuple `input_0`, `input_1`, ..., those of a dict by their keys; the output
    `output`, or `output_0`, `output_1`, ... in the order in which the network returns them. BatchNorm is folded into
    the layer before it where that is exact. The same network gives the same bytes. The file takes its place only
    after `onnx.checker` has passed and ONNX Runtime has computed batches of 1 and 3 as torch does. Our own translation
    is tried first, then torch's exporter, then torch's exporter for a batch of one.

    Args:
        model: any network.
        path: the file; one that is there is replaced.
        example_input: a tensor [N, ...], any N, a tuple of arguments, or a dict of keyword arguments.
        metadata: written to the file's `metadata_props`, beside `slimkit` (the version).
        opset: version of ONNX's operators.
        fixed_batch: bind the file to batches of one.

    Raises:
        TraceError: the network does not run on such an input.
        EngineError: it cannot be expressed in ONNX, or not in one file of 2 GB.
        OutputError: the file cannot be written; nothing is left of it.
    """
    path, model = Path(path), unwrapped(model)
    if sum(t.nbytes for t in (*model.parameters(), *model.buffers())) > _LARGEST:
        raise EngineError(
            f"{type(model).__name__} cannot be exported to ONNX: one file holds 2 GB, its weights are more.\n"
            "  Use the .safetensors file instead"
        )
    if dtype_of(model) == torch.bfloat16:
        raise EngineError(
            f"{type(model).__name__} cannot be exported to ONNX: ONNX Runtime has no convolutions in bfloat16.\n"
            "  Export model.float()"
        )
    if any(t.device.type != "cpu" for t in (*model.parameters(), *model.buffers())):
        model = copied(model).cpu()
    images, expected = _reference(model, mapped(example_input, Tensor.cpu))
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        for last, (name, translate, batch) in _roads(opset, fixed_batch):
            try:
                given = images if batch is None else of_batch(images, batch)
                _write(translate(private(model), given), part, metadata or {})
                _check(part, images, expected, batch)
                break
            except OutputError:
                raise
            except Exception as error:  # whatever stops one road, the next may serve
                if last:
                    raise _refusal(model, error) from error
                _log.debug("%s: the %s road to ONNX: %s", type(model).__name__, name, _line(error))
        _guard(path, lambda: os.replace(part, path))
    finally:
        part.unlink(missing_ok=True)
    return Exported(name, batch)


def _roads(opset: int, fixed_batch: bool) -> Iterator[tuple[bool, tuple[str, _Translate, int | None]]]:
    """Give the roads to try, one after the other, and whether each is the last."""
    by_torch = partial(general.translate, opset=opset)
    if not fixed_batch:
        if opset == direct.OPSET:
            yield False, ("direct", direct.translate, None)
        yield False, ("general", by_torch, None)
    yield True, ("general", partial(by_torch, free_batch=False), 1)


def _refusal(model: nn.Module, error: Exception) -> EngineError:
    if isinstance(error, EngineError):
        return error
    return EngineError(
        f"{type(model).__name__} cannot be exported to ONNX: {_line(error)}.\n"
        "  Keep the network as the .safetensors file"
    )


def _reference(model: nn.Module, example_input: Example) -> tuple[Example, dict[int, list[_Array]]]:
    """Return three random images like the example, and what torch computes for one and for all of them."""
    generator = torch.Generator().manual_seed(0)

    def drawn(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor  # indices and counts have a meaning
        return torch.randn(tensor.shape, generator=generator).to(tensor.dtype)

    images = mapped(of_batch(example_input, 3), drawn)
    with torch.no_grad():
        try:
            outputs = {size: tensors(call(private(model), of_batch(images, size))) for size in (1, 3)}
        except Exception as error:
            raise TraceError(
                f"{type(model).__name__} does not run on a batch of shape {describe(images)}: {_line(error)}.\n"
                "  Give an example input of the shape this network was made for"
            ) from error
    return images, {size: [tensor.numpy() for tensor in found] for size, found in outputs.items()}


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
            "  Make room, or choose another place with `out`"
        ) from error


def _check(path: Path, images: Example, expected: dict[int, list[_Array]], batch: int | None) -> None:
    """Let `onnx.checker` read the file, and ONNX Runtime compute a batch of 1, and one of 3 where it is free."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    try:
        onnx.checker.check_model(str(path))
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        names = {entry.name for entry in session.get_inputs()}  # an input that is not read is not there
        for size in (1, 3) if batch is None else (batch,):
            given = named(of_batch(images, size))
            outputs = session.run(None, {name: tensor.numpy() for name, tensor in given.items() if name in names})
            for got, want in zip(outputs, expected[size], strict=True):
                _compare(got, want)
    except _Mismatch:
        raise
    except Exception as error:  # the runtime's exceptions share no base class
        raise _Mismatch(_line(error)) from error


def _compare(got: _Array, want: _Array) -> None:
    if got.shape != want.shape:
        raise _Mismatch(f"ONNX Runtime returns the shape {got.shape} where torch returns {want.shape}")
    scale = float(want.std()) or float(np.abs(want).max()) or 1.0
    error = float(np.abs(got.astype(np.float64) - want).max()) / scale
    if np.isfinite(want).all() and not error < _TOLERANCES.get(str(want.dtype), _TOLERANCE):
        raise _Mismatch(f"ONNX Runtime computes something else than torch, relative error {error:.1e}")


def _line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
