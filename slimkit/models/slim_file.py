"""The slim file: a network's weights and how to rebuild it around them, without pickle."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from slimkit import provenance as provenances
from slimkit.errors import ArchitectureError, CheckpointError, OutputError
from slimkit.example import Example
from slimkit.models import building, detectors, edits, exported, files, memory, metadata, ultralytics
from slimkit.models.recognition import current, recognise
from slimkit.models.reference import EXPORTED, parse
from slimkit.modules import keeps_more, state_tensors, unwrapped
from slimkit.provenance import Provenance
from slimkit.whole_file import whole

_KEY = "slimkit"  # of the safetensors metadata


def save(model: nn.Module, path: str | Path, example_input: Example | None = None) -> None:
    """Write a network so that `load` gives it back bit by bit.

    Written as safetensors with the architecture's reference in its metadata; a network that is only described
    by itself (from a .pt2 file, or a pickled module of no known factory) is written as an exported program; one of
    Ultralytics as its checkpoint, which `slimkit.models.load` reads.
    Hooks are no part of it. A whole file appears, or none: an existing one is replaced only when the new one is
    complete.

    Args:
        model: any network from slimkit, or an unchanged torchvision, zoo or timm network; of a detector its heads, or
            the detector itself.
        path: file to write; its folder must exist.
        example_input: what the network is called with: an exported program needs it where that is no single tensor.

    Raises:
        ArchitectureError: nothing is known of how to rebuild the network.
        OutputError: the file cannot be written.
    """
    path, model = Path(path), unwrapped(model)
    if isinstance(model, ultralytics.Maps):
        net = model
        _write(path, lambda target: ultralytics.save(net, target, example_input))
        return
    model = detectors.seen(model)
    known = provenances.of(model)
    known = _recognised(model, known) if known.arch is None else _current(model, known)
    if known.arch == EXPORTED:
        data = exported.to_bytes(model, metadata.write(known, {}, {}, state_tensors(model)), example_input)
        _write(path, lambda target: target.write_bytes(data))
        return
    if keeps_more(model):
        raise ArchitectureError(
            f"cannot save a network of {known.arch}: a module of it keeps something beside its tensors "
            "(get_extra_state), for which a slim file has no place.\n"
            "  Save it as an exported program: "
            f"slimkit.provenance.attach(model, slimkit.provenance.Provenance(arch={EXPORTED!r}))"
        )
    tensors, aliases = _tensors(model)
    said = {_KEY: metadata.write(known, aliases, tensors)}  # one key, so that the same network is the same file
    _write(path, lambda target: save_file(tensors, target, metadata=said))


def load(path: str | Path, arch: str | None = None, max_memory: int | str | None = None) -> nn.Module:
    """Read a network that `save` wrote: on the CPU, in eval mode, provenance attached; a detector as itself.

    Args:
        path: the file.
        arch: the factory to use instead of the one named in the file. Needed where the file names one in the
            user's own code: a file must not choose what code is run.
        max_memory: as for `models.load`.

    Raises:
        CheckpointError: no such file, damaged, or no slim file.
        ArchitectureError: the architecture is unknown, in the user's own code, or no longer fits.
    """
    path = Path(path)
    with memory.limited(path, max_memory):
        kind = files.kind(path)
        if kind is files.Kind.EXPORTED:
            model, text = exported.read(path)
            if text is None:
                raise _not_slim(path)
            provenances.attach(model, metadata.read(text, {}, path, state_tensors(model)).provenance())
            return model
        if kind is not files.Kind.SAFETENSORS:
            raise _not_slim(path)
        tensors, text = read_safetensors(path)
        if text is None:
            raise _not_slim(path)
        return detectors.itself(rebuild(tensors, metadata.read(text, tensors, path), path, arch))


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], str | None]:
    """Read all tensors of a safetensors file, and the slim file's metadata where it is one.

    Raises:
        CheckpointError: damaged.
    """
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            said = file.metadata() or {}
            # cloned: the file's own memory is neither aligned nor ours to keep
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
            return tensors, said.get(_KEY)
    except (SafetensorError, OSError, RuntimeError, ValueError, KeyError) as error:
        raise files.damaged(path, str(error)) from None


def rebuild(tensors: Mapping[str, Tensor], made: metadata.Metadata, path: Path, arch: str | None) -> nn.Module:
    """Build the architecture of a slim file and give every tensor its stored shape and value; a detector as its heads.

    Raises:
        ArchitectureError: unknown, in the user's own code without `arch` given, or no longer fitting.
    """
    reference = parse(arch or made.arch)
    if reference.source == "code" and arch is None:
        raise ArchitectureError(
            f"{path}: the network is built by {made.arch}, code that slimkit does not run on a file's word.\n"
            f"  If you know that code, name it yourself: `arch={made.arch!r}`"
        )
    every = {**tensors, **{name: tensors[kept] for name, kept in made.aliases.items() if kept in tensors}}
    known = made.provenance()
    model = detectors.seen(building.skeleton(reference, made.arguments))
    for real in (False, True):
        try:
            building.set_attributes(model, made.attributes)
            edits.replay_(model, known.edits)
        except ArchitectureError as error:
            raise ArchitectureError(f"{path}: {error}") from None
        unknown, left = building.fill(model, every)
        if unknown or left:
            raise ArchitectureError(
                f"{path}: {reference} has changed since the file was written: it has "
                f"{f'no {unknown[0]!r}' if unknown else f'a tensor {left[0]!r} that the file lacks'} "
                f"({len(unknown) + len(left)} differences).\n"
                "  Use the version of the code that the file was made with."
            )
        if real or not building.hollow(model):
            break
        # it keeps tensors that are in no state dict
        model = detectors.seen(building.create(reference, made.arguments))
    try:
        edits.check(model, known.edits)
    except ArchitectureError as error:
        raise ArchitectureError(f"{path}: {error}") from None
    if isinstance(model, detectors.Heads):
        detectors.frozen(model.net)
    finds = model.finds if isinstance(model, detectors.Heads) else known.finds
    provenances.attach(model, dataclasses.replace(known, arch=str(reference), finds=finds))
    return model.eval()


def _current(model: nn.Module, known: Provenance) -> Provenance:
    found = current(model, known)
    if found is None:
        raise ArchitectureError(
            f"cannot save {type(model).__name__}: its layers or functions are no more those that {known.arch} builds, "
            "so another network would be loaded.\n"
            "  Say how to build it: slimkit.provenance.attach(model, Provenance(arch='file.py:factory', ...)); or make "
            "it smaller, and slimkit writes an exported program"
        )
    return found


def _recognised(model: nn.Module, known: Provenance) -> Provenance:
    found = None if known.edits else recognise(model)
    if found is None:
        raise ArchitectureError(
            f"cannot save {type(model).__name__}: how to build it is not known, so it could not be loaded "
            "again.\n"
            "  Load or build it with slimkit.models (arch='file.py:factory'), or say it before slimming: "
            "slimkit.provenance.attach(model, Provenance(arch='package.module:factory', arguments={...}))"
        )
    return found


def _tensors(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Collect parameters and buffers, also those that no state dict has; a shared one once, with its other names."""
    tensors: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    seen: dict[tuple[Any, ...], str] = {}
    named = [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]
    for name, value in named:
        tensor = value.detach()
        identity = (tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())
        if tensor.numel() and identity in seen:
            aliases[name] = seen[identity]
            continue
        seen[identity] = name
        tensors[name] = tensor.cpu().contiguous()
    storages: set[int] = set()
    for name, tensor in tensors.items():  # safetensors refuses tensors that overlap without being the same
        address = tensor.untyped_storage().data_ptr()
        if address in storages:
            tensors[name] = tensor.clone()
        storages.add(address)
    return tensors, aliases


def _write(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file whole or not at all, in words of ours where it cannot be."""
    if path.is_dir():
        raise OutputError(f"{path}: is a folder.\n  Name a file in it.")
    try:
        with whole(path) as part:
            write(part)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise OutputError(
            f"{path}: cannot be written ({reason}).\n"
            "  Check that the folder exists and is writable, and that the "
            "disk has room."
        ) from None


def _not_slim(path: Path) -> CheckpointError:
    return CheckpointError(
        f"{path}: is not a file written by slimkit.save.\n  Load other checkpoints with slimkit.models.load."
    )
