"""A network in the formats of other engines, each held against the network: `slimkit export`."""

import importlib.util
import json
from pathlib import Path

import torch
from torch import Tensor, nn

from slimkit import models, provenance
from slimkit._version import __version__
from slimkit.errors import EngineError, SlimkitError
from slimkit.example import Example, batch_size, drawn_like, in_parts, named, of_batch, own_batch, tensors
from slimkit.export.formats import FORMATS, Format, Source, absent
from slimkit.export.formats.source import Compute
from slimkit.export.pixels import as_pixels, normalisation_of
from slimkit.measure.engines import open_runner
from slimkit.models.ultralytics import against_one, deployed, told_in_onnx
from slimkit.progress import Progress, quiet
from slimkit.results import ExportedFile, Exports
from slimkit.returned import form_of, output_names
from slimkit.runs.folder import output
from slimkit.runs.folder.files import check_files
from slimkit.runs.start import example as example_for
from slimkit.settings import ExportSpec
from slimkit.surgery import proof
from slimkit.usage import OpenShape, described

RECORD = "export.json"
_IMAGES = 8  # by three an output that happens to be nearly the same on them has no spread to be held against
_HALF = 0.05  # of the outputs' spread: what 16-bit floats may be off by


def export_model(path: Path, spec: ExportSpec, out: Path | None, force: bool, progress: Progress = quiet) -> Exports:
    """Write the network in a file in other formats; each is run, where its engine runs here, and must compute the same.

    A format that cannot be written of this network is left out, and said, where there are others.

    Args:
        path: slim file or checkpoint.
        spec: formats, and how they are to be.
        out: folder to write; None: NAME-export.
        force: replace the folder of an earlier run.
        progress: called with what is being done.

    Raises:
        EngineError: a converter is not installed; none can convert the network, or makes what computes the same.
    """
    progress("reading the network", None)
    network = models.load(path, arch=spec.arch, trust_pickle=spec.trust_pickle, max_memory=spec.memory)
    _check_installed(spec)  # after it: whoever gave the wrong file shall not install a converter first
    example = example_for(network.model, spec)
    check_files(spec, network.model, example)
    model = deployed(network.model)
    source = Source(model, example, spec, spec.fp16, told_in_onnx(model, example, spec.free_size))
    tolerance = _HALF if spec.fp16 else proof.TOLERANCE
    with output.claim(out or Path(f"{path.stem}-export"), force, [path]) as work:
        files: list[ExportedFile] = []
        failed: list[EngineError] = []
        for name in dict.fromkeys(spec.to):
            progress(f"writing {name}", None)
            made = _written(name, source, work, tolerance)
            files += [made] if isinstance(made, ExportedFile) else []
            failed += [made] if isinstance(made, EngineError) else []
        if not files:
            raise failed[0]
        batches = {file.batch for file in files}
        found = Exports(
            slimkit=__version__,
            model=str(path),
            fp16=spec.fp16,
            tolerance=tolerance,
            usage=described(
                provenance.of(network.model),
                {name: _taken(tensor, spec.free_size) for name, tensor in named(example).items()},
                _given(model, example),
                embedded=spec.embed_normalisation,
                batch=batches.pop() if len(batches) == 1 else None,
            ),
            files=tuple(files),
            left_out=tuple(str(wrong).splitlines()[0] for wrong in failed),
        )
        (work / RECORD).write_text(json.dumps(found.to_dict(), indent=1) + "\n", encoding="utf-8")
    return found


def _check_installed(spec: ExportSpec) -> None:
    """Check that all converters are installed, before anything is written by one of them.

    Raises:
        EngineError: some are not; the message names all of them, with the pip command.
    """
    lacking = {name: [p for p in FORMATS[name].packages if importlib.util.find_spec(p) is None] for name in spec.to}
    formats = [name for name, packages in lacking.items() if packages]
    if formats:
        raise absent([package for packages in lacking.values() for package in packages], formats)


def _taken(tensor: Tensor, free_size: bool) -> tuple[OpenShape, str]:
    """Return the shape of one image of an input, and its type."""
    free = free_size and tensor.dim() > 2 and tensor.is_floating_point()
    sizes = (*tensor.shape[1:2], *[None] * (tensor.dim() - 2)) if free else tuple(tensor.shape[1:])
    return sizes, str(tensor.dtype).removeprefix("torch.")


def _given(model: nn.Module, example: Example) -> list[str]:
    """Return the names of the outputs, as an ONNX file has them."""
    (returned,) = proof.outputs(model, [example])
    return output_names(form_of(returned), named(example))


def _written(name: str, source: Source, work: Path, tolerance: float) -> ExportedFile | EngineError:
    """Write one format; return why not where its converter cannot write this network as it is asked for."""
    made, before = FORMATS[name], set(work.rglob("*"))
    path = work / made.file
    try:
        batch = made.convert(source, path)
    except SlimkitError:
        raise
    except Exception as error:  # converters have no base class of their own
        lines = str(error).strip().splitlines() or [type(error).__name__]
        _delete(work, before)
        return EngineError(
            f"{name}: its converter cannot write this network: {lines[0][:300]}.\n  Leave {name!r} out of `to`"
        )
    size = sum(file.stat().st_size for file in set(work.rglob("*")) - before if file.is_file())
    run = _runner(made, path)
    if run is None:
        return ExportedFile(format=name, file=made.file, bytes=size, error=None, note=made.note, batch=batch)
    off, rounding = _error(source, run)
    if not off <= max(tolerance, rounding):
        _delete(work, before)
        return EngineError(
            f"{name}: what its converter made differs from the network by {off:.2g} of the outputs' spread, more "
            f"than {tolerance:g}.\n  Leave {'`fp16` out' if source.half else f'{name!r} out of `to`'}"
        )
    return ExportedFile(format=name, file=made.file, bytes=size, error=off, batch=batch)


def _delete(work: Path, before: set[Path]) -> None:
    """Delete what has come into a folder since."""
    for path in sorted(set(work.rglob("*")) - before, reverse=True):  # what is in a folder before the folder
        path.rmdir() if path.is_dir() else path.unlink()


def _runner(made: Format, path: Path) -> Compute | None:
    if made.engine is None:
        return made.run(path) if made.run else None
    runner = open_runner(path, made.engine)
    bound = runner.inputs[0].shape[0]

    def compute(part: Example) -> list[Tensor]:
        return list(map(torch.tensor, runner.run([tensor.numpy() for tensor in tensors(part)])))

    return lambda given: in_parts(compute, tuple(given), bound)


def _error(source: Source, run: Compute) -> tuple[float, float]:
    """Return how far the outputs of a file are from the network's, on random images, and how far float32 lets them."""
    images = drawn_like(of_batch(source.example, own_batch(source.example, _IMAGES)), torch.Generator().manual_seed(1))
    if batch_size(source.example) != 1:
        images = of_batch(images, 1)
    given = images
    if source.spec.embed_normalisation and isinstance(images, Tensor):
        given = as_pixels(images, normalisation_of(source.model, images))
    found = run(tensors(given))
    return proof.of_file(source.model, [images], [found], lambda one: tensors(against_one(source.model, tensors(one))))
