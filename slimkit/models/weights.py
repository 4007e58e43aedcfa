"""From what a checkpoint holds to one flat state dict: wrappers, prefixes, dtypes, number checks."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from slimkit.dtypes import differentiable
from slimkit.errors import CheckpointError
from slimkit.models import memory

_WRAPPERS = (
    "state_dict", "model_state_dict", "model_state", "model_dict", "model_weights", "model", "net",
    "net_dict", "net_state_dict", "network", "module", "weights", "params", "student", "backbone",
    "generator",
)  # fmt: skip
# Moving averages (EMA) come before the weights that they are of: training code judges them and hands them out.
_AVERAGES = (
    "ema", "model_ema", "ema_model", "state_dict_ema", "ema_state_dict", "model_ema_state_dict", "params_ema",
    "ema_net", "averaged_model", "swa_model", "shadow",
)  # fmt: skip
_NOT_WEIGHTS = ("optim", "sched", "scaler", "rng", "loop", "callback", "hparam", "hyper", "amp", "history")
_PREFIXES = (
    "module.", "_orig_mod.", "model.", "net.", "network.", "backbone.", "student.", "ema.", "_model.",
)  # fmt: skip
USUAL = frozenset((*_WRAPPERS, *_AVERAGES, *(prefix.removesuffix(".") for prefix in _PREFIXES), "teacher"))
_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")
_SINGLE = (torch.float32, torch.complex64)
_COUNTERS = ("total_ops", "total_params")  # buffers that thop leaves in every module
_ANYWHERE = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")


def unwrap(loaded: Any, where: str, depth: int = 6) -> tuple[Mapping[str, Any] | nn.Module, tuple[str, ...]]:
    """Find the state dict, or the module, inside what a file holds; say which key was chosen.

    Where a file holds weights and their moving average (EMA), the average is taken, as timm and Ultralytics do; what it
    lacks, as the statistics of BatchNorm, is that of the weights. Where it is of other names, or tensors beside a
    module, the weights are taken.

    Args:
        loaded: what the file holds.
        where: its name, for messages.
        depth: so many wrappers at most.

    Raises:
        CheckpointError: there is none.
    """
    said: list[str] = []
    for left in reversed(range(depth)):
        if isinstance(loaded, nn.Module):
            return loaded, tuple(said)
        if not isinstance(loaded, Mapping):
            raise CheckpointError(
                f"{where}: holds {_a(type(loaded).__name__)}, not the weights of a network.\n"
                "  Save them as torch.save(model.state_dict(), PATH)"
            )
        inside = [key for key, value in loaded.items() if _holds_weights(key, value)]
        average = next((key for key in _AVERAGES if key in inside), None)
        plain = next((key for key in _WRAPPERS if key in inside), None)
        if average is not None and plain is not None:
            return _averaged(loaded, plain, average, where, left, said)
        chosen = average or plain
        if len(inside) > 1 and chosen is not None:
            said.append(f"of {', '.join(map(repr, inside))} in the file, {chosen!r} was taken")
        said += [
            f"{key!r} in the file is a moving average without names (shadow_params), which was not taken: to have it, "
            "copy_to(model.parameters()) before the weights are saved"
            for key, value in loaded.items()
            if key == "shadow_params" or (isinstance(value, Mapping) and isinstance(value.get("shadow_params"), list))
        ]
        if chosen is None and not any(_is_array(value) for value in loaded.values()):
            if len(inside) != 1:
                found = f"several that could be ({', '.join(map(str, inside))})" if inside else "none"
                raise CheckpointError(
                    f"{where}: looked for the weights of one network and found {found} among its keys "
                    f"{', '.join(map(str, list(loaded)[:8])) or '(none)'}.\n"
                    "  Save the state dict alone: torch.save(checkpoint[KEY], PATH)"
                )
            chosen = inside[0]
        if chosen is None:
            return loaded, tuple(said)
        if chosen in _AVERAGES:
            said.append(f"the weights are those under {chosen!r}, a moving average")
        loaded = loaded[chosen]
    raise CheckpointError(f"{where}: wrapped more than six times.\n  Save the state dict alone.")


def _averaged(
    loaded: Mapping[Any, Any], plain: str, average: str, where: str, depth: int, said: Sequence[str]
) -> tuple[Mapping[str, Any] | nn.Module, tuple[str, ...]]:
    """Return the moving average under one key of a file, completed by the weights under another; see `unwrap`."""
    weights, smooth = (unwrap(loaded[key], where, depth) for key in (plain, average))
    chosen, why = smooth, f"the moving average, {average!r}, was taken, by which training code judges a network"
    if isinstance(weights[0], Mapping) and isinstance(smooth[0], Mapping):
        whole, part = (_barest(of) for of in (weights[0], smooth[0]))
        if part.keys() < whole.keys():
            chosen, why = ({**whole, **part}, smooth[1]), f"{why}; what it lacks is that of {plain!r}"
        elif not part.keys() >= whole.keys():
            chosen, why = weights, f"{plain!r} was taken: {average!r} is not of the same tensors"
    elif isinstance(smooth[0], Mapping):
        chosen, why = weights, f"{plain!r} was taken: it is a module, which tensors alone do not make"
    return chosen[0], (*said, f"of {plain!r} and {average!r} in the file, {why}", *chosen[1])


def _barest(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arrays of a state dict by their names without prefixes."""
    *_, last = readings({str(name): value for name, value in state.items() if _is_array(value)})
    return last


def flatten(state: Mapping[str, Any], where: str) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Turn a state dict as found into CPU tensors by name; say what was changed, and what `load` will change.

    Raises:
        CheckpointError: quantised or sparse weights, or names that are no strings.
    """
    memory.check_tensors(state.values())
    tensors: dict[str, Tensor] = {}
    others: set[str] = set()
    counters = 0
    for name, value in state.items():
        if not _is_array(value):
            continue  # counters, settings, extra state
        if isinstance(name, str) and name.rpartition(".")[2] in _COUNTERS and math.prod(value.shape) == 1:
            counters += 1
            continue
        if not isinstance(name, str):
            raise CheckpointError(f"{where}: its keys are no names of tensors ({name!r}).\n  Save model.state_dict().")
        tensor = value.detach() if isinstance(value, Tensor) else torch.as_tensor(np.array(value))
        _check_there(name, tensor, where)
        if tensor.is_quantized or name.endswith(("_packed_params._packed_params", "zero_point")):
            raise CheckpointError(
                f"{where}: {name!r} is quantised; channels can only be removed from a floating-point "
                "network.\n"
                "  Give the checkpoint from before quantisation."
            )
        if tensor.layout != torch.strided:
            raise CheckpointError(f"{where}: {name!r} is a sparse tensor.\n  Save it dense: tensor.to_dense().")
        if differentiable(tensor) and tensor.dtype not in _SINGLE:
            others.add(str(tensor.dtype).removeprefix("torch."))
        tensors[name] = tensor.cpu()
    said = [f"weights converted from {', '.join(sorted(others))} to single precision"] if others else []
    if counters:
        said.append(f"{counters} counters of thop (total_ops, total_params) beside the weights are ignored")
    return _without_masks(tensors, said), tuple(said)


def readings(tensors: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Yield the state dict as its names may be meant: as it is, then with wrappers' prefixes taken off."""
    current = dict(tensors)
    while current:
        yield current
        tidy = {modern(name): tensor for name, tensor in current.items()}
        if tidy.keys() != current.keys():
            current = tidy
            continue
        prefix = next((p for p in _PREFIXES if all(name.startswith(p) for name in tidy)), None)
        if prefix is None:  # training code puts losses, metrics and counters beside the network
            for candidate in _PREFIXES:
                part = [name for name in tidy if name.startswith(candidate)]
                if 2 * len(part) > len(tidy):
                    tidy = {name: tidy[name] for name in part}
                    prefix = candidate
                    break
        if prefix is None:
            return
        current = {name.removeprefix(prefix): tensor for name, tensor in tidy.items()}


def modern(name: str) -> str:
    """Undo what wrappers put inside a name, and torchvision's renamings since its first weights."""
    for part in _ANYWHERE:
        name = name.replace(part, "")
    return _OLD_DENSENET.sub(r"\1\2", name)


def of_network(
    tensors: dict[str, Tensor], wanted: Mapping[str, Sequence[int]]
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Leave out what an architecture has no place for, where all that it has one for is there; say what."""
    beside = [name for name in tensors if name not in wanted and not name.endswith("num_batches_tracked")]
    if not beside or not wanted.keys() <= tensors.keys():
        return tensors, ()
    few = f"{', '.join(beside[:3])}{f' and {len(beside) - 3} more' if len(beside) > 3 else ''}"
    kept = {name: tensor for name, tensor in tensors.items() if name not in beside}
    return kept, (f"the architecture has no place for {few} in the file: ignored",)


def check_values(model: nn.Module, where: str) -> None:
    """Refuse weights or statistics that are NaN, infinite, whole numbers or not there at all, naming the tensor.

    Raises:
        CheckpointError: at least one is.
    """
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        _check_there(name, tensor, where)
        if isinstance(tensor, nn.Parameter) and not differentiable(tensor):
            raise CheckpointError(
                f"{where}: the weights {name!r} are {str(tensor.dtype).removeprefix('torch.')}; channels can only be "
                "removed from a floating-point network.\n  Give the checkpoint from before quantisation."
            )
    for name, tensor in model.state_dict().items():
        if isinstance(tensor, Tensor) and differentiable(tensor) and not torch.isfinite(tensor).all():
            bad = ~torch.isfinite(tensor)
            what = "NaN" if torch.isnan(tensor).any() else "infinite"
            raise CheckpointError(
                f"{where}: {int(bad.sum())} of {tensor.numel()} values of {name!r} are {what}: the network's "
                "outputs mean nothing.\n  Give a checkpoint from before training went astray."
            )


def _check_there(name: str, tensor: Tensor, where: str) -> None:
    if tensor.is_meta:
        raise CheckpointError(
            f"{where}: {name!r} has no values: it was saved on the meta device.\n  Give a checkpoint with weights."
        )


def _holds_weights(key: Any, value: Any) -> bool:
    if any(word in str(key).lower() for word in _NOT_WEIGHTS):
        return False
    if isinstance(value, Mapping):
        return any(_is_array(inner) or _holds_weights(name, inner) for name, inner in value.items())
    return isinstance(value, nn.Module)


def _is_array(value: Any) -> bool:
    return isinstance(value, Tensor) or (isinstance(value, np.ndarray) and value.dtype.kind in "fiubc")


def _without_masks(tensors: dict[str, Tensor], said: list[str]) -> dict[str, Tensor]:
    """Multiply out the masks of torch.nn.utils.prune (`weight_orig` * `weight_mask`)."""
    masked = [
        name.removesuffix("_orig")
        for name in tensors
        if name.endswith("_orig") and _same_shape(tensors, name, f"{name.removesuffix('_orig')}_mask")
    ]
    if not masked:
        return tensors
    said.append(f"masks of torch.nn.utils.prune multiplied into {len(masked)} tensors")
    merged = {name: tensors[f"{name}_orig"] * tensors[f"{name}_mask"] for name in masked}
    gone = {f"{name}{end}" for name in masked for end in ("_orig", "_mask")}
    return {**{name: tensor for name, tensor in tensors.items() if name not in gone}, **merged}


def _same_shape(tensors: Mapping[str, Tensor], one: str, other: str) -> bool:
    return other in tensors and tensors[one].shape == tensors[other].shape


def _a(noun: str) -> str:
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"
