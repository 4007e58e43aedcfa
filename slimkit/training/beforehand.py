"""The first step of training, done on a copy: whether network, loss and precision go together."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from slimkit import out_of_memory
from slimkit.errors import TrainingError
from slimkit.example import call, on
from slimkit.hardware import own_random, pick_device
from slimkit.modules import copied
from slimkit.training import distributed, low_precision
from slimkit.training.loss import Objective, backward
from slimkit.training.run import Run

Batch = tuple[Any, Any]  # inputs, targets


def autocast(device: torch.device, precision: torch.dtype) -> AbstractContextManager[object]:
    """Let layers compute in a precision; nothing is done for float32."""
    return nullcontext() if precision == torch.float32 else torch.autocast(device.type, precision)


def check_first_step(model: nn.Module, objective: Objective, batch: Batch, **named: str) -> None:
    """Do what a step of training does, so that what cannot be trained is seen before anything else is done.

    Args:
        model: to be trained; untouched.
        objective: what training minimises, with its recipe; where it imitates, the network stands for its teacher.
        batch: two images or more, with their targets.
        named: precisions, by the names of the settings that ask for them.

    Raises:
        TrainingError: the loss of the task cannot be used, no gradient leads back, or the network does not run in a
            precision that is asked for by name.
    """
    device = distributed.local_device(pick_device(objective.recipe.device))
    _step(model, objective, batch, device, nullcontext())
    for name, precision in named.items():
        if precision not in ("auto", "fp32"):
            why = _why_not(model, objective, batch, device, low_precision.arithmetic(precision, device.type))
            if why:
                raise _refused(name, precision, why)


def that_runs(run: Run, objective: Objective, batch: Batch, precision: torch.dtype) -> torch.dtype:
    """Return the precision, or float32 where the network runs in that alone, as one with an FFT: then a note says so.

    Args:
        run: about to do its first step.
        objective: what it minimises.
        batch: of that step.
        precision: picked by the recipe and the hardware.

    Raises:
        TrainingError: the network does not run in the precision that the recipe names.
    """
    if precision == torch.float32:
        return precision
    plain = copied(run.model)
    low_precision.restore_(plain)  # what is cut after a search goes on without the precision of the search
    why = _why_not(plain, objective, batch, run.device, autocast(run.device, precision))
    if why is None:
        return precision
    _step(plain, objective, batch, run.device, nullcontext())  # what does not run at all is told as it is
    if run.recipe.precision == "bf16":
        raise _refused("precision", "bf16", why)
    note = f"training ran in fp32, which is slower: the network does not run in bf16 ({why})"
    run.notes.extend({note} - set(run.notes))  # a run that is resumed may have it already
    return torch.float32


def _refused(name: str, precision: str, why: str) -> TrainingError:
    return TrainingError(f"{name} is {precision!r}: the network does not run in it: {why}.\n  Give `{name}='fp32'`")


def _why_not(
    model: nn.Module, objective: Objective, batch: Batch, device: torch.device, arithmetic: AbstractContextManager[Any]
) -> str | None:
    """Return what a step raises in an arithmetic in the first line of its message; None where it runs.

    Gradients that are finite in float32 alone count as raised: some convolutions give NaN in bf16 (Conv3d on CPUs).
    """
    try:
        finite = _step(model, objective, batch, device, arithmetic)
        if not finite and _step(model, objective, batch, device, nullcontext()):
            return "its gradients are not finite"
    except (RuntimeError, TypeError, TrainingError) as error:
        out_of_memory.pass_on(error)
        return (str(error).splitlines() or [type(error).__name__])[0][:200].rstrip(".")
    return None


def _step(
    model: nn.Module, objective: Objective, batch: Batch, device: torch.device, arithmetic: AbstractContextManager[Any]
) -> bool:
    """Compute loss and gradients on a copy of a network, that no random number is the less for.

    Returns:
        Whether all gradients are finite.
    """
    twin = copied(model).to(device).train()
    inputs, targets = on(device, batch)
    with own_random(device):
        with arithmetic:
            returned = call(twin, objective.asked(inputs, targets))
        value = objective(returned, targets, returned)
        if any(parameter.requires_grad for parameter in twin.parameters()):
            backward(value, twin)
    return all(bool(p.grad.isfinite().all()) for p in twin.parameters() if p.grad is not None)
