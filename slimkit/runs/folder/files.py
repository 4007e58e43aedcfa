"""The files that a run leaves, written and proven."""

import json
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import compress
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from slimkit import export, models, provenance
from slimkit.errors import ArchitectureError, EngineError, ProofError, SlimkitError, TraceError
from slimkit.example import Example, describe, drawn_like, larger, mapped, named, of_batch, tensors
from slimkit.export.check import drawn_twice
from slimkit.export.onnx import Exported
from slimkit.export.pixels import as_pixels, normalisation_of
from slimkit.measure.engines import onnxruntime_session
from slimkit.measure.stages import Stages
from slimkit.models import detectors
from slimkit.models.reference import EXPORTED, parse
from slimkit.models.ultralytics import Maps, against_one, deployed, told_in_onnx
from slimkit.modules import copied, keeps_more
from slimkit.report import page, verdict
from slimkit.results import Proof, Report, report_file
from slimkit.settings import RunSpec, Settings, to_toml
from slimkit.settings.files import FileSpec, OnnxSpec
from slimkit.surgery import proof
from slimkit.surgery.evidence import Evidence
from slimkit.surgery.prove import Slimmed
from slimkit.usage import Usage, described

CHECKPOINT = "model.pt"  # of Ultralytics, in place of a slim file
ONNX, DENSE_ONNX, INT8_ONNX = "model.onnx", ".dense.onnx", "model.int8.onnx"


@dataclass(frozen=True)
class Delivery:
    """What a run delivers, beside what it began with.

    Attributes:
        dense, model: before and after.
        example: what they are called with.
        spec: which files are wanted, and under which conditions they are timed.
        work: folder with the files.
    """

    dense: nn.Module
    model: nn.Module
    example: Example
    spec: RunSpec
    work: Path


@dataclass(frozen=True)
class Written:
    """What was written, and proven against the network in memory.

    Attributes:
        proof: the part of the report on the proof.
        usage: the part of the report on how the network is used.
        failed: what could not be written and why, and what the proof says nothing about.
    """

    proof: Proof
    usage: Usage
    failed: list[str]


def check_files(spec: OnnxSpec, model: nn.Module, example: Example) -> None:
    """Check before anything is done that the files that are asked for can be written of this network.

    Raises:
        EngineError: they cannot; the message says which setting to leave out.
    """
    if spec.opset > (newest := onnx.defs.onnx_opset_version()):
        raise EngineError(
            f"opset is {spec.opset}: the installed onnx knows none above {newest}.\n  Give a lower `opset`"
        )
    if spec.embed_normalisation:
        normalisation_of(model, example)
    if spec.free_size:
        try:
            proof.outputs(model, [larger(example)])
        except Exception as error:  # whatever the network raises
            raise EngineError(
                f"free_size is True: {type(model).__name__} does not run on another size, {describe(larger(example))}: "
                f"{(str(error).splitlines() or [type(error).__name__])[0]}.\n  Leave out `free_size`"
            ) from error


def check_kept(spec: RunSpec, model: nn.Module, example: Example) -> None:
    """Check before anything is done that a file can hold the network, by writing one and reading it again.

    Raises:
        ArchitectureError: neither a slim file can, nor an ONNX file where one is wanted.
        ProofError: its file would be another network.
    """
    inputs = [example]
    try:
        expected = proof.outputs(model, inputs)
    except Exception:  # it does not run: tracing will say so
        return
    with tempfile.TemporaryDirectory() as folder:
        try:
            _reloaded(copied(model), example, Path(folder), expected, inputs)
        except ArchitectureError as unsaved:
            try:
                _write_onnx(deployed(copied(model)), example, Path(folder) / ONNX, inputs, spec)
            except (EngineError, TraceError, ProofError):
                raise ArchitectureError(
                    f"{unsaved}; or call slimkit.compress without out=: its result is the network itself"
                ) from None
            if not spec.onnx:
                raise ArchitectureError(f"{unsaved}; or leave out `onnx=False`: an ONNX file can hold it") from None


def write_model(delivery: Delivery, inputs: Sequence[Example], slimmed: Slimmed, keep_files: bool = True) -> Written:
    """Write the network as slim file and as ONNX, and prove both against the one in memory.

    Where a file cannot express the network, the run goes on without it; `check_kept` has seen to it that one can.

    Args:
        delivery: both networks, and the folder to write into.
        inputs: what they are proven on.
        slimmed: the proven cut.
        keep_files: someone wants the files; else only ONNX is written, to be timed.

    Raises:
        ProofError: the slim file does not compute what the network does.
    """
    dense, model, example = delivery.dense, delivery.model, delivery.example
    spec, work = delivery.spec, delivery.work
    expected = proof.outputs(model, inputs)
    failed = [*_unseen(slimmed), *_unknown(slimmed.evidence, dense, model)]
    reloaded = None
    if keep_files:
        try:
            reloaded = _reloaded(model, example, work, expected, inputs)
        except ArchitectureError as wrong:  # of a network that only describes itself
            failed.append(missing("slim", wrong))
    error, used = None, described(provenance.of(model))
    model, dense = deployed(model), deployed(dense)
    if spec.onnx:
        try:
            error, used, said = _write_onnx(model, example, work / ONNX, inputs, spec)
            failed += said
        except (EngineError, TraceError, ProofError) as wrong:
            (work / ONNX).unlink(missing_ok=True)
            failed.append(missing("ONNX", wrong))
        else:
            with suppress(EngineError):  # over 2 GB: then only the small one is measured
                export_network(dense, work / DENSE_ONNX, example, spec)  # as the one that a budget weighed
    if keep_files and reloaded is None and error is None:  # what was done for it is not thrown away
        failed.append("Nothing in the folder holds the smaller network: it is `model` of the result, and nowhere else.")
    proven = Proof(
        masked_vs_slim=slimmed.error,
        slim_vs_reloaded=reloaded,
        slim_vs_onnx=error,
        tolerance=proof.TOLERANCE,
        inputs=slimmed.evidence.on,
        kept_after_failing=slimmed.failing,
    )
    return Written(proven, used, failed)


def missing(kind: str, error: SlimkitError) -> str:
    """Say in two lines which file there is not, why, and what to do."""
    return f"No {kind} file: " + "\n".join(str(error).splitlines()[:2])


def export_network(model: nn.Module, path: Path, example: Example, spec: FileSpec) -> Exported:
    """Write a network as ONNX as the settings say, with what is known of its architecture."""
    model = deployed(model)
    said = {"arch": str(provenance.of(model).arch), **told_in_onnx(model, example, spec.free_size)}
    return export.export_onnx(model, path, example, said, **_ways(spec))


def _ways(spec: FileSpec) -> dict[str, Any]:
    return {name: getattr(spec, name) for name in ("opset", "fixed_batch", "free_size", "embed_normalisation")}


def _write_onnx(
    model: nn.Module, example: Example, path: Path, inputs: Sequence[Example], spec: FileSpec
) -> tuple[float, Usage, list[str]]:
    """Write the ONNX file and prove it; return its largest error, how it is used, and what is to be said of it."""
    made = export_network(model, path, example, spec)
    if made.batch is not None:
        inputs = [of_batch(one, made.batch) for one in inputs]
    if not spec.free_size:  # pictures of a detector are as large as their aspect makes them
        inputs = [one for one in inputs if _sizes(one) == _sizes(example)]
    else:
        inputs = [*inputs, drawn_like(larger(of_batch(example, 1)), torch.Generator().manual_seed(0))]
    steady = drawn_twice(model, inputs[0])[1]
    scale = normalisation_of(model, example) if spec.embed_normalisation else None
    given = inputs if scale is None else [mapped(one, partial(as_pixels, normalisation=scale)) for one in inputs]

    def seen(outputs: Any) -> list[Tensor]:
        return list(compress(tensors(against_one(model, outputs)), steady))

    error, allowed = proof.of_file(model, inputs, run_onnx(path, given), seen)
    proof.require(error, "network against its ONNX file", "The file is left out.", allowed)
    said = {entry.key: entry.value for entry in onnx.load(path, load_external_data=False).metadata_props}
    bound = f"The ONNX file takes one image at a time, since its batch cannot be left free: {made.why}."
    drawn = f"{steady.count(False)} of {len(steady)} outputs of the ONNX file depend on random numbers that it draws: "
    notes = [bound] * bool(made.why) + [drawn + "they were held to their shapes alone."] * (not all(steady))
    return error, Usage.from_dict(json.loads(said["usage"])), notes


def _sizes(example: Example) -> list[torch.Size]:
    return [tensor.shape[1:] for tensor in tensors(example)]


def _unseen(slimmed: Slimmed) -> list[str]:
    """Say which layers the example did not run, where something was removed that they may read."""
    unseen = slimmed.graph.unseen
    if not unseen or bool(slimmed.mask.keep.all()) or isinstance(slimmed.model, Maps):  # whose heads decode elsewhere
        return []
    names = ", ".join(unseen[:3]) + (", ..." if len(unseen) > 3 else "")
    return [
        f"The example does not run these layers: {names} ({len(unseen)} in all). They were left as they are, and "
        "inputs that need them may fail in the smaller network. Give an example that does."
    ]


def _unknown(evidence: Evidence, dense: nn.Module, model: nn.Module) -> list[str]:
    """Say what the proof says nothing about; a parameter of its old shape reads and makes what it did."""
    said = []
    shapes = [{name: parameter.shape for name, parameter in net.named_parameters()} for net in (dense, model)]
    untouched = [name for name in evidence.untouched if shapes[0].get(name) != shapes[1].get(name)]
    if untouched:
        names = ", ".join(untouched[:3]) + (", ..." if len(untouched) > 3 else "")
        said.append(f"No run of the proof reached {len(untouched)} parameters ({names}): nothing is proven there.")
    if evidence.constant:
        said.append(
            f"{evidence.constant} of {evidence.channels} output channels were the same on all inputs: "
            "nothing is proven of them."
        )
    if evidence.random:
        said.append(
            "The network draws random numbers in evaluation mode: both networks were given the same ones. If it should "
            "draw in training alone, say so in its forward, as in F.dropout(x, p, self.training)."
        )
    if evidence.stateful:
        said.append("The network remembers what it has seen: first calls were compared.")
    return said


def _reloaded(
    model: nn.Module, example: Example, work: Path, expected: Sequence[Any], inputs: Sequence[Example]
) -> float:
    """Write the slim file, read it again, and return how far its outputs are.

    Where not all that a network does is in its architecture, it is written as an exported program.

    Raises:
        ProofError: they differ, though all of it is.
    """
    of_yolo = isinstance(model, Maps)
    if keeps_more(model) and not of_yolo:  # for which a slim file has no place
        _describes_itself(model)
    known = provenance.of(model)
    arch = known.arch
    saved = work / (CHECKPOINT if of_yolo else "model.pt2" if arch == EXPORTED else "model.safetensors")
    models.save(model, saved, example)
    again = models.load(saved).model if of_yolo else detectors.seen(models.load_slim(saved, arch=arch))
    error = proof.compare(expected, again, inputs)
    if error > proof.TOLERANCE and saved.suffix == ".safetensors" and _does_more(model, known):
        saved.unlink()
        _describes_itself(model)
        try:
            return _reloaded(model, example, work, expected, inputs)
        except ArchitectureError as wrong:
            raise ArchitectureError(
                f"{arch} builds another network with the same weights, and {str(wrong).splitlines()[0].rstrip('.')}.\n"
                "  Register what the network computes with as parameters and buffers, and give it no hooks"
            ) from wrong
    return proof.require(error, "network against its file, read again")


def _describes_itself(model: nn.Module) -> None:
    """Note that a network is the only description of itself, so that it is written as an exported program."""
    known = provenance.of(model)
    provenance.attach(model, replace(known, arch=EXPORTED, arguments={}, attributes={}, edits=()))


def _does_more(model: nn.Module, known: provenance.Provenance) -> bool:
    """Tell whether a network may do what its architecture does not: it has hooks, or is of code that may be another."""
    hooked = any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    return hooked or parse(str(known.arch)).source == "code"


def run_onnx(path: Path, inputs: Sequence[Example]) -> list[list[Tensor]]:
    """Run an ONNX file of ours in ONNX Runtime, one thread, on each example."""
    session = onnxruntime_session(path, threads=1)
    read = {entry.name for entry in session.get_inputs()}  # an input that is not read is not there
    found = []
    for example in inputs:
        given = {name: tensor.numpy() for name, tensor in named(example).items() if name in read}
        found.append([torch.from_numpy(array) for array in session.run(None, given)])
    return found


def finish(report: Report, specs: Sequence[Settings], work: Path, stages: Stages, keep_files: bool = True) -> Report:
    """Complete a report and write it, where someone wants files: `report.json`, `report.html` and `run.toml`."""
    (work / DENSE_ONNX).unlink(missing_ok=True)
    report = replace(report, stages=tuple(stages.finished))
    report = replace(report, verdict=verdict.verdict(report).sentence)
    if not keep_files:
        return report
    report_file.write(report, work)
    (work / "report.html").write_text(page.run_page(report), encoding="utf-8")
    (work / "run.toml").write_text(to_toml(*specs), encoding="utf-8")
    return report
