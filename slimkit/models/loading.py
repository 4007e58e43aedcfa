"""Checkpoint -> network: which kind of file, which architecture, what had to be assumed."""

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy

from slimkit import provenance as provenances
from slimkit.dtypes import in_precision
from slimkit.errors import ArchitectureError, SlimkitError
from slimkit.models import (
    building,
    defaults,
    detector_builders,
    detectors,
    exported,
    exported_graph,
    files,
    memory,
    metadata,
    pickles,
    signatures,
    slim_file,
    subtrees,
    ultralytics,
    weights,
)
from slimkit.models.network import Network
from slimkit.models.recognition import current, recognise
from slimkit.models.reference import EXPORTED, Reference, parse
from slimkit.models.signatures import Match
from slimkit.modules import copied, keeps_more, state_tensors, unwrapped
from slimkit.provenance import Provenance, Use
from slimkit.quantity import number_of
from slimkit.usage import INPUT


def load(
    path: str | Path, arch: str | None = None, trust_pickle: bool = False, max_memory: int | str | None = None
) -> Network:
    """Load a network from any kind of checkpoint, without running code from the file.

    State dicts (bare, wrapped, prefixed), pickled torchvision and timm modules, Ultralytics checkpoints, exported
    programs and slimkit's own files, told apart by their content.

    Args:
        path: the checkpoint.
        arch: how to build the network, where the file does not tell; see `reference.parse`.
        trust_pickle: let a pickle run the code it names.
        max_memory: bytes that the file may take, or an amount such as "16GiB"; None: eight times its size, at least
            2 GiB. A file that asks for more, as by a huge layer, is refused before anything is allocated.

    Raises:
        CheckpointError: missing, damaged, unsafe, too large, of a kind without trainable weights, or with NaN in them.
        ArchitectureError: no architecture, or several, fit the weights.
        EngineError: timm is asked for and not installed.
    """
    path = Path(path)
    with memory.limited(path, max_memory):
        kind = files.kind(path)
        if kind is files.Kind.EXPORTED:
            network = _from_exported(path, arch)
        elif kind is files.Kind.SAFETENSORS:
            network = _from_safetensors(path, arch)
        else:
            network = _from_torch(path, arch, trust_pickle)
        weights.check_values(network.model, str(path))
        _check_image(network)
    return dataclasses.replace(network, file=f"PATH/TO/{path.name}" if path.is_absolute() else str(path))


def _check_image(network: Network) -> None:
    """Refuse an image that is too large for the memory; a state dict's is the usual one of its architecture."""
    known = provenances.of(network.model)
    shape = known.input_shape
    if network.source == "state dict" or not (shape or known.inputs):
        return
    told = network.source == "slim file" and known.arch != EXPORTED
    if known.inputs or not (told and memory.surely_fits(network.model, shape or ())):
        memory.check_run(network.model, known.inputs or {INPUT: (shape or (), "float32")})


def build(arch: str, classes: int | None = None, input_shape: tuple[int, ...] | None = None) -> Network:
    """Build a network with fresh weights.

    Args:
        arch: see `reference.parse`.
        classes: number of classes, unless `arch` states one; the factory's own where None.
        input_shape: shape (C, H, W) of one image; the architecture's usual one where None.

    Raises:
        ArchitectureError: unknown, or it cannot be made for, or states otherwise, this number of classes or channels.
        EngineError: timm is asked for and not installed.
    """
    reference = parse(arch)
    arguments = building.arguments_for(reference, classes, input_shape)
    model = building.create(reference, arguments)
    building.refuse_empty(model, reference)
    told = building.takes(reference, *building.CHANNELS)
    attributes = _set_channels(model, input_shape, arch) if input_shape and not told else {}
    said = tuple(f"{path} was made anew for images of {input_shape[0]} channels" for path in attributes if input_shape)
    match = Match(reference, arguments, building.stated_classes(arguments), attributes)
    network = _network(model, match, "fresh", said, input_shape)
    building.refuse_other_classes(model, reference, classes, provenances.of(network.model).input_shape)
    return network


def as_network(model: nn.Module, input_shape: tuple[int, ...] | None = None) -> Network:
    """Take a network that is already in memory; the model is copied, not changed.

    Args:
        model: any network, also within `torch.compile`, DataParallel, DistributedDataParallel or AveragedModel; one
            from slimkit, torchvision, the zoo or timm is saved by name, one of Ultralytics as its checkpoint, any other
            one as an exported program. A detector of torchvision becomes its `Heads`.
        input_shape: shape (C, H, W) of one image; the architecture's usual one where None.

    Raises:
        ArchitectureError: it is no module, or TorchScript, which hides its code.
    """
    model = unwrapped(model)
    if isinstance(model, torch.jit.ScriptModule):
        raise ArchitectureError(
            "model is TorchScript, whose layers cannot be changed any more.\n"
            "  Give the Python module that it was made from"
        )
    unmade = [path for path, value in (*model.named_parameters(), *model.named_buffers()) if is_lazy(value)]
    if unmade:
        raise ArchitectureError(
            f"model has weights without a shape yet (in {unmade[0]!r}): it was never run.\n"
            "  Call it once on an input, then give it"
        )
    known = provenances.of(model)
    model = in_precision(copied(model).cpu(), torch.float32).eval()
    if ultralytics.is_network(model):
        network = ultralytics.as_maps(model)
        model, known = network.model, provenances.of(network.model)
    else:
        model = detectors.seen(model)
        nothing = dataclasses.replace(known, arch=None, arguments={}, attributes={}, edits=())
        # changed by hand since it was made, or keeping what no slim file has a place for
        known = (None if keeps_more(model) else current(model, known)) or nothing
        if known.arch is None:
            found = None if keeps_more(model) else recognise(model)
            known = provenances.kept(known, found or _unnamed(model))
        if isinstance(model, detectors.Heads):
            known = detectors.known(known, model)
    if input_shape is not None:
        known = dataclasses.replace(known, input_shape=tuple(input_shape))
    provenances.attach(model, known)
    return Network(model, "module", ())


def _from_safetensors(path: Path, arch: str | None) -> Network:
    tensors, text = slim_file.read_safetensors(path)
    if text is None:
        return _from_state(tensors, path, arch, ())
    made = metadata.read(text, tensors, path)
    model = slim_file.rebuild(tensors, made, path, arch)
    return Network(in_precision(model, torch.float32).eval(), "slim file", ())


def _from_torch(path: Path, arch: str | None, trust_pickle: bool) -> Network:
    raw = pickles.read(path, trust_pickle)
    if arch is None and (found := ultralytics.from_checkpoint(raw, path)) is not None:
        return found
    loaded, said = weights.unwrap(raw, str(path))
    if not isinstance(loaded, nn.Module):
        return _from_state(loaded, path, arch, said, _stated(raw))
    try:
        model = unwrapped(loaded)
        memory.check_tensors((*model.parameters(), *model.buffers()))
        if arch is not None:
            return _from_state(model.state_dict(), path, arch, said)
        weights.check_values(model, str(path))
        model = detectors.seen(in_precision(model, torch.float32).eval())
        known = recognise(model)
        unnamed = _unnamed(model) if known is None else None
    except SlimkitError:
        raise
    except Exception as error:  # a module of the file may lack anything
        if trust_pickle:
            raise
        raise files.damaged(path, f"{type(error).__name__}: {error}") from None
    if known is not None:
        provenances.attach(model, known)
        reference = parse(known.arch or "")
        return Network(model, "pickled module", (*said, *_assumed(reference, model)), _guess(reference, model))
    assert unnamed is not None
    provenances.attach(model, unnamed)
    note = (
        f"no known factory builds this {type(model).__name__}, so the slim network is saved as an exported "
        "program (.pt2)"
    )
    return Network(model, "pickled module", (*said, note, *_assumed(None, model)), _guess(None, model))


def _from_exported(path: Path, arch: str | None) -> Network:
    if arch is not None:
        raise ArchitectureError(
            f"{path}: is an exported program, which brings its own architecture; `arch={arch!r}` does not apply.\n"
            "  Leave `arch` out, or give a state dict."
        )
    model, text = exported.read(path)
    if text is not None:
        provenances.attach(model, metadata.read(text, {}, path, state_tensors(model)).provenance())
        return Network(in_precision(model, torch.float32).eval(), "slim file", ())
    shape, classes = exported_graph.image_shape(model), exported_graph.classes(model)
    provenances.attach(model, Provenance(arch=EXPORTED, input_shape=shape, classes=classes))
    said = ("which normalisation the images had is not known: an exported program does not tell",)
    return Network(in_precision(model, torch.float32).eval(), "exported program", said)


def _from_state(state: Any, path: Path, arch: str | None, said: tuple[str, ...], stated: str | None = None) -> Network:
    """Build the architecture of a state dict around its tensors.

    It is named by `arch`, else found by the tensors, else it is what the file itself states, if that fits.
    """
    tensors, changed = weights.flatten(state, str(path))
    tensors, taken = subtrees.chosen(tensors, arch, str(path))
    readings = list(weights.readings(tensors))
    if arch is None:
        try:
            fit, tensors = _identified(readings, path)
        except ArchitectureError:
            for name in (stated, f"timm:{stated}") if stated else ():
                with contextlib.suppress(SlimkitError):
                    return _from_state(state, path, name, (*said, f"the file says that it is {stated}"))
            raise
    else:
        reference = parse(arch)
        tensors = _like(readings, reference)
        fit = _fitted(reference, tensors)
    model = building.skeleton(fit.reference, fit.arguments)
    building.set_attributes(model, fit.attributes)
    wanted = signatures.shapes_of(model.state_dict())
    for module_path, values in fit.attributes.items():
        stem = f"{module_path}.weight"
        wanted[stem] = (wanted[stem][0], values["in_channels"], *wanted[stem][2:])
    tensors, beside = weights.of_network(tensors, wanted)
    if (given := signatures.shapes_of(tensors)) != wanted:
        raise ArchitectureError(
            f"{path}: the weights do not fit `arch={arch!r}`: "
            f"{signatures.describe(given, wanted, str(fit.reference))}.\n{_advice(readings, path)}"
        )
    building.fill(model, tensors)
    if building.hollow(model):
        model = building.create(fit.reference, fit.arguments)  # it computes tensors that are in no state dict
        building.set_attributes(model, fit.attributes)
        building.fill(model, tensors)
    if detectors.is_detector(model):
        model = detectors.frozen(model)
    return _network(model, fit, "state dict", (*said, *changed, *taken, *beside))


def _stated(raw: Any) -> str | None:
    """Return the name of the architecture that training scripts write beside the weights."""
    named = [raw.get(key) for key in ("arch", "model_name", "architecture")] if isinstance(raw, dict) else []
    name = next((each for each in named if isinstance(each, str)), None)
    return name if name and name.replace("_", "").replace(".", "").isalnum() else None  # never code


def _network(
    model: nn.Module, fit: Match, source: str, said: tuple[str, ...], input_shape: tuple[int, ...] | None = None
) -> Network:
    """Put together a network and what is known of it; what was assumed is said, but of fresh weights."""
    model = detectors.seen(in_precision(model, torch.float32).eval())
    shape = input_shape or defaults.input_shape(fit.reference, model)[0]
    known = Provenance(
        arch=str(fit.reference),
        arguments=fit.arguments,
        input_shape=shape,
        classes=fit.classes if fit.classes is not None else _classes(model),
        normalisation=defaults.normalisation(fit.reference, model, shape[0]) if shape else None,
        use=Use(crop=defaults.crop(fit.reference, model)),
        guessed=provenances.GUESSED,
        attributes=fit.attributes,
    )
    provenances.attach(model, detectors.known(known, model) if isinstance(model, detectors.Heads) else known)
    if source == "fresh":
        return Network(model, source, said)
    return Network(model, source, (*said, *_assumed(fit.reference, model)), _guess(fit.reference, model))


def _identified(readings: list[dict[str, Tensor]], path: Path) -> tuple[Match, dict[str, Tensor]]:
    for tensors in readings:
        given = signatures.shapes_of(tensors)
        if any(signatures.match(given, entry) for entry in signatures.index()):
            return signatures.identify(tensors, str(path)), tensors
    last = readings[-1] if readings else {}
    return signatures.identify(last, str(path)), last  # raises, and says what is nearest


def _like(readings: list[dict[str, Tensor]], reference: Reference) -> dict[str, Tensor]:
    """Choose the reading of a state dict whose names are most like the architecture's."""
    model = building.skeleton(reference, building.placeholders(reference))
    names = signatures.shapes_of(model.state_dict()).keys()
    return max(readings, key=lambda tensors: len(tensors.keys() & names), default={})


def _fitted(reference: Reference, tensors: dict[str, Tensor]) -> Match:
    """Fit an architecture to what a state dict tells of it: classes, channels of the image, auxiliary heads."""
    plain = dict(reference.arguments)
    if detector_builders.builds_detectors(reference):
        return Match(reference, detector_builders.arguments(reference, signatures.shapes_of(tensors)), None)
    if reference.name in ("googlenet", "inception_v3") and reference.source == "torchvision":
        plain.setdefault("aux_logits", any(name.lower().startswith("aux") for name in tensors))
    entry = signatures.signature(Reference(reference.source, reference.name), plain)
    fit = signatures.match(signatures.shapes_of(weights.of_network(tensors, entry.shapes)[0]), entry)
    if fit is None:
        return Match(reference, {**building.placeholders(reference), **plain}, None)
    return Match(reference, {**plain, **fit.arguments}, fit.classes, fit.attributes)


def _advice(readings: list[dict[str, Tensor]], path: Path) -> str:
    try:
        found, _ = _identified(readings, path)
    except SlimkitError:
        return "  Name the architecture that the weights were trained with, with its arguments: NAME(key=value)."
    return f"  They fit {found.reference}: leave `arch` out, or give `arch={str(found.reference)!r}`"


def _guess(reference: Reference | None, model: nn.Module) -> str:
    """Say what shape images are taken to have."""
    shape, known = defaults.input_shape(reference, model)
    if shape is None:
        return ""
    why = "the usual size of this architecture" if known else "a guess"
    return f"images are {'x'.join(map(str, shape))}: {why}; weights do not tell"


def _assumed(reference: Reference | None, model: nn.Module) -> tuple[str, ...]:
    """Say what else the weights do not tell."""
    shape, _ = defaults.input_shape(reference, model)
    if shape is None:
        return ()
    said = []
    if defaults.normalisation(reference, model, shape[0]):
        said.append("images are normalised as for the published weights; weights do not tell")
    else:
        said.append("which normalisation the images had is not known; weights do not tell")
    if getattr(model, "transform_input", None) is False:
        said.append("transform_input is off, as torchvision builds it; weights do not tell")
    return tuple(said)


def _unnamed(model: nn.Module) -> Provenance:
    """Describe a network that no known factory builds: it will be saved as an exported program."""
    shape, _ = defaults.input_shape(None, model)
    return Provenance(
        arch=EXPORTED,
        input_shape=shape,
        classes=_classes(model),
        normalisation=defaults.normalisation(None, model, shape[0]) if shape else None,
        use=Use(crop=defaults.crop(None, model)),
        guessed=provenances.GUESSED,
    )


def _classes(model: nn.Module) -> int | None:
    """Guess the number of classes by a linear layer at the end, or `num_classes`: with data the scores tell."""
    layers = [module for module in model.modules() if isinstance(module, (_ConvNd, nn.Linear))]
    last = layers[-1] if layers else None
    found = last.out_features if isinstance(last, nn.Linear) else getattr(model, "num_classes", None)
    return found if isinstance(found, int) and found > 0 else None


def _set_channels(model: nn.Module, shape: tuple[int, ...], arch: str) -> dict[str, dict[str, Any]]:
    """Give a network's first convolution another number of input channels, with fresh weights, unless it fits.

    Where no convolution could read them, or the network runs on such inputs, it stays as it is.
    """
    convolutions = [module for module in model.modules() if isinstance(module, _ConvNd)]
    if not convolutions or convolutions[0].in_channels == shape[0] or building.runs(model, shape):
        return {}
    first = signatures.first_convolution(model)
    if not first:
        raise ArchitectureError(
            f"`arch={arch!r}`: its factory takes no in_channels, so it cannot be built for "
            f"{number_of(shape[0], 'channel')}.\n"
            "  Give the factory a parameter in_channels."
        )
    path, convolution = first
    convolution.in_channels = shape[0]
    convolution.weight = nn.Parameter(
        convolution.weight.new_empty(convolution.out_channels, shape[0], *convolution.kernel_size)
    )
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return {path: {"in_channels": shape[0]}}
