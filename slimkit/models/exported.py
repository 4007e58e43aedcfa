"""Exported programs (.pt2): read without running code, turned into trainable networks, written again."""

import contextlib
import dataclasses
import functools
import io
import logging
import math
import os
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import NoneType
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map

from slimkit import out_of_memory
from slimkit import provenance as provenances
from slimkit.dtypes import dtype_of
from slimkit.errors import ArchitectureError, CheckpointError
from slimkit.example import Example, of_batch
from slimkit.models import exported_check, exported_graph
from slimkit.models.exported_wrapped import unwrap
from slimkit.models.files import damaged
from slimkit.modules import copied, unlogged, unwarned
from slimkit.returned import plain_key

_EXTRA = "slimkit.json"  # the record of a slim network, among the program's extra files
_WRITTEN = "written"  # what a program is called in messages that are quoted
_HELD = (torch.Tensor, int, float, NoneType, torch.SymInt, torch.SymFloat, torch.SymBool)
_FORCE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
_FORCE_NOT = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"


def read(path: Path) -> tuple[exported_graph.ExportedNetwork, str | None]:
    """Read an exported program as a trainable network, and slimkit's record where it wrote the file.

    Returns:
        The network, in eval mode, and the text of the record, None where the file is somebody else's.

    Raises:
        CheckpointError: damaged, made to run code, or of a kind that cannot be turned into a network.
    """
    return _network(path.read_bytes(), path)  # read once: what is checked is what is loaded


def _network(data: bytes, name: object) -> tuple[exported_graph.ExportedNetwork, str | None]:
    """Read a program's bytes; `name` is what messages call it."""
    from torch.export.pt2_archive import PT2ArchiveReader

    extra = {_EXTRA: ""}
    with _careful():
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archived:
                members = archived.namelist()
            with PT2ArchiveReader(io.BytesIO(data)) as archive:
                objection = exported_check.objection(archive, members)
                text = exported_check.returned_text(archive) if objection is None else None
                clean = _without_pickles(archive) if objection is None and text is None else None
            if clean is not None:
                program = torch.export.load(clean, extra_files=extra)
        except Exception as error:  # a damaged archive can fail in any way
            raise damaged(name, f"{type(error).__name__}: {error}") from None
        if objection is not None:
            raise CheckpointError(
                f"{name}: this exported program has {objection}, which slimkit does not take from files: what is not "
                "on its list could run code or read other memory.\n"
                "  Give its state dict, and `arch`"
            )
        if text is not None:
            raise CheckpointError(
                f"{name}: the exported program returns {text!r} beside its tensors, which torch does not read again.\n"
                "  Export it without, or give its state dict, and `arch`"
            )
        return exported_graph.network(program, name), extra[_EXTRA] or None


def _without_pickles(archive: Any) -> io.BytesIO:
    """Write the archive again without example inputs, which are pickled, and without notes that torch evaluates."""
    from torch.export.pt2_archive import PT2ArchiveWriter

    clean = io.BytesIO()
    with PT2ArchiveWriter(clean) as written:
        for name in archive.get_file_names():
            if name == "models/model.json":
                written.write_string(name, exported_check.stripped(archive.read_string(name)))
            elif name.startswith("data/sample_inputs/"):
                written.write_bytes(name, b"")
            elif not name.startswith((".data/", "byteorder")):
                written.write_bytes(name, archive.read_bytes(name))
    clean.seek(0)
    return clean


def to_bytes(model: nn.Module, text: str, example: Example | None = None) -> bytes:
    """Export a network, with a batch of any size, and slimkit's record beside it.

    Args:
        model: the network.
        text: the record.
        example: what it is called with, where its provenance does not say the shape of its one input.

    Raises:
        ArchitectureError: torch.export cannot export it, or what it computes is not read from files.
    """
    shape = provenances.of(model).input_shape
    if example is None and shape is None:
        raise ArchitectureError(
            "cannot save a network of unknown input shape as an exported program.\n"
            "  Give `example_input`, what it is called with."
        )
    model = _plainly(copied(model).cpu().eval())
    given = of_batch(torch.zeros(1, *(shape or ()), dtype=dtype_of(model)) if example is None else example, 2)
    named = isinstance(given, Mapping)
    nested = next((one for one in _arguments(given) if isinstance(one, Mapping | tuple | list)), None)
    if nested is not None:  # what is read again takes them one by one: it would be called in another way
        raise _unwritable(model, f"it takes a {type(nested).__name__} as one argument, not tensors alone")
    args = given if isinstance(given, tuple) else () if named else (given,)
    kwargs = dict(given) if isinstance(given, Mapping) else {}
    free = tree_map(_free_batch, kwargs if named else args)
    try:
        with _careful(), contextlib.redirect_stderr(io.StringIO()):  # where it prints a graph that it cannot export
            program = torch.export.export(model, args, kwargs, dynamic_shapes=free)
    except ArchitectureError:
        raise
    except Exception as error:
        out_of_memory.pass_on(error)
        line = (str(error).strip() or "no message").splitlines()[0]
        raise _unwritable(model, f"{type(error).__name__}: {line}") from error
    try:
        unwrap(program.graph_module, _WRITTEN)  # torch does not read all that it writes of wrapped parts
    except CheckpointError as error:
        raise _unwritable(model, _said(error)) from error
    buffer = io.BytesIO()
    with _careful():
        torch.export.save(program, buffer, extra_files={_EXTRA: text})
    if trained := exported_graph.in_training(program):
        raise _unwritable(
            model,
            f"in evaluation mode it does what others do in training ({trained})",
            "Let it do so in training alone, as F.dropout(x, p, self.training) does; or say",
        )
    try:
        _network(buffer.getvalue(), _WRITTEN)
    except CheckpointError as error:
        raise _unwritable(model, _said(error)) from error
    return buffer.getvalue()


def _arguments(given: Example) -> Iterable[Any]:
    if isinstance(given, torch.Tensor):
        return ()
    return given.values() if isinstance(given, Mapping) else given


def _plainly(model: nn.Module) -> nn.Module:
    """Let a network return tuples, lists and dicts for classes of somebody's own: a file must not name these.

    Raises:
        ArchitectureError: when it is called, if it returns what a file cannot hold.
    """
    forward = model.forward

    @functools.wraps(forward)
    def plain(*args: Any, **kwargs: Any) -> Any:
        returned = _plain(forward(*args, **kwargs))
        for value in tree_leaves(returned):
            if not isinstance(value, _HELD) or (isinstance(value, float) and math.isnan(value)):
                kind = repr(value) if isinstance(value, str | float) else f"a {type(value).__name__}"
                raise _unwritable(model, f"it returns {kind} beside its tensors, which such a file cannot hold")
        return returned

    if not isinstance(model, torch.fx.GraphModule):  # which returns such already
        model.forward = plain
    return model


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, (type, Mapping)):
        value = {entry.name: getattr(value, entry.name) for entry in dataclasses.fields(value)}
        value = {name: one for name, one in value.items() if one is not None}
    if isinstance(value, Mapping):
        return {plain_key(name): _plain(one) for name, one in value.items()}
    if isinstance(value, tuple | list):
        return (tuple if isinstance(value, tuple) else list)(map(_plain, value))
    return value


def _said(error: CheckpointError) -> str:
    return str(error).splitlines()[0].removeprefix(f"{_WRITTEN}: ")


def _unwritable(model: nn.Module, why: str, remedy: str = "Say") -> ArchitectureError:
    return ArchitectureError(
        f"cannot export {type(model).__name__}: {why.rstrip('.')}.\n"
        f"  {remedy} how it is built: `slimkit.models.build('file.py:make')`, or give a checkpoint and "
        "`arch='file.py:make'`"
    )


def _free_batch(tensor: Any) -> dict[int, Any] | None:
    return {0: torch.export.Dim.DYNAMIC} if isinstance(tensor, torch.Tensor) and tensor.dim() else None


@contextlib.contextmanager
def _careful() -> Iterator[None]:
    """Make torch.load safe wherever it is called, and keep torch's log and warnings from the terminal."""
    before = {name: os.environ.get(name) for name in (_FORCE, _FORCE_NOT)}
    os.environ[_FORCE] = "1"
    os.environ.pop(_FORCE_NOT, None)
    try:
        with unlogged(logging.CRITICAL), unwarned():
            yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
