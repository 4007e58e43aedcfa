"""What a converter gets, and what it is."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from slimkit.errors import EngineError
from slimkit.example import Example, call, mapped, tensors
from slimkit.export.onnx import export_onnx
from slimkit.export.pixels import normalisation_of, normalising
from slimkit.modules import copied, quiet
from slimkit.settings.files import OnnxSpec

jit: Any = torch.jit  # whose functions have no types

Compute = Callable[[Sequence[Tensor]], list[Tensor]]  # one tensor an input -> the outputs


@dataclass(frozen=True)
class Source:
    """A network to be written.

    Attributes:
        model: in evaluation mode; converters leave it as it is.
        example: what it is called with, normalised, one image.
        spec: how files are to be.
        half: weights, and where the engine does so arithmetic, in 16-bit floats.
        metadata: what an ONNX file says of the network beside how it is used.
    """

    model: nn.Module
    example: Example
    spec: OnnxSpec
    half: bool = False
    metadata: Mapping[str, str] = field(default_factory=dict)

    def onnx(self, path: Path) -> int | None:
        """Write the ONNX file that others are made of; return the batch that it is bound to, None where it is free."""
        spec = self.spec
        return export_onnx(
            self.model, path, self.example, dict(self.metadata), opset=spec.opset, fixed_batch=spec.fixed_batch,
            free_size=spec.free_size, embed_normalisation=spec.embed_normalisation,
        ).batch  # fmt: skip

    def network(self) -> nn.Module:
        """Return a copy of the network that takes what the file takes: pixels, where those are asked for."""
        own = copied(self.model).eval()  # with weights of its own: a converter may halve them
        if not self.spec.embed_normalisation:
            return own
        return normalising(own, normalisation_of(self.model, self.example))

    def scripted(self, half: bool = False) -> Any:
        """Return the network as TorchScript, by tracing: of one argument a tensor of its example, in their order.

        Outputs stay a tensor, several in a row, or by name; what is nested deeper becomes a tuple of all its tensors.

        `half`: it computes in 16-bit floats; what goes in and out stays float32.
        """
        network = self.network()
        with quiet(), torch.no_grad():
            plain = isinstance(self.example, Tensor) and isinstance(network(self.example), Tensor)
            if half or not plain:
                network = _Called(network.half() if half else network, self.example, half)
            return jit.trace(network, tuple(tensors(self.example)), check_trace=False, strict=False)

    def image(self, name: str) -> Tensor:
        """Return the one image tensor that it takes.

        Raises:
            EngineError: it takes something else, which the converter cannot write.
        """
        if not isinstance(self.example, Tensor) or self.example.dim() != 4:
            raise EngineError(f"{name}: only networks of one image tensor are written.\n  Leave {name!r} out of `to`")
        return self.example


class _Called(nn.Module):
    """A network that is called with the tensors of an example, one by one, and computes in its own precision."""

    def __init__(self, network: nn.Module, example: Example, half: bool) -> None:
        super().__init__()
        self.network, self.example, self.half_way = network, example, half

    def forward(self, *given: Tensor) -> Any:
        left = iter(given)
        returned = call(self.network, mapped(self.example, lambda _: self._as(torch.float16, next(left))))
        row = isinstance(returned, (tuple, list))
        members = returned.values() if isinstance(returned, dict) else returned if row else [returned]
        if not all(isinstance(member, Tensor) for member in members):
            returned = tuple(tensors(returned))
        return mapped(returned, partial(self._as, torch.float32))

    def _as(self, dtype: torch.dtype, tensor: Tensor) -> Tensor:
        return tensor.to(dtype) if self.half_way and tensor.is_floating_point() else tensor


@dataclass(frozen=True)
class Format:
    """A format that a network can be written in.

    Attributes:
        file: name of the file or folder.
        convert: writes it; returns the batch that it is bound to, None where it is free; raises whatever its converter
            does.
        engine: of `slimkit.measure.engines`, that runs it; None where there is none.
        run: opens it in a runtime of its own; None where that runs nowhere here.
        note: why it is not run here.
        packages: that its converter and its runtime are of, as they are imported.
    """

    file: str
    convert: Callable[[Source, Path], int | None]
    engine: str | None = None
    run: Callable[[Path], Compute] | None = None
    note: str = ""
    packages: tuple[str, ...] = ()


def needed(package: str, format_name: str) -> Any:
    """Import a converter.

    Raises:
        EngineError: it is not installed; the message has the pip command.
    """
    try:
        with quiet():
            return importlib.import_module(package)
    except ImportError as error:
        raise absent([package], [format_name]) from error


def absent(packages: Sequence[str], formats: Sequence[str]) -> EngineError:
    """Make the error for packages that are not installed, and that formats need."""
    names, several = [package.partition(".")[0].replace("_", "-") for package in packages], len(packages) > 1
    return EngineError(
        f"{', '.join(formats)}: the package{'s' * several} {' and '.join(names)} {'are' if several else 'is'} not "
        f"installed.\n  Install {'them' if several else 'it'}: pip install 'slimkit[{','.join(formats)}]'"
    )
