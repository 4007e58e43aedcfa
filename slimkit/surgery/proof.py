"""Evidence that two networks compute the same function.

Relative error of outputs a, b: max|a - b| / std(a), over all outputs; 1e-4 is the bound in float32.
"""

import copy
import io
from collections.abc import Sequence
from contextlib import redirect_stderr
from typing import Any

import torch
from torch import Tensor, nn

from slimkit.channels import Graph
from slimkit.channels.example import Example, call, tensors
from slimkit.errors import ProofError
from slimkit.selection.mask import Mask, apply_
from slimkit.surgery.remove import remove

TOLERANCE = 1e-4


def relative_error(expected: Any, found: Any) -> float:
    """Return the largest max|a - b| / std(a) over the tensors of two outputs.

    It is inf where they differ in form, in a whole number, or hold what is not finite.
    """
    a, b = tensors(expected), tensors(found)
    if len(a) != len(b) or any(x.shape != y.shape for x, y in zip(a, b, strict=True)):
        return float("inf")
    return max((_error(x, y) for x, y in zip(a, b, strict=True)), default=float("inf"))


def _error(x: Tensor, y: Tensor) -> float:
    if x.numel() == 0:
        return 0.0
    if not (x.is_floating_point() or x.is_complex()):
        return 0.0 if torch.equal(x, y) else float("inf")  # counts and indices are right or wrong
    wide = torch.complex128 if x.is_complex() else torch.float64
    x, y = x.detach().to(wide), y.detach().to(wide)
    gap = float((x - y).abs().max())
    if gap == 0:
        return 0.0
    scale = float(x.std() if x.numel() > 1 else x.abs().max())
    return gap / scale if scale > 0 and gap < float("inf") else float("inf")


@torch.no_grad()
def outputs(model: nn.Module, inputs: Sequence[Example]) -> list[Any]:
    """Run a network in eval mode on each input; its mode is left as found."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        return [call(model, example) for example in inputs]
    finally:
        for module, mode in modes.items():
            module.training = mode


def finite(found: Sequence[Any]) -> bool:
    """Tell whether all numbers in outputs are finite."""
    return all(bool(tensor.isfinite().all()) for output in found for tensor in tensors(output))


def compare(expected: Sequence[Any], model: nn.Module, inputs: Sequence[Example]) -> float:
    """Return the largest relative error of a network against expected outputs; inf where it cannot run."""
    try:
        with redirect_stderr(io.StringIO()):  # an fx network prints the code that raised
            found = outputs(model, inputs)
    except Exception:  # a network that cannot run is the strongest disproof there is
        return float("inf")
    return max(relative_error(a, b) for a, b in zip(expected, found, strict=True))


def masked(model: nn.Module, graph: Graph, mask: Mask) -> nn.Module:
    """Return a copy of a network in which the removed units are silent."""
    silent = copy.deepcopy(model)
    apply_(silent, graph, mask)
    return silent


def error_of(model: nn.Module, graph: Graph, mask: Mask, inputs: Sequence[Example]) -> float:
    """Return the relative error of the smaller network against the masked one."""
    reference = outputs(masked(model, graph, mask), inputs)
    return compare(reference, remove(model, graph, mask), inputs)


def failing_groups(
    model: nn.Module, graph: Graph, mask: Mask, inputs: Sequence[Example], tolerance: float = TOLERANCE
) -> list[int]:
    """Find by bisection the groups (by index) whose removal changes the function; none if the mask passes."""
    touched = [i for i, g in enumerate(graph.groups) if not bool(mask.keep[g.members].all())]

    def only(groups: Sequence[int]) -> Mask:
        keep = torch.ones_like(mask.keep)
        for i in groups:
            units = graph.groups[i].members
            keep[units] = mask.keep[units]
        return Mask(keep)

    def search(groups: Sequence[int], known_bad: bool) -> list[int]:
        if not groups or (not known_bad and error_of(model, graph, only(groups), inputs) <= tolerance):
            return []
        if len(groups) == 1:
            return list(groups)
        left, right = groups[: len(groups) // 2], groups[len(groups) // 2 :]
        bad = search(left, False)
        bad += search(right, not bad)
        return bad

    return search(touched, False)


def require(error: float, what: str, tolerance: float = TOLERANCE) -> float:
    """Return the error if it is within tolerance.

    Raises:
        ProofError: it is not; nothing may be written.
    """
    if not error <= tolerance:
        raise ProofError(
            f"{what}: the outputs differ by {error:.2g} of their standard deviation, "
            f"more than {tolerance:.0e}.\n"
            "  Nothing was written. Please report the network: this is what the proof is for."
        )
    return error


def random_inputs(shape: Sequence[int], count: int = 4, seed: int = 0) -> list[Tensor]:
    """Return `count` standard normal inputs of shape (1, *shape), a fixed seed."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(1, *shape, generator=generator) for _ in range(count)]
