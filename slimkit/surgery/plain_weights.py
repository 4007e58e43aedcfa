"""Weights that layers compute, stored: what standardisation, weight and spectral norms, parametrisations make of them.

Weight standardisation (Qiao et al. 2019, arXiv:1903.10520; scaled, Brock et al. 2021, arXiv:2101.08692) makes every
weight depend on all that its channel reads, so that no channel can go. In evaluation it is the same at every call: a
plain layer that stores it computes the same, and can be cut.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from slimkit import channels, provenance
from slimkit.example import Example, call
from slimkit.hardware import seeded
from slimkit.models.plain_layers import SameConv2d, build
from slimkit.modules import copied, heard, private, unwrapped
from slimkit.provenance import Replaced
from slimkit.surgery.evidence import differ
from slimkit.surgery.factorise import replace_module
from slimkit.surgery.trials import Trial, trials

Said = dict[str, Any]  # as `plain_layers.build` takes it
_NOISE = 0.1  # added to parameters


def plain_weights(model: nn.Module, example_input: Example) -> nn.Module:
    """Return a copy whose layers store the weights that they computed from others, so that channels can be removed.

    A layer is replaced by torch's own (or a convolution with TensorFlow's padding) if the two compute the same on what
    it gets in this network and on inputs of several kinds and sizes; the others are left. So is a weight that depends
    on the input, and one that tracing follows, as a masked one. The copy computes the same in evaluation mode; trained
    on, it trains the stored weights: nothing standardises or normalises them any more.

    Args:
        model: untouched. Its provenance says, in the copy's, what was replaced, so that a slim file can be read.
        example_input: what it is called with, as for `slimkit.trace`.

    Raises:
        TraceError: as `slimkit.trace`.
    """
    model = unwrapped(model)
    twin = private(model)
    inputs = _inputs(twin, channels.trace(model, example_input).computed, example_input)
    plain = copied(model)
    said: dict[str, Said] = {}
    for path, given in inputs.items():
        old, found = model.get_submodule(path), _plain(twin.get_submodule(path), given)
        if found is None:
            continue
        arguments, layer = found
        for name in [name for name, module in model.named_modules(remove_duplicate=False) if module is old]:
            replace_module(plain, name, layer.train(old.training))
            said[name] = arguments
    if not said or differ(model, plain, [Trial("as given", example_input)]):  # something else reads what was replaced
        return copied(model)
    known = provenance.of(model)
    provenance.attach(plain, replace(known, edits=(*known.edits, Replaced(layers=said))))
    return plain


def replaced(model: nn.Module) -> list[str]:
    """Return the paths of layers that `plain_weights` put in the place of others, each once."""
    paths = {path for edit in provenance.of(model).edits if isinstance(edit, Replaced) for path in edit.layers}
    return [path for path, _ in model.named_modules() if path in paths]


def _inputs(model: nn.Module, paths: Iterable[str], example: Example) -> dict[str, Tensor]:
    """Return what modules are first called with, where that is one tensor; the network itself is none of them."""
    found: dict[str, Tensor] = {}
    wanted = {model.get_submodule(path): path for path in paths if path}

    def note(module: nn.Module, given: Tensor, _: Any) -> None:
        found.setdefault(wanted[module], given.clone())

    with torch.no_grad(), seeded(0), heard(wanted, note, before=True, alone=True):
        call(model, example)
    return found


def _plain(module: nn.Module, given: Tensor) -> tuple[Said, nn.Module] | None:
    """Return a layer that stores the weight that a module computes, and how it is built; None where none does.

    Whether it does is asked of other values of what the weight is computed from, so that a gain of 0 hides nothing.
    """
    if hasattr(module, "weight_fake_quant"):  # for training with it
        return None
    other = copied(module)
    with torch.no_grad(), seeded(0):
        for parameter in other.parameters():
            parameter.add_(_NOISE * torch.randn_like(parameter))
    pairs = zip(_candidates(module, given), _candidates(other, given), strict=True)
    return next((found for found, (_, like) in pairs if not differ(other, like, trials(given))), None)


def _candidates(module: nn.Module, given: Tensor) -> Iterator[tuple[Said, nn.Module]]:
    """Give what may do what a module does that makes one call: that call, or with the padding that came before it."""
    with torch.no_grad(), _Calls() as calls:
        module(given)
    if len(calls.found) != 1:
        return
    ((said, weight, bias),) = calls.found
    ways = [said]
    if (mode := getattr(module, "padding_mode", "zeros")) != "zeros":
        ways.append({**said, "padding": module.padding, "padding_mode": mode})
    if said["kind"] == nn.Conv2d.__name__:
        ways.append({**said, "kind": SameConv2d.__name__})
    trains = any(parameter.requires_grad for parameter in module.parameters())
    for way in ways:
        layer = build(way)
        layer.register_parameter("weight", nn.Parameter(weight.detach().clone(), trains))
        if bias is not None:
            layer.register_parameter("bias", nn.Parameter(bias.detach().clone(), trains))
        yield way, layer


class _Calls(TorchFunctionMode):
    """Notes the layers that are called as functions: how torch's own one is built, its weight and its bias."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[Said, Tensor, Tensor | None]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if func in _CALLS:
            kind, arguments = _CALLS[func]
            said, weight, bias = arguments(*args, **kwargs)
            self.found.append(({"kind": kind.__name__, **said, "bias": bias is not None}, weight, bias))
        return func(*args, **kwargs)


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> tuple[Said, Tensor, Tensor | None]:
    return {"in_features": weight.shape[1], "out_features": weight.shape[0]}, weight, bias


def _convolution(
    input: Tensor, weight: Tensor, bias: Tensor | None = None,
    stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1,
) -> tuple[Said, Tensor, Tensor | None]:  # fmt: skip
    outputs, inputs, *sizes = weight.shape
    said = {"in_channels": inputs * groups, "out_channels": outputs, "kernel_size": sizes}
    return {**said, "stride": stride, "padding": padding, "dilation": dilation, "groups": groups}, weight, bias


def _transposed(
    input: Tensor, weight: Tensor, bias: Tensor | None = None,
    stride: Any = 1, padding: Any = 0, output_padding: Any = 0, groups: int = 1, dilation: Any = 1,
) -> tuple[Said, Tensor, Tensor | None]:  # fmt: skip
    said, _, _ = _convolution(input, weight.transpose(0, 1), bias, stride, padding, dilation)
    sizes = {"in_channels": weight.shape[0], "out_channels": weight.shape[1] * groups}
    return {**said, **sizes, "output_padding": output_padding, "groups": groups}, weight, bias


_CALLS: dict[Any, tuple[type[nn.Module], Callable[..., tuple[Said, Tensor, Tensor | None]]]] = {
    F.linear: (nn.Linear, _linear),
    F.conv1d: (nn.Conv1d, _convolution),
    F.conv2d: (nn.Conv2d, _convolution),
    F.conv3d: (nn.Conv3d, _convolution),
    F.conv_transpose1d: (nn.ConvTranspose1d, _transposed),
    F.conv_transpose2d: (nn.ConvTranspose2d, _transposed),
    F.conv_transpose3d: (nn.ConvTranspose3d, _transposed),
}
