"""What an error at the outputs of each layer costs: the curvature of the loss, from one backward pass without labels.

A small error e at a layer's outputs changes the predictions by a divergence of E[(g . e)^2] / 2, g the gradient of the
log-probability of a class that is drawn from the predictions themselves (Fisher information). Taken channel by
channel, errors of positions and channels as independent, that is a sum of mean squared errors with weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from slimkit import out_of_memory
from slimkit.example import batch_size, call, comparable
from slimkit.modules import evaluating
from slimkit.recovery.calibration import Chunk
from slimkit.recovery.gap import Spreads, spread_of, spreads_of
from slimkit.recovery.readers import parameters

aten = torch.ops.aten


def drawn_class(output: Any, generator: torch.Generator, values: Spreads) -> Tensor:
    """Return the sum of log-probabilities of classes drawn from the scores themselves, of every tensor of scores.

    Values are taken as means of normal distributions with the spread that each quantity has. Of maps it is over the
    root of the number of positions: what errors of many positions cost is a mean over them.
    """
    total = torch.zeros(())
    for place, (scores, _) in enumerate(comparable(output, output)):
        if not scores.is_floating_point() or not scores.requires_grad:
            continue
        if not scores.dim():  # one number for the whole batch has no spread
            total = total.to(scores.device) + scores
            continue
        if (spread := spread_of(scores, values.get(place))) is not None:
            noise = torch.randn(scores.shape, generator=generator).to(scores.device)
            total = total.to(scores.device) + (scores * noise / spread.sqrt().to(scores)).sum() / (
                scores[0].numel() ** 0.5
            )
        else:
            rows = scores.movedim(1, -1).flatten(0, -2).log_softmax(1)
            picked = torch.multinomial(rows.detach().exp().cpu(), 1, generator=generator).to(rows.device)
            total = total.to(rows.device) + rows.gather(1, picked).sum() / (len(rows) / len(scores)) ** 0.5
    return total


class _Gradients(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sums the squares of the gradients at the outputs of each weight, as the backward operators show them."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names = parameters(model)
        self.sums: dict[str, Tensor] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        packet = func.overloadpacket
        if packet is aten.convolution_backward:
            self._add(args[2], args[0], 1)
        elif packet in (aten.mm, aten.bmm):  # of a product's gradient and its stored factor
            self._add(args[1], args[0], -1)
            self._add(args[0], args[1], -2)
        return func(*args, **(kwargs or {}))

    def _add(self, weight: Tensor, gradient: Tensor, dim: int) -> None:
        found = self.names.get(weight.data_ptr())
        if found is not None and found[1].numel() == weight.numel():
            squares = gradient.movedim(dim, 0).flatten(1).abs().double().square().sum(1)
            before = self.sums.setdefault(found[0], torch.zeros_like(squares))
            if len(before) == len(squares):  # else it is used in several ways, and never fitted: see `gather`
                before += squares


def curvature(model: nn.Module, chunks: Sequence[Chunk]) -> dict[str, Tensor]:
    """Return, for each weight, what a mean squared error of 1 at each of its outputs costs, [outputs], in nats.

    Weights that no gradient reaches are not there, nor is any where one is lost on its way. Where a gradient is not
    finite, as at a root of 0, an output costs what one of that weight, or of all, does in the middle.

    Args:
        model: left as found; runs in evaluation mode.
        chunks: inputs, without labels.
    """
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    floating = [parameter for parameter, _ in flags if parameter.is_floating_point()]
    generator = torch.Generator().manual_seed(0)
    watch = _Gradients(model)
    values = spreads_of(model, chunks)
    images = 0
    try:
        for parameter in floating:
            parameter.requires_grad_(True)
        with evaluating(model), torch.enable_grad():
            for chunk in chunks:
                loss = drawn_class(call(model, chunk.example), generator, values)
                try:
                    with watch:
                        torch.autograd.grad(loss, floating, allow_unused=True)
                except RuntimeError as error:  # computed without gradients, or changed in place: nothing leads back
                    out_of_memory.pass_on(error)
                    return {}
                images += batch_size(chunk.example)
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
    return _finite({name: squares / (2 * images) for name, squares in watch.sums.items()})


def _finite(costs: dict[str, Tensor]) -> dict[str, Tensor]:
    known = [squares[squares.isfinite()] for squares in costs.values()]
    everywhere = torch.cat([own.cpu() for own in known]) if known else torch.zeros(0)
    if not len(everywhere):
        return {}
    return {
        name: torch.where(squares.isfinite(), squares, (own if len(own) else everywhere).median().to(squares))
        for (name, squares), own in zip(costs.items(), known, strict=True)
    }
