"""Network -> ONNX file: self-contained, checked, with a free batch dimension.

The direct road (`direct.py`) is tried first; a network that it doesn't cover, or for which ONNX Runtime then
computes something else than torch, goes the general road (`general.py`).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial, wraps
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from slimkit import provenance, usage
from slimkit._version import __version__
from slimkit.dtypes import dtype_of, dtypes_of
from slimkit.errors import EngineError, OutputError
from slimkit.example import Example, batch_size, call, mapped, named, tensors
from slimkit.export import direct, general
from slimkit.export.check import SEVERAL, check, line, references
from slimkit.export.file import OnnxModel
from slimkit.export.pixels import as_pixels, normalisation_of, normalising
from slimkit.hardware import plain_precision
from slimkit.modules import copied, private, unwrapped
from slimkit.returned import RETURNED, form_of, output_names
from slimkit.settings.checks import text
from slimkit.settings.files import OPSET
from slimkit.whole_file import whole

_Translate = Callable[[nn.Module, Example, Sequence[str]], OnnxModel]
_log = logging.getLogger("slimkit")
_LARGEST = 2**31 - 1  # bytes of one protobuf message


@dataclass(frozen=True)
class Exported:
    """How a network came to its ONNX file.

    Attributes:
        road: `direct`, our own translation, or `general`, torch's exporter.
        batch: the batch size that the file is bound to; None where it is free.
        why: why the file is bound to a batch though that was not asked for, else "".
    """

    road: str
    batch: int | None
    why: str = ""


@plain_precision()
def export_onnx(
    model: nn.Module,
    path: str | Path,
    example_input: Example,
    metadata: dict[str, str] | None = None,
    *,
    opset: int = OPSET,
    fixed_batch: bool = False,
    free_size: bool = False,
    embed_normalisation: bool = False,
) -> Exported:
    """Write a network in evaluation mode to one ONNX file; the network is left as it was found.

    One input is called `input`, those of a tuple `input_0`, `input_1`, ..., those of a dict by their keys, those of a
    list in it `KEY_0`, `KEY_1`, ...; outputs likewise, by the keys of the dict or the object that the network returns,
    else `output`, or `output_0`, `output_1`, ... BatchNorm is folded into the layer before it where that is exact. The
    same network gives the same bytes. The file takes its place only after `onnx.checker` has passed and ONNX Runtime
    has computed batches of 1 and 3 as torch does. Our own translation is tried first, then torch's exporter, then
    torch's exporter for a batch of one. The file's `metadata_props` say in `usage` how the network is used, as far as
    slimkit knows: see `slimkit.usage.Usage`; in `returned` what the outputs were in when the network returned them, so
    that a task of somebody's own finds them there.

    Args:
        model: any network.
        path: the file; one that is there is replaced.
        example_input: a tensor [N, ...], any N, a tuple of arguments, or a dict of keyword arguments.
        metadata: written to the file's `metadata_props` too.
        opset: version of ONNX's operators.
        fixed_batch: bind the file to batches of one.
        free_size: leave all dimensions after the second free; ONNX Runtime must also compute a second size right.
        embed_normalisation: put mean and std of the network's images into the file: it takes pixels of 0 to 255.

    Raises:
        TraceError: the network does not run on such an input.
        EngineError: it cannot be expressed in ONNX, or not in one file of 2 GB, or not as asked for.
        SpecError: metadata are no texts.
        OutputError: the file cannot be written; nothing is left of it.
    """
    path, model = Path(path), unwrapped(model)
    _refuse(model)
    for key, value in (metadata or {}).items():
        text("a key of metadata", key)
        text(f"metadata[{key!r}]", value)
    known = provenance.of(model)
    if any(t.device.type != "cpu" for t in (*model.parameters(), *model.buffers())):
        model = copied(model).cpu()
    example_input = mapped(example_input, Tensor.cpu)
    prepare, placed = private, _as_is
    if embed_normalisation:
        scale = normalisation_of(model, example_input)
        prepare, placed = (
            partial(normalising, normalisation=scale),
            partial(mapped, change=partial(as_pixels, normalisation=scale)),
        )
    expected = references(prepare(model), example_input, free_size, placed)
    with torch.no_grad():
        returned = call(prepare(model), expected[0].example)
    form = form_of(returned)
    outputs = output_names(form, named(example_input))
    if not _is_nest(returned):
        prepare = partial(_flattened, prepare=prepare)
    several = next((one.example for one in expected if batch_size(one.example) >= SEVERAL), None)
    why = "" if several is not None else "it takes one image at a time"
    proven = {name: tuple(tensor.shape[1:]) for name, tensor in named(example_input).items()}
    with _guarded(path), whole(path) as part:
        for last, (name, translate, batch) in _roads(opset, fixed_batch or several is None, free_size):
            try:
                given = several if batch is None and several is not None else expected[0].example
                made = translate(prepare(model), given, outputs)
                said = usage.described(known, *_ends(made.proto), embed_normalisation, batch, proven)
                notes = {"usage": json.dumps(said.to_dict()), RETURNED: json.dumps(form)}
                _write(made, part, {**notes, **(metadata or {})})
                check(part, expected, batch)
                break
            except OutputError:
                raise
            except Exception as error:  # whatever stops one road, the next may serve
                if last:
                    raise _refusal(model, error) from error
                _log.debug("%s: the %s road to ONNX: %s", type(model).__name__, name, line(error))
                why = line(error)
    return Exported(name, batch, "" if batch is None or fixed_batch else why)


def _is_nest(returned: Any) -> bool:
    """Tell whether a network returns tensors in what torch's exporter looks into: tuples, lists, dicts."""
    return all(isinstance(leaf, Tensor | int | float | None) for leaf in tree_leaves(returned))


def _flattened(model: nn.Module, prepare: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """Return a network ready for export that returns its tensors in a tuple, whatever objects they are in."""
    twin = prepare(model)
    forward = twin.forward

    @wraps(forward)
    def flat(*args: Any, **settings: Any) -> tuple[Tensor, ...]:
        return tuple(tensors(forward(*args, **settings)))

    twin.forward = flat
    return twin


def _as_is(example: Example) -> Example:
    return example


def _refuse(model: nn.Module) -> None:
    """Refuse what no road can take."""
    name = type(model).__name__
    if sum(t.nbytes for t in (*model.parameters(), *model.buffers())) > _LARGEST:
        raise EngineError(
            f"{name} cannot be exported to ONNX: one file holds 2 GB, its weights are more.\n"
            "  Use slimkit's own file (.safetensors or .pt2) instead"
        )
    if dtype_of(model) == torch.bfloat16:
        raise EngineError(
            f"{name} cannot be exported to ONNX: ONNX Runtime has no convolutions in bfloat16.\n  Export model.float()"
        )


def _roads(opset: int, fixed_batch: bool, free_size: bool) -> Iterator[tuple[bool, tuple[str, _Translate, int | None]]]:
    """Give the roads to try, one after the other, and whether each is the last."""
    by_torch = partial(general.translate, opset=opset, free_size=free_size)
    if not fixed_batch:
        if opset == OPSET and not free_size:
            yield False, ("direct", direct.translate, None)
        yield False, ("general", by_torch, None)
    yield True, ("general", partial(by_torch, free_batch=False), 1)


def _refusal(model: nn.Module, error: Exception) -> EngineError:
    if isinstance(error, EngineError):
        return error
    helps = {torch.float64, torch.bfloat16} & set(dtypes_of(model))
    remedy = "Export model.float()" if helps else "Keep the network as slimkit's own file (.safetensors or .pt2)"
    return EngineError(f"{type(model).__name__} cannot be exported to ONNX: {line(error)}.\n  {remedy}")


def _ends(proto: onnx.ModelProto) -> tuple[dict[str, tuple[usage.OpenShape, str]], list[str]]:
    """Return the inputs of a graph, name -> (shape of one image, type), and the names of its outputs."""
    inputs: dict[str, tuple[usage.OpenShape, str]] = {}
    for entry in proto.graph.input:
        kind = entry.type.tensor_type
        sizes = [None if size.dim_param else int(size.dim_value) for size in kind.shape.dim]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name
        inputs[entry.name] = tuple(sizes[1:]), str(dtype)
    return inputs, [entry.name for entry in proto.graph.output]


def _write(model: OnnxModel, path: Path, metadata: dict[str, str]) -> None:
    model.proto.producer_name, model.proto.producer_version = "slimkit", __version__
    onnx.helper.set_model_props(model.proto, dict(sorted({**metadata, "slimkit": __version__}.items())))
    with _guarded(path):
        model.save(path)


@contextmanager
def _guarded(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{path.parent}: the ONNX file cannot be written: {error.strerror or error}.\n"
            "  Make room, or choose another place with `out`"
        ) from error
