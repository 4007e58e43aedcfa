"""An architecture's reference -> a network: fresh, or as a skeleton to be filled with stored tensors."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from slimkit.dtypes import differentiable
from slimkit.errors import ArchitectureError, CheckpointError
from slimkit.models import memory
from slimkit.models.reference import Reference, check_arguments, factory
from slimkit.modules import private, unwarned
from slimkit.quantity import number_of
from slimkit.tasks import heads

_CREATORS = {torch.empty, torch.zeros, torch.ones, torch.rand, torch.randn, torch.full}
_INITIALISERS = frozenset(
    ("normal_", "uniform_", "fill_", "zero_", "mul_", "add_", "sub_", "div_", "clamp_", "erfinv_", "copy_")
)
_NO_COUNT = "num_batches_tracked"
# What factories call the number of classes, and of the image's channels.
CLASSES = ("num_classes", "n_classes", "classes", "out_features")
CHANNELS = ("in_channels", "in_chans", "input_channels")


class _Skeleton(TorchFunctionMode):
    """Make weights on the meta device: no memory, no time for initialisation.

    Unlike `torch.device("meta")` it leaves torch.arange, linspace and tensor alone, from which networks
    compute their structure (RegNet's widths) and constant buffers (Swin's indices).
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        initialises = getattr(func, "__module__", "") == "torch.nn.init"
        if initialises or getattr(func, "__name__", "") in _INITIALISERS:
            target = args[0] if args else kwargs.get("tensor")
            if isinstance(target, Tensor) and target.is_meta:
                return target  # nothing to fill; on meta it would draw random numbers and import for a second
        if func in _CREATORS and kwargs.get("device") is None:
            kwargs = {**kwargs, "device": "meta"}
        return func(*args, **kwargs)


def create(reference: Reference, arguments: Mapping[str, Any]) -> nn.Module:
    """Build a network with fresh weights, in training mode.

    Raises:
        ArchitectureError: the factory refuses the arguments, fails, or builds no network.
    """
    wanted = {**reference.arguments, **arguments}
    check_arguments(reference, wanted)
    build = factory(reference)
    if reference.source == "torchvision":
        wanted = {**_torchvision_defaults(build), **wanted}
    try:
        with unwarned(), memory.watched():
            model = build(**wanted)
    except CheckpointError:  # more than the file may take
        raise
    except (Exception, SystemExit) as error:
        line = (str(error).strip() or "no message").splitlines()[0]
        given = ", ".join(f"{name}={value!r}" for name, value in wanted.items())
        raise ArchitectureError(
            f"`arch={str(reference)!r}`: building it with ({given}) failed with {type(error).__name__}: {line}\n"
            "  Check the arguments that the factory takes."
        ) from error
    if not isinstance(model, nn.Module):
        raise ArchitectureError(
            f"`arch={str(reference)!r}`: built {type(model).__name__}, not a torch.nn.Module.\n"
            "  Name the function or class that returns the network."
        )
    return model


def refuse_empty(model: nn.Module, reference: Reference) -> None:
    """Refuse a fresh network with layers of no channels, as a width of 0 makes: none runs.

    Raises:
        ArchitectureError: it has one.
    """
    for name, parameter in model.named_parameters():
        if not parameter.numel():
            given = ", ".join(f"{key}={value!r}" for key, value in reference.arguments.items())
            raise ArchitectureError(
                f"`arch={str(reference)!r}`: with ({given}) {name} is {list(parameter.shape)}, which is empty.\n"
                "  Give widths and numbers of classes above 0."
            )


def refuse_other_classes(
    model: nn.Module, reference: Reference, classes: int | None, input_shape: tuple[int, ...] | None
) -> None:
    """Refuse a fresh network that returns scores of another number of classes, where its factory cannot be told.

    Raises:
        ArchitectureError: it does.
    """
    if classes is None or input_shape is None or takes(reference, *CLASSES):
        return
    scores = heads(_returned(model, input_shape))[0]  # of what does not run: with the data it is asked again
    if isinstance(scores, Tensor) and scores.dim() > 1 and scores.shape[1] != classes:
        raise ArchitectureError(
            f"`arch={str(reference)!r}`: its factory takes no num_classes, and the network that it builds returns "
            f"{scores.shape[1]} scores, not those of {number_of(classes, 'class')}.\n"
            "  Give the factory a parameter num_classes."
        )


def runs(model: nn.Module, shape: tuple[int, ...]) -> bool:
    """Tell whether a network runs on inputs of a shape, without the batch."""
    return _returned(model, shape) is not None


@torch.no_grad()
def _returned(model: nn.Module, shape: tuple[int, ...]) -> Any:
    try:
        return private(model)(torch.zeros(2, *shape))
    except Exception:  # it takes something else
        return None


def skeleton(reference: Reference, arguments: Mapping[str, Any]) -> nn.Module:
    """Build a network whose weights are on the meta device, where the factory can do so; else for real."""
    try:
        with _Skeleton():
            return create(reference, arguments)
    except ArchitectureError:
        return create(reference, arguments)


def takes(reference: Reference, *names: str) -> str | None:
    """Return the first of these keyword arguments that the factory takes, None where it takes none."""
    if reference.source in ("torchvision", "timm"):
        known = {"torchvision": {"num_classes"}, "timm": {"num_classes", "in_chans"}}[reference.source]
        return next((name for name in names if name in known), None)
    given = _parameters(reference)
    return next((name for name in names if name in given), None)


def stated_classes(arguments: Mapping[str, Any]) -> int | None:
    """Return the number of classes among the arguments of a factory, None where there is none."""
    return next((arguments[name] for name in CLASSES if name in arguments), None)


def arguments_for(reference: Reference, classes: int | None, input_shape: tuple[int, ...] | None) -> dict[str, Any]:
    """Return the arguments of a factory for so many classes, unless its reference states a number, and for images.

    Raises:
        ArchitectureError: another number of channels is stated.
    """
    arguments = dict(reference.arguments)
    own = takes(reference, *CLASSES)
    if classes is not None and own and stated_classes(arguments) is None:
        arguments[own] = classes
    channels = takes(reference, *CHANNELS)
    if input_shape is not None and channels and arguments.setdefault(channels, input_shape[0]) != input_shape[0]:
        raise ArchitectureError(
            f"`arch={str(reference)!r}`: {channels}={arguments[channels]!r} is asked for, and the images have "
            f"{number_of(input_shape[0], 'channel')}.\n"
            f"  Leave {channels} out."
        )
    return arguments


def placeholders(reference: Reference) -> dict[str, Any]:
    """Return arguments for numbers of classes and channels that a factory must be given, to try it out."""
    if reference.source != "code":
        return {}
    given = _parameters(reference)
    return {
        name: number
        for names, number in ((CLASSES, 10), (CHANNELS, 3))
        for name in names
        if name in given and given[name].default is inspect.Parameter.empty
    }


def _parameters(reference: Reference) -> dict[str, inspect.Parameter]:
    try:
        parameters = inspect.signature(factory(reference)).parameters
    except (TypeError, ValueError):
        return {}
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {name: each for name, each in parameters.items() if each.kind not in variadic}


def fill(model: nn.Module, tensors: Mapping[str, Tensor]) -> tuple[list[str], list[str]]:
    """Put tensors in the places of a network's parameters and buffers, whatever their shapes were.

    A parameter that the architecture leaves out (`bias=None`) may be filled, and parameters that the
    architecture shares stay shared.

    Returns:
        Names in `tensors` that the network has no place for, and places that are still on the meta device or
        were filled with fresh values though they belong to the state dict.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    # new parameters by the id of the old one, which is held so that no id is used twice
    made: dict[int, tuple[nn.Parameter | None, nn.Parameter]] = {}
    left = {name for name in model.state_dict() if not name.endswith(_NO_COUNT)}
    unknown: list[str] = []
    for name, tensor in tensors.items():
        path, _, leaf = name.rpartition(".")
        owner = modules.get(path)
        if owner is not None and leaf in owner._parameters:
            old = owner._parameters[leaf]
            if old is None or id(old) not in made:
                trains = differentiable(tensor) and (old is None or old.requires_grad)
                new = nn.Parameter(tensor, requires_grad=trains)
                made[id(new if old is None else old)] = made[id(new)] = (old, new)
            owner._parameters[leaf] = made[id(old)][1] if old is not None else new
        elif owner is not None and leaf in owner._buffers:
            owner._buffers[leaf] = tensor
        else:
            unknown.append(name)
            continue
        left.discard(name)
    for module in modules.values():
        count = module._buffers.get(_NO_COUNT)
        if count is not None and count.is_meta:  # state dicts from before torch 0.4.1 have none
            module._buffers[_NO_COUNT] = torch.zeros_like(count, device="cpu")
    return unknown, sorted(left)


def hollow(model: nn.Module) -> list[str]:
    """Return the names of tensors of a network that are on the meta device: without values."""
    found = []
    for path, module in model.named_modules():
        places = {**vars(module), **module._parameters, **module._buffers}
        found += [
            f"{path}.{name}".lstrip(".")
            for name, value in places.items()
            if isinstance(value, Tensor) and value.is_meta
        ]
    return found


def set_attributes(model: nn.Module, attributes: Mapping[str, Mapping[str, Any]]) -> None:
    """Give modules the plain attributes that surgery, or the user, changed from what the factory sets.

    Only an attribute that exists is set, and only to a value of its own kind: a file smuggles nothing in.

    Raises:
        ArchitectureError: no such module or attribute, or a value of another kind.
    """
    for path, values in attributes.items():
        try:
            module = model.get_submodule(path)
        except AttributeError:
            raise ArchitectureError(f"the architecture has no module {path!r}.\n  {_OTHER}") from None
        for name, value in values.items():
            old = vars(module).get(name, _MISSING)
            if not _same_kind(old, value):
                raise ArchitectureError(
                    f"the attribute {name!r} of {path!r} cannot be {value!r} in this architecture.\n  {_OTHER}"
                )
            setattr(module, name, _as_kind(old, value))


_MISSING = object()
_OTHER = "The file was made with another version of the architecture: use that one."


def is_plain(value: Any) -> bool:
    """Tell whether an attribute's value can be written as JSON and read back."""
    if isinstance(value, list | tuple):
        return all(is_plain(item) for item in value)
    return value is None or type(value) in (bool, int, float, str)


def _same_kind(old: Any, new: Any) -> bool:
    if old is _MISSING or not is_plain(old) or not is_plain(new):
        return False
    if isinstance(old, list | tuple):
        return isinstance(new, list | tuple)
    if isinstance(old, bool) or isinstance(new, bool):
        return old is None or new is None or type(old) is type(new)
    if old is None or new is None:
        return True
    return type(old) is type(new) or (isinstance(old, float) and isinstance(new, int))


def _as_kind(old: Any, new: Any) -> Any:
    if isinstance(old, list | tuple) and isinstance(new, list | tuple):
        items = [_as_kind(before, after) for before, after in zip(old, new, strict=False)]
        items += [_as_kind(old[-1] if old else None, after) for after in new[len(items) :]]
        return tuple(items) if isinstance(old, tuple) else items
    return new


def _torchvision_defaults(build: Any) -> dict[str, Any]:
    """Return the arguments that keep torchvision from fetching weights."""
    names = inspect.signature(build).parameters
    defaults: dict[str, Any] = {name: None for name in ("weights", "weights_backbone") if name in names}
    if build.__name__ in ("googlenet", "inception_v3"):
        defaults["init_weights"] = True
    return defaults
