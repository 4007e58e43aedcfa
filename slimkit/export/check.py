"""Does an ONNX file compute what the network does? Asked of ONNX Runtime, on inputs of several batches and sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from slimkit import out_of_memory
from slimkit.dtypes import advice
from slimkit.errors import EngineError, TraceError
from slimkit.example import Example, batch_size, call, describe, larger, mapped, named, of_batch, own_batch, tensors
from slimkit.hardware import CPU, draw_from, own_random
from slimkit.modules import private

# max |a - b| / std(a): above it is a wrong translation, below it rounding
_TOLERANCE = 1e-3
_TOLERANCES = {"float16": 3e-2}
_Array = NDArray[Any]
SEVERAL = 3  # images, or more where something without a batch is of this length


class Mismatch(Exception):
    """ONNX Runtime does not run the file, or computes something else than torch."""


@dataclass(frozen=True)
class Expected:
    """An input, and what torch computes for it.

    Attributes:
        example: the input.
        outputs: in the order in which the network returns them.
        steady: of each output, whether it stays as it is when random numbers are drawn anew.
    """

    example: Example
    outputs: Sequence[_Array]
    steady: Sequence[bool]


def references(
    model: nn.Module, example_input: Example, free_size: bool, placed: Callable[[Example], Example]
) -> list[Expected]:
    """Run a network on random inputs like the example: one image, several, and with `free_size` one of another size.

    They are normal; where the network makes no finite number of them, as where it takes their logarithm, they are in
    [0, 1), or else the example. The several are left out of a network that takes one image at a time.

    Args:
        model: the network as it is exported.
        example_input: of any batch.
        free_size: height and width are to be free.
        placed: normal random inputs -> inputs as the network to be exported takes them.

    Raises:
        TraceError: the network does not run on such inputs, or gives no finite number.
        EngineError: it runs on no other size; all its outputs are random.
    """
    generator = torch.Generator().manual_seed(0)
    kinds: tuple[Callable[..., Tensor] | None, ...] = (torch.randn, torch.rand, None)
    for kind in kinds:

        def drawn(tensor: Tensor, kind: Callable[..., Tensor] | None = kind) -> Tensor:
            if kind is None or not tensor.is_floating_point():
                return tensor  # indices and counts have a meaning
            return kind(tensor.shape, generator=generator).to(tensor.dtype)

        one, images = (
            placed(mapped(of_batch(example_input, count), drawn)) for count in (1, own_batch(example_input, SEVERAL))
        )
        try:
            found = [_expected(model, one)]
        except Exception as error:
            out_of_memory.pass_on(error)
            raise TraceError(
                f"{type(model).__name__} does not run on a batch of shape {describe(one)}: {line(error)}.\n"
                f"  {advice(error, 'Give an example input of the shape this network was made for')}"
            ) from error
        if _says(found[0]):
            break
    else:
        raise TraceError(
            f"{type(model).__name__} gives no finite number on a batch of shape {describe(one)}: no file can be held "
            "against it.\n  See to its weights, or give an example input for which its outputs are finite"
        )
    if not any(found[0].steady):
        raise EngineError(
            f"{type(model).__name__} cannot be exported to ONNX: all that it returns depends on random numbers that it "
            "draws in evaluation mode, so no file can be held against it.\n"
            "  Keep the network as slimkit's own file (.safetensors or .pt2), or let it draw none in evaluation mode"
        )
    try:
        found.append(_expected(model, images))
    except Exception as error:  # a network that takes one image at a time
        out_of_memory.pass_on(error)
    if free_size:
        given = placed(mapped(larger(of_batch(example_input, 1)), drawn))
        try:
            found.append(_expected(model, given))
        except Exception as error:
            out_of_memory.pass_on(error)
            raise EngineError(
                f"free_size is True: {type(model).__name__} does not run on another size, {describe(given)}: "
                f"{line(error)}.\n  Leave out `free_size`"
            ) from error
    return found


@torch.no_grad()
def _expected(model: nn.Module, given: Example) -> Expected:
    outputs, steady = drawn_twice(model, given)
    return Expected(given, [tensor.numpy() for tensor in outputs], steady)


@torch.no_grad()
def drawn_twice(model: nn.Module, given: Example) -> tuple[list[Tensor], list[bool]]:
    """Return what a network on the CPU gives, and of each tensor whether other random numbers leave it as it is."""
    with own_random(CPU):
        draw_from(0)
        before = torch.get_rng_state()
        first = tensors(call(private(model), given))
        if torch.equal(before, torch.get_rng_state()):
            return first, [True] * len(first)
        draw_from(1)
        again = tensors(call(private(model), given))
    return first, [a.shape == b.shape and bool((a == b).all()) for a, b in zip(first, again, strict=True)]


def _says(one: Expected) -> bool:
    """Tell whether an output holds a finite number, or none hold any at all."""
    return any(np.isfinite(output).any() for output in one.outputs) or not any(o.size for o in one.outputs)


def check(path: Path, expected: Sequence[Expected], batch: int | None) -> None:
    """Let `onnx.checker` read the file, and ONNX Runtime compute what torch has; a bound batch alone where it is bound.

    Raises:
        Mismatch: it does not.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    try:
        onnx.checker.check_model(str(path))
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        names = {entry.name for entry in session.get_inputs()}  # an input that is not read is not there
        for one in expected:
            if batch not in (None, batch_size(one.example)):
                continue
            given = {name: tensor.numpy() for name, tensor in named(one.example).items() if name in names}
            found = session.run(None, given)
            again = found if all(one.steady) else session.run(None, given)
            for got, other, want, steady in zip(found, again, one.outputs, one.steady, strict=True):
                _compare(got, want) if steady else _compare_random(got, other, want)
    except Mismatch:
        raise
    except Exception as error:  # the runtime's exceptions share no base class
        raise Mismatch(line(error)) from error


def _compare_random(got: _Array, again: _Array, want: _Array) -> None:
    """Hold an output that depends on random numbers to its shape, and to drawing others each time."""
    if got.shape != want.shape:
        raise Mismatch(f"ONNX Runtime returns the shape {got.shape} where torch returns {want.shape}")
    if np.array_equal(got, again):
        raise Mismatch("the network draws random numbers in evaluation mode, the file does not")


def _compare(got: _Array, want: _Array) -> None:
    if got.shape != want.shape:
        raise Mismatch(f"ONNX Runtime returns the shape {got.shape} where torch returns {want.shape}")
    finite = np.isfinite(want)  # of the others engines make what they like
    if not finite.any():
        return
    got, want = got[finite], want[finite]
    scale = float(want.std()) or float(np.abs(want).max()) or 1.0
    error = float(np.abs(got.astype(np.float64) - want).max()) / scale
    if not error < _TOLERANCES.get(str(want.dtype), _TOLERANCE):
        raise Mismatch(f"ONNX Runtime computes something else than torch, relative error {error:.1e}")


def line(error: Exception) -> str:
    """Return the first line of a message, short enough to stand in another one."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".")[:300] if lines else type(error).__name__
