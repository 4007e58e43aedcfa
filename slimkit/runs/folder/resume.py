"""Runs that were interrupted, and runs that were not: what `--resume` finds."""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from slimkit import training
from slimkit._version import __version__
from slimkit.dtypes import cast
from slimkit.errors import OutputError, RecordError, SpecError
from slimkit.modules import state_tensors
from slimkit.results import Report, report_file
from slimkit.runs.folder import output
from slimkit.settings.output import OutputOptions
from slimkit.training import state

DATA = "inputs or targets"  # of the data, in what must be equal for two runs to be one


def folder_of(target: Path) -> Path:
    """Return the folder beside an output folder in which the state of its run is kept."""
    return target.parent / f"{target.name}.state"


def store(target: Path, resume: bool, settings: Mapping[str, Any], about: Mapping[str, Any]) -> training.Store:
    """Return where the state of a run is kept. A log there goes: states hold its lines.

    Args:
        target: the output folder.
        resume: go on from what is there.
        settings: all of the run.
        about: what else must be equal for two runs to be one.
    """
    identity = {"slimkit": __version__, **json.loads(json.dumps(settings)), **about}
    kept = training.Store(folder_of(target), resume=resume, identity=identity)
    if resume or not state.anywhere(kept):
        with suppress(OSError):  # where it cannot go, none can be written either, which is said then
            (kept.folder / state.LOG).unlink(missing_ok=True)
    return kept


def complete(
    target: Path,
    options: OutputOptions,
    settings: Mapping[str, Any],
    read: Sequence[Path],
    about: Callable[[], Mapping[str, Any]],
) -> Report | None:
    """Return the report of the run that is to be resumed, where it has been completed; else None.

    Args:
        target: its output folder.
        options: whether it is to be resumed at all; with `force` what is complete is to be replaced, and where that has
            begun, it goes on.
        settings: all of the run.
        read: files that it reads.
        about: returns what else must be equal for two runs to be one, as it is now; called where all the rest is.

    Raises:
        OutputError: what is complete there is another run.
    """
    interrupted = state.anywhere(training.Store(folder_of(target)))
    if not options.resume or (options.force and interrupted) or not (target / output.MANIFEST).is_file():
        return None
    try:
        report = report_file.read(target)
    except RecordError:
        return None  # whoever claims the folder says what is wrong with it
    asked, had = json.loads(json.dumps(settings)), report.to_dict()["spec"]
    other = [f"{name} was {had.get(name)!r}, is {asked.get(name)!r}" for name in asked if had.get(name) != asked[name]]
    other += [f"{path.name} has changed since" for path in output.changed(target, read)]
    noted = {} if other else output.about(target)
    if noted:
        found = json.loads(json.dumps(about()))
        other = [f"{name} changed" for name in noted if noted[name] != found.get(name)]
    if other:
        raise OutputError(
            f"{target}: another run is complete there ({'; '.join(other[:3])}).\n"
            "  Give another `out`, or replace it: `force=True` without `resume`"
        )
    training.forget(training.Store(folder_of(target)))  # of a process that ended before it had done so
    return report


def refuse_without_folder(out: Path | str | None, **asked: bool) -> None:
    """Refuse what is asked of the output folder of a call that has none.

    Raises:
        SpecError: a flag is true, and nothing is written.
    """
    for name in (name for name, value in asked.items() if value and out is None):
        raise SpecError(f"{name} is True: without `out` nothing is written.\n  Add `out`, or leave `{name}` out")


def check(kept: training.Store) -> None:
    """Check before any work that what was interrupted there, in whatever stage, is this run and to be resumed.

    Args:
        kept: with all that must be equal for two runs to be one.

    Raises:
        TrainingError: a state is there, and nobody asked to go on from it, or it is that of another run.
    """
    refuse_unasked(kept)
    state.refuse_others(kept)


def refuse_unasked(kept: training.Store) -> None:
    """Refuse to begin anew where a run was interrupted.

    Raises:
        TrainingError: a state is there, and nobody asked to go on from it.
    """
    for folder in (kept.folder, *kept.folder.glob("*/")):
        state.refuse_unasked(replace(kept, folder=folder))


def keep_log(kept: training.Store | None, work: Path) -> None:
    """Put the log of the training, where there is one, to the files of the run."""
    if kept is not None and (kept.folder / state.LOG).is_file():
        shutil.copyfile(kept.folder / state.LOG, work / state.LOG)


def shapes(model: nn.Module) -> str:
    """Return a digest of the names and shapes of all weights."""
    found = [(name, list(tensor.shape)) for name, tensor in state_tensors(model).items()]
    return hashlib.blake2b(json.dumps(found).encode(), digest_size=6).hexdigest()


def weights(*models: nn.Module) -> str:
    """Return a digest of all weights."""
    digest = hashlib.blake2b(digest_size=6)
    for model in models:
        for name, tensor in state_tensors(model).items():
            digest.update(name.encode())
            digest.update(cast(tensor.detach().cpu(), torch.float64).numpy().tobytes())
    return digest.hexdigest()
