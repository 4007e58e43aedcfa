"""The files that a run leaves, written and proven."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from slimkit import export, models, provenance
from slimkit.errors import EngineError, TraceError
from slimkit.example import Example, tensors
from slimkit.measure.engines import open_runner
from slimkit.measure.stages import Stages
from slimkit.models.ultralytics import Deployed, Maps, against_one, save
from slimkit.report import page, verdict
from slimkit.results import Proof, Report, report_file
from slimkit.settings import Settings, to_toml
from slimkit.surgery import proof
from slimkit.surgery.evidence import Evidence
from slimkit.surgery.prove import Slimmed

CHECKPOINT = "model.pt"  # of Ultralytics, in place of a slim file
ONNX, DENSE_ONNX, INT8_ONNX = "model.onnx", ".dense.onnx", "model.int8.onnx"


def write_model(
    dense: nn.Module,
    model: nn.Module,
    example: Example,
    work: Path,
    inputs: Sequence[Example],
    slimmed: Slimmed,
    keep_files: bool = True,
) -> tuple[Proof, list[str]]:
    """Write the network as slim file and as ONNX, and prove both against the one in memory.

    The slim file is what must be: where ONNX cannot express a network, the run goes on without that file.

    Args:
        dense, model: before and after.
        example: what they are called with.
        work: folder to write into.
        inputs: what they are proven on.
        slimmed: the proven cut.
        keep_files: someone wants the files; else only ONNX is written, to be timed.

    Returns:
        The part of the report on the proof, and what could not be written and why.

    Raises:
        ProofError: a file does not compute what the network does.
    """
    expected = proof.outputs(model, inputs)
    reloaded = _reloaded(model, work, expected, inputs) if keep_files else None
    failed = _unknown(slimmed.evidence, dense, model)
    exported = None
    try:
        known = provenance.of(model)
        about = {"arch": str(known.arch), "classes": str(known.classes), "normalisation": str(known.normalisation)}
        if not isinstance(example, Tensor):
            raise EngineError("ONNX files are written of networks with one tensor as input")
        if isinstance(model, Maps) and isinstance(dense, Maps):
            model, dense = Deployed(model.net).eval(), Deployed(dense.net).eval()
            expected = proof.outputs(model, inputs)
        export.export_onnx(model, work / ONNX, example, about)
        found = run_onnx(work / ONNX, inputs)
        if isinstance(model, Deployed):
            expected, found = ([against_one(model, one) for one in some] for some in (expected, found))
        exported = max(proof.relative_error(a, b) for a, b in zip(expected, found, strict=True))
        proof.require(exported, "network against its ONNX file")
    except (EngineError, TraceError) as error:
        failed.append(f"No ONNX file: {str(error).splitlines()[0]}")
    else:
        with suppress(EngineError):  # over 2 GB: then only the small one is measured
            export.export_onnx(dense, work / DENSE_ONNX, example)
    shown = Proof(
        masked_vs_slim=slimmed.error,
        slim_vs_reloaded=reloaded,
        slim_vs_onnx=exported,
        tolerance=proof.TOLERANCE,
        inputs=slimmed.evidence.on,
        kept_after_failing=slimmed.failing,
    )
    return shown, failed


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
        said.append("The network draws random numbers in evaluation mode: both networks were given the same ones.")
    if evidence.stateful:
        said.append("The network remembers what it has seen: first calls were compared.")
    return said


def _reloaded(model: nn.Module, work: Path, expected: Sequence[Any], inputs: Sequence[Example]) -> float:
    """Write the slim file, read it again, and return how far its outputs are."""
    arch = provenance.of(model).arch
    if isinstance(model, Maps):
        save(model, work / CHECKPOINT)
        again = models.load(work / CHECKPOINT).model
    else:
        saved = work / ("model.pt2" if arch == "exported" else "model.safetensors")
        models.save(model, saved)
        again = models.load_slim(saved, arch=arch)
    error = proof.compare(expected, again, inputs)
    return proof.require(error, "network against its file, read again")


def run_onnx(path: Path, inputs: Sequence[Example]) -> list[Any]:
    """Run an ONNX file with one input in ONNX Runtime, one thread, on each example."""
    runner = open_runner(path)
    return [[torch.from_numpy(array) for array in runner.run(tensors(example)[0].numpy())] for example in inputs]


def finish(report: Report, specs: Sequence[Settings], work: Path, stages: Stages) -> Report:
    """Complete a report and write it: `report.json`, `report.html` and `run.toml`."""
    (work / DENSE_ONNX).unlink(missing_ok=True)
    report = replace(report, stages=tuple(stages.finished))
    report = replace(report, verdict=verdict.verdict(report).sentence)
    report_file.write(report, work)
    (work / "report.html").write_text(page.run_page(report), encoding="utf-8")
    (work / "run.toml").write_text(to_toml(*specs), encoding="utf-8")
    return report
