"""How far predictions move when some weights of a network are others: measured, where curvature only estimates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from slimkit import provenance
from slimkit.example import batch_size, call, tensors
from slimkit.modules import copied, evaluating
from slimkit.recovery.calibration import Chunk
from slimkit.recovery.gap import divergence, spreads
from slimkit.recovery.readers import parameters, reader

_NUMBERS = 64 * 3 * 224 * 224  # of all inputs that are measured on, about: more of them where they are small
WeightAndBias = tuple[str, str | None]  # of a weight: its name, and the name of the bias that is added


class Sensitivity:
    """Measures a network with other weights against the network itself.

    Args:
        dense: left as found.
        chunks: inputs to measure on, of which some are taken.
    """

    def __init__(self, dense: nn.Module, chunks: Sequence[Chunk]) -> None:
        self._model = copied(dense)
        self._own = dict(dense.named_parameters())
        self._inputs = []
        numbers = 0
        for chunk in chunks:
            if numbers < _NUMBERS:
                self._inputs.append(chunk.example)
                numbers += sum(tensor.numel() for tensor in tensors(chunk.example))
        with torch.no_grad(), evaluating(self._model):
            self._wanted = [call(self._model, example) for example in self._inputs]
        self._values = spreads(self._wanted, provenance.of(dense).use.task, self._inputs)

    @torch.no_grad()
    def __call__(self, weights: Mapping[str, Tensor], constants: Mapping[WeightAndBias, Tensor]) -> float:
        """Return the mean divergence of the predictions, in nats, with other weights.

        Args:
            weights: by name; all others stay.
            constants: added to what uses of a weight make, one number a channel.
        """
        named = dict(self._model.named_parameters())
        total = images = 0.0
        try:
            for name, weight in weights.items():
                named[name].copy_(weight)
            with evaluating(self._model):
                for example, wanted in zip(self._inputs, self._wanted, strict=True):
                    with _Added(self._model, constants):
                        found = call(self._model, example)
                    count = batch_size(example)
                    total += count * divergence(wanted, found, self._values)
                    images += count
        finally:
            for name in weights:
                named[name].copy_(self._own[name])
        return total / images if images else 0.0


class _Added(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds constants to what weights make."""

    def __init__(self, model: nn.Module, constants: Mapping[WeightAndBias, Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names, self.constants = parameters(model), constants

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        found = reader(func, args, self.names)
        constant = self.constants.get((found[0].name, found[0].bias)) if found else None
        if found is None or constant is None:
            return out
        along = found[0].channels(out)
        shape = [-1 if dim == along else 1 for dim in range(out.dim())]
        return out + constant.to(out).reshape(shape)
