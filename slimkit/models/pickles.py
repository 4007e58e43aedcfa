"""Reading files of torch.save without running what is in them."""

import builtins
import io
import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from slimkit.errors import CheckpointError
from slimkit.models import pickle_machine, pickled_modules
from slimkit.models.files import damaged
from slimkit.models.pickle_machine import Refused
from slimkit.models.pickled_values import Stored

_WHOLE_NETWORK = "a whole network in the format of torch before 1.6"


def read(path: Path, trust_pickle: bool) -> Any:
    """Read a file written by torch.save.

    Unless `trust_pickle`, only tensors, plain data and modules of torch, torchvision and timm are built.

    Raises:
        CheckpointError: damaged, or it names something else; the message names the culprit.
    """
    if trust_pickle:
        return _run(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about storages that are deprecated
            found = _from_zip(path) if zipfile.is_zipfile(path) else _from_stream(path)
            return pickled_modules.finished(found)
    except Refused as error:
        if str(error) == _WHOLE_NETWORK:
            raise CheckpointError(
                f"{path}: holds {error}, which cannot be read safely.\n"
                "  Give its weights alone, torch.save(model.state_dict(), PATH), or save it anew;\n"
                "  or, only if you trust where the file comes from, let it run: --trust-pickle"
            ) from None
        raise _unsafe(path, str(error)) from None
    except Exception as error:  # a damaged pickle can fail in any way
        raise damaged(path, f"{type(error).__name__}: {error}") from None


def _run(path: Path) -> Any:
    """Let torch unpickle a file that the user trusts."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about sources that changed and storages that are deprecated
            return torch.load(path, map_location="cpu", weights_only=False)
    except (ImportError, AttributeError) as error:
        raise CheckpointError(
            f"{path}: unpickling it failed with {type(error).__name__}: {error}.\n"
            "  Run slimkit where the code that "
            "made the file can be imported, or give a state dict and --arch."
        ) from error
    except Exception as error:
        raise damaged(path, f"{type(error).__name__}: {error}") from None


def _from_zip(path: Path) -> Any:
    """Read the format of torch since 1.6: one pickle, and a member of the archive for every storage."""
    reader = torch._C.PyTorchFileReader(str(path))
    if reader.has_record("byteorder") and reader.get_record("byteorder").decode() != sys.byteorder:
        raise ValueError("its numbers have the byte order of another machine")
    known: dict[str, torch.UntypedStorage] = {}

    def storage(identity: Any) -> Stored:
        dtype, key, count = _storage(identity)
        if key not in known:
            known[key] = _memory(reader.get_record(f"data/{key}"))
        return _stored(known[key], dtype, count)

    return pickle_machine.run(io.BytesIO(reader.get_record("data.pkl")), pickled_modules.word, storage)


def _from_stream(path: Path) -> Any:
    """Read the format before that: five pickles in a row, then the bytes of the storages."""
    known: dict[str, tuple[torch.UntypedStorage, torch.dtype]] = {}
    size = path.stat().st_size

    def storage(identity: Any) -> Stored:
        if isinstance(identity, tuple) and identity[:1] == ("module",):
            raise Refused(_WHOLE_NETWORK)
        dtype, key, count = _storage(identity)
        if dtype is None:
            raise ValueError("a storage of no type")
        if key not in known:
            if sum(memory.nbytes() for memory, _ in known.values()) + count * dtype.itemsize > size:
                raise EOFError("storages larger than the file")
            known[key] = torch.UntypedStorage(count * dtype.itemsize), dtype
        stored = _stored(known[key][0], dtype, count)
        view = identity[5] if len(identity) > 5 else None
        if view is None:
            return stored
        _, start, part = view
        if not all(type(number) is int and number >= 0 for number in (start, part)) or start + part > count:
            raise ValueError("a part of a storage outside of it")
        return Stored(stored.memory, dtype, start, part)

    with path.open("rb") as file:
        for _ in range(3):  # magic number, protocol, system
            pickle_machine.run(file, pickled_modules.word, storage)
        found = pickle_machine.run(file, pickled_modules.word, storage)
        for key in pickle_machine.run(file, pickled_modules.word, storage):
            count = int.from_bytes(file.read(8), "little")
            memory, dtype = known[str(key)]
            if count * dtype.itemsize != memory.nbytes():
                raise ValueError(f"{count} numbers in a storage of {memory.nbytes()} bytes")
            data = file.read(memory.nbytes())
            if len(data) != memory.nbytes():
                raise EOFError("a storage is cut off")
            memory.copy_(_memory(data))
            del known[str(key)]
        if known:
            raise EOFError("storages are missing")
    return found


def _storage(identity: Any) -> tuple[torch.dtype | None, str, int]:
    """Check a persistent id: ("storage", type, key, device, count, ...)."""
    kind, dtype, key, _, count, *_ = identity
    if kind != "storage" or not isinstance(dtype, torch.dtype | None) or type(count) is not int or count < 0:
        raise Refused(f"a persistent id of {kind!r}")
    return dtype, str(key), count


def _stored(memory: torch.UntypedStorage, dtype: torch.dtype | None, count: int) -> Stored:
    if count * (dtype.itemsize if dtype else 1) > memory.nbytes():
        raise EOFError(f"{count} numbers in a storage of {memory.nbytes()} bytes")
    return Stored(memory, dtype, 0, count)


def _memory(data: bytes) -> torch.UntypedStorage:
    if not data:
        return torch.UntypedStorage(0)
    return torch.frombuffer(bytearray(data), dtype=torch.uint8).untyped_storage()


def _unsafe(path: Path, culprit: str) -> CheckpointError:
    name = culprit if "." in culprit or not hasattr(builtins, culprit) else f"builtins.{culprit}"
    return CheckpointError(
        f"{path}: is a pickle that asks for {name!r}, which slimkit does not run from a file.\n"
        "  Either give the weights alone, torch.save(model.state_dict(), PATH), and --arch module:factory or "
        "file.py:factory;\n  or, only if you trust where the file comes from, let it run: --trust-pickle"
    )


def bare(module: nn.Module) -> nn.Module:
    """Take a network out of DataParallel and the like."""
    while isinstance(module, nn.DataParallel):
        module = cast(nn.Module, module.module)
    inner = getattr(module, "_orig_mod", None)  # torch.compile
    return inner if isinstance(inner, nn.Module) else module
