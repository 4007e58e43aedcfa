"""The types of a network's numbers: real ones, and complex ones of the same precision."""

import re
from collections.abc import Mapping
from functools import partial
from itertools import chain

import torch
from torch import Tensor, nn

_COMPLEX = {torch.float16: torch.complex32, torch.float64: torch.complex128}  # others: complex64
_NAMED = re.compile(
    r"(?i)\b((?:complex)?(?:bfloat16|float16|float32|float64|half|float|double)|uint8|unsigned char|byte)(?:tensor)?\b"
)
_MET = (
    "Numbers of two types meet there. In a run slimkit computes in float32: where the network's code names another "
    "type, let it ask for that of the weights that follow, as in x.to(self.head.weight.dtype). Elsewhere give inputs "
    "of the type that the first weights have"
)


def dtypes_of(model: nn.Module) -> list[torch.dtype]:
    """Return the types of a network's real numbers, each once, the first parameter's first."""
    tensors = chain(model.parameters(), model.buffers())
    return list(dict.fromkeys(tensor.dtype for tensor in tensors if tensor.is_floating_point()))


def dtype_of(model: nn.Module) -> torch.dtype:
    """Return the type of a network's numbers, of several that of the first, float32 where it has none."""
    return next(iter(dtypes_of(model)), torch.float32)


def differentiable(tensor: Tensor) -> bool:
    """Tell whether a tensor holds numbers that can be trained: real or complex ones, not whole ones."""
    return tensor.is_floating_point() or tensor.is_complex()


def cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return real numbers in a type, complex ones in the complex type of its precision, all others as they are."""
    if not differentiable(tensor):
        return tensor
    return tensor.to(_COMPLEX.get(dtype, torch.complex64) if tensor.is_complex() else dtype)


def taken(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return somebody's tensor on the CPU, as `cast` does, free of gradients, and fit for others to lead from it."""
    tensor = tensor.detach().cpu()
    return cast(tensor.clone() if tensor.is_inference() else tensor, dtype)


def in_precision(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Change the numbers of a network in place, as `cast` does; `model.to(dtype)` loses imaginary parts."""
    changed: nn.Module = model._apply(partial(cast, dtype=dtype))  # type: ignore[no-untyped-call]
    return changed


def in_types_of(model: nn.Module, given: nn.Module) -> nn.Module:
    """Give each tensor of a network the type that the one of its name has in another, in place.

    What the other does not have takes the type of its module there, or of the nearest around it.
    """
    named = chain(given.named_parameters(remove_duplicate=False), given.named_buffers(remove_duplicate=False))
    types = {name: tensor.dtype.to_real() for name, tensor in named if differentiable(tensor)}
    for name, tensor in chain(model.named_parameters(), model.named_buffers()):
        tensor.data = cast(tensor.data, types.get(name) or _nearest(name, types))
    return model


def _nearest(name: str, types: Mapping[str, torch.dtype]) -> torch.dtype:
    while name:
        name = name.rpartition(".")[0]
        inside = f"{name}." if name else ""
        found = next((dtype for other, dtype in types.items() if other.startswith(inside)), None)
        if found is not None:
            return found
    return torch.float32


def advice(error: BaseException, otherwise: str) -> str:
    """Return what to do about a network that raises: where numbers of two types have met, that; else something else.

    Args:
        error: what torch raised; it names both types.
        otherwise: what to do about any other.
    """
    met = len({name.lower() for name in _NAMED.findall(str(error))}) > 1 or "mixed dtype" in str(error)
    return _MET if met else otherwise
