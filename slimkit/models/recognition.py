"""Where a live network comes from: the reference by which its file can rebuild it."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from types import MethodType
from typing import Any

from torch import nn

from slimkit.errors import ArchitectureError, EngineError
from slimkit.models import building, defaults, detector_builders, edits, signatures
from slimkit.models.detectors import Heads, known, thawed
from slimkit.models.reference import EXPORTED, Reference, parse
from slimkit.provenance import GUESSED, Provenance, Use

# Reference, factory's arguments, number of classes, attributes.
_Candidate = tuple[Reference, dict[str, Any], int | None, dict[str, dict[str, Any]]]
_PUBLIC = ("torchvision", "zoo", "timm")


def recognise(model: nn.Module) -> Provenance | None:
    """Find the torchvision, zoo or timm architecture that builds this network; None where none does.

    The factory's network must agree in every tensor's name and shape, every module's class and every module's
    functions; numbers, flags and words that differ (a dropout rate, `transform_input`) are
    recorded in the provenance. Read only; a network that was narrowed is not recognised.
    """
    if isinstance(model, Heads):
        return _detector(model)
    for candidate in (_by_tensors(model), _by_timm(model)):  # timm's ResNets have the tensors of torchvision's
        found = _confirmed(model, candidate) if candidate else None
        if found is not None:
            return found
    return None


def current(model: nn.Module, known: Provenance) -> Provenance | None:
    """Return what builds a network that may have been changed since that was noted; None where it is no more known.

    Numbers, flags and words that were changed are noted; a layer or a function of another kind cannot be. Whether a
    detector or one of the user's own factories still builds it is not asked.

    Args:
        known: names what built it.
    """
    if known.arch is None or known.arch == EXPORTED or isinstance(model, Heads):
        return known
    reference = parse(known.arch)
    if reference.source not in _PUBLIC:
        return known
    try:
        changed = _changed(model, _rebuilt(reference, known))
        if not changed:
            return None if changed is None else known
        noted = replace(known, attributes=_merged(known.attributes, changed))
        return noted if _changed(model, _rebuilt(reference, noted)) == {} else None
    except ArchitectureError:  # what was noted builds nothing
        return None


def _rebuilt(reference: Reference, known: Provenance) -> nn.Module:
    twin = building.skeleton(reference, known.arguments)
    building.set_attributes(twin, known.attributes)
    edits.replay_(twin, known.edits)
    return twin


def _detector(heads: Heads) -> Provenance | None:
    """Find what builds a detector; of several that differ in numbers alone, as image sizes, the nearest."""
    net = thawed(heads.net)
    found = [fit for each in detector_builders.candidates(net) if (fit := _confirmed(net, each))]
    if not found:
        return None
    best = min(found, key=lambda fit: sum(map(len, fit.attributes.values())))
    attributes = {f"net.{path}".rstrip("."): values for path, values in best.attributes.items()}
    return known(replace(best, attributes=attributes, input_shape=None), heads)


def _confirmed(model: nn.Module, candidate: _Candidate) -> Provenance | None:
    """Describe the network by a candidate if its twin is the same but for plain attributes."""
    reference, arguments, classes, attributes = candidate
    try:
        twin = building.skeleton(reference, arguments)
        building.set_attributes(twin, attributes)
    except ArchitectureError:
        return None
    changed = _changed(model, twin)
    if changed is None:
        return None
    try:
        building.set_attributes(twin, changed)  # as reading the file will
    except ArchitectureError:
        return None
    shape, _ = defaults.input_shape(reference, model)
    return Provenance(
        arch=str(reference),
        arguments=arguments,
        input_shape=shape,
        classes=classes,
        normalisation=defaults.normalisation(reference, model, shape[0]) if shape else None,
        use=Use(crop=defaults.crop(reference, model)),
        guessed=GUESSED,
        attributes=_merged(attributes, changed),
    )


def _by_tensors(model: nn.Module) -> _Candidate | None:
    given = signatures.shapes_of(model.state_dict())
    fits = [fit for entry in signatures.index() if (fit := signatures.match(given, entry))]
    if len(fits) != 1:
        return None
    return fits[0].reference, fits[0].arguments, fits[0].classes, fits[0].attributes


def _by_timm(model: nn.Module) -> _Candidate | None:
    configured = getattr(model, "pretrained_cfg", None)
    name = configured.get("architecture") if isinstance(configured, dict) else None
    if not isinstance(name, str):
        return None
    first = signatures.first_convolution(model)
    arguments: dict[str, Any] = {}
    classes = getattr(model, "num_classes", None)
    if isinstance(classes, int):
        arguments["num_classes"] = classes
    if first and first[1].in_channels != 3:
        arguments["in_chans"] = first[1].in_channels
    try:
        reference = parse(f"timm:{name}")
        twin = building.skeleton(reference, arguments)
    except (ArchitectureError, EngineError):
        return None
    if signatures.shapes_of(twin.state_dict()) != signatures.shapes_of(model.state_dict()):
        return None
    return reference, arguments, arguments.get("num_classes") or None, {}  # 0: no classifier


def _changed(model: nn.Module, twin: nn.Module) -> dict[str, dict[str, Any]] | None:
    """Return the plain attributes in which a network differs from its twin, None where more differs."""
    mine = dict(model.named_modules(remove_duplicate=False))
    its = dict(twin.named_modules(remove_duplicate=False))
    if mine.keys() != its.keys():
        return None
    changed: dict[str, dict[str, Any]] = {}
    for path, module in mine.items():
        other = its[path]
        if type(module) is not type(other) or module._buffers.keys() != other._buffers.keys():
            return None
        before, after = _plain(other), _plain(module)
        if before.keys() != after.keys() or _functions(other) != _functions(module):
            return None
        different = {name: after[name] for name in after if after[name] != before[name]}
        if different:
            changed[path] = different
    return changed


def _plain(module: nn.Module) -> dict[str, Any]:
    """Return a module's attributes that can be stored as data."""
    return {
        name: value
        for name, value in vars(module).items()
        if building.is_plain(value) and name != "training" and not name.startswith("_")
    }


def _functions(module: nn.Module) -> dict[str, Any]:
    """Return what a module can call, an activation or a `forward` of its own for example: they must be the same.

    Classes of layers, bound to arguments or not, are left out: they have built the network, and from a pickle that was
    not run they come as data.
    """
    called = {name: value for name, value in vars(module).items() if callable(value) and not _builds(value)}
    return {name: _function(value, module) for name, value in called.items()}


def _builds(value: Any) -> bool:
    function = value.func if isinstance(value, partial) else value
    return isinstance(function, type) and issubclass(function, nn.Module)


def _function(value: Any, module: nn.Module) -> Any:
    """Return what of a function is the same in a twin of the module that holds it."""
    if isinstance(value, MethodType):
        return value.__func__, value.__self__ is module or type(value.__self__)
    if isinstance(value, partial):
        return _function(value.func, module), value.args, value.keywords
    return value if hasattr(value, "__qualname__") else type(value)


def _merged(
    first: Mapping[str, Mapping[str, Any]], second: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    return {path: {**first.get(path, {}), **second.get(path, {})} for path in {**first, **second}}
