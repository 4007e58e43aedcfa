"""The first step of training, done on a copy: whether network, loss and precision go together."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from slimkit import out_of_memory
from slimkit.errors import TrainingError
from slimkit.example import call, in_float32, on, tensors
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
        TrainingError: the loss of the task cannot be used, no gradient leads back, or network or loss do not go with a
            precision that is asked for by name.
    """
    device = distributed.local_device(pick_device(objective.recipe.device))
    _step(model, objective, batch, device, nullcontext())
    for name, precision in named.items():
        if precision not in ("auto", "fp32"):
            why = _why_not(model, objective, batch, device, low_precision.arithmetic(precision, device.type))
            if why:
                raise _refused(name, precision, *why)


def that_runs(run: Run, objective: Objective, batch: Batch, precision: torch.dtype) -> torch.dtype:
    """Return the precision, or float32 where a step runs in that alone, as of an FFT: then a note says so, and whose.

    Args:
        run: about to do its first step.
        objective: what it minimises.
        batch: of that step.
        precision: picked by the recipe and the hardware.

    Raises:
        TrainingError: network or loss do not go with the precision that the recipe names.
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
        raise _refused("precision", "bf16", *why)
    whose, error = why
    note = f"training ran in fp32, which is slower: {whose} in bf16 ({error})"
    run.notes.extend({note} - set(run.notes))  # a run that is resumed may have it already
    return torch.float32


def _refused(name: str, precision: str, whose: str, error: str) -> TrainingError:
    return TrainingError(f"{name} is {precision!r}: {whose} in it: {error}.\n  Give `{name}='fp32'`")


def _why_not(
    model: nn.Module, objective: Objective, batch: Batch, device: torch.device, arithmetic: AbstractContextManager[Any]
) -> tuple[str, str] | None:
    """Return whose fault it is that a step fails in an arithmetic, and the first line of what it raises; None: it runs.

    Gradients that are finite in float32 alone count as raised: some convolutions give NaN in bf16 (Conv3d on CPUs).
    """
    try:
        finite = _step(model, objective, batch, device, arithmetic)
        if finite or not _step(model, objective, batch, device, nullcontext()):
            return None
        error = "its gradients are not finite"
    except Exception as raised:  # a network, or a loss, may raise anything
        out_of_memory.pass_on(raised)
        error = (str(raised).splitlines() or [type(raised).__name__])[0][:200].rstrip(".")
    if _loss_fails(model, objective, batch, device, arithmetic):
        return f"the loss of the task {objective.task.name!r} cannot be computed of what the network gives", error
    return "the network does not run", error


def _loss_fails(
    model: nn.Module, objective: Objective, batch: Batch, device: torch.device, arithmetic: AbstractContextManager[Any]
) -> bool:
    """Tell whether a step that fails has outputs, of which the loss cannot be computed or is not finite."""
    twin = copied(model).to(device).train()
    inputs, targets = on(device, batch)
    with own_random(device):
        try:
            with arithmetic:
                returned = in_float32(call(twin, objective.asked(inputs, targets)))
        except Exception:
            return False
        given = [tensor for tensor in tensors(returned) if tensor.requires_grad]
        if not given or any(bool(tensor.isnan().any()) for tensor in given):
            return False
        try:
            value = objective(returned, targets, returned)
            found = torch.autograd.grad(value, given, allow_unused=True)
        except Exception:
            return True
    return not all(bool(one.isfinite().all()) for one in (value, *found) if one is not None)


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
