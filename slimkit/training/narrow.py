"""The precision of training: bf16 by autocast where the hardware has it and the network runs in it."""

from contextlib import AbstractContextManager, nullcontext

import torch

from slimkit.errors import TrainingError
from slimkit.example import Example, call
from slimkit.hardware import own_random
from slimkit.modules import copied
from slimkit.training.run import Run


def autocast(device: torch.device, precision: torch.dtype) -> AbstractContextManager[object]:
    """Let layers compute in a precision; nothing is done for float32."""
    return nullcontext() if precision == torch.float32 else torch.autocast(device.type, precision)


def that_runs(run: Run, precision: torch.dtype, asked: Example) -> torch.dtype:
    """Return the precision, or float32 where the network runs in that alone, as one with an FFT: then a note says so.

    Args:
        run: about to do its first step.
        precision: picked by the recipe and the hardware.
        asked: what the network is called with.

    Raises:
        TrainingError: the network does not run in the precision that the recipe names.
    """
    if precision == torch.float32:
        return precision
    twin = copied(run.model).train()
    with torch.no_grad(), own_random(run.device):
        try:
            with autocast(run.device, precision):
                call(twin, asked)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, TypeError) as error:
            call(twin, asked)  # what does not run at all is told as it is
            why = (str(error).splitlines() or [type(error).__name__])[0][:200].rstrip(".")
        else:
            return precision
    if run.recipe.precision == "bf16":
        raise TrainingError(f"precision is 'bf16': the network does not run in it: {why}.\n  Give `precision='fp32'`")
    note = f"training ran in fp32, which is slower: the network does not run in bf16 ({why})"
    run.notes.extend({note} - set(run.notes))  # a run that is resumed may have it already
    return torch.float32
