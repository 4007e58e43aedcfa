"""Reading files of torch.save without running what is in them."""

import argparse
import builtins
import functools
import importlib
import io
import pathlib
import pickletools
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, cast

import numpy as np
import torch
from torch import fx, nn

from slimkit.errors import CheckpointError
from slimkit.models.files import damaged

# Packages whose nn.Module classes may be rebuilt: that runs no code of the file.
_MODULE_PACKAGES = ("torch.nn.modules", "torchvision.models", "torchvision.ops", "timm.models", "timm.layers")
_WRAPPERS: dict[str, Any] = {
    "torch.nn.parallel.data_parallel.DataParallel": nn.DataParallel,
    "functools.partial": functools.partial,  # of something that is allowed itself
}
# What networks hold as attributes beside modules: pure functions of tensors.
_FUNCTIONS = {
    "torch.nn.functional": (
        "relu", "relu6", "gelu", "silu", "mish", "elu", "leaky_relu", "hardswish", "hardsigmoid", "hardtanh",
        "softplus", "softmax", "sigmoid", "tanh", "normalize", "dropout", "max_pool2d", "avg_pool2d",
        "adaptive_avg_pool2d", "interpolate", "pad",
    ),
    "torch": ("relu", "sigmoid", "tanh", "flatten", "add", "cat"),
    "torch._C._nn": ("gelu", "silu", "hardswish", "hardsigmoid", "hardtanh", "relu6", "mish"),
    "timm.layers.format": ("Format",),
    "timm.layers.weight_init": ("trunc_normal_", "trunc_normal_tf_", "lecun_normal_"),
}  # fmt: skip
# The functions by which NumPy pickles arrays and numbers; their module's name differs between its versions.
_NUMPY_FUNCTIONS: list[Any] = [np.zeros(1).__reduce__()[0], np.float64(1).__reduce__()[0]]


def _empty_dict(*_: Any) -> dict[Any, Any]:
    return {}


def _empty_list(*_: Any) -> list[Any]:
    return []


# Data that training scripts store beside the weights.
_PLAIN: list[Any] = [
    argparse.Namespace, (_empty_dict, "collections.defaultdict"), (_empty_list, "collections.deque"),
    set, frozenset, dict, list, tuple, slice, int, float, bool, str, bytes, complex,
    np.dtype, np.ndarray, *(kind for kind in vars(np.dtypes).values() if isinstance(kind, type)),
    *((function, f"numpy.{core}.multiarray.{function.__name__}")
      for function in _NUMPY_FUNCTIONS for core in ("core", "_core")),
    *((pathlib.PurePosixPath, f"{place}.{name}") for place in ("pathlib", "pathlib._local")
      for name in ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath")),
]  # fmt: skip


def read(path: Path, trust_pickle: bool) -> Any:
    """Read a file written by torch.save.

    Unless `trust_pickle`, only tensors, plain data and modules of torch, torchvision and timm are built.

    Raises:
        CheckpointError: damaged, or it names something else; the message names the culprit.
    """
    if trust_pickle:
        return _load(path, weights_only=False)
    modules = []
    for name in sorted(_globals(path)):
        allowed = _allowed(name)
        if allowed is not None:
            modules.append((allowed, name))
    safe = [*_PLAIN, *modules]
    with torch.serialization.safe_globals(safe):
        return _load(path, weights_only=True)


def _load(path: Path, weights_only: bool) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about sources that changed and storages that are deprecated
            return torch.load(path, map_location="cpu", weights_only=weights_only)
    except UnpicklingError as error:
        if "Only persistent_load of storage" in str(error):
            raise CheckpointError(
                f"{path}: holds a whole network in the format of torch before 1.6, which cannot be read "
                "safely.\n  Give its weights alone, torch.save(model.state_dict(), PATH), or save it anew;\n"
                "  or, only if you trust where the file comes from, let it run: --trust-pickle"
            ) from None
        culprit = _culprit(str(error))
        if culprit is None:
            raise damaged(path, str(error).rpartition("WeightsUnpickler error:")[2]) from None
        raise _unsafe(path, culprit) from None
    except (ImportError, AttributeError) as error:
        if weights_only:
            raise damaged(path, f"{type(error).__name__}: {error}") from None
        raise CheckpointError(
            f"{path}: unpickling it failed with {type(error).__name__}: {error}.\n"
            "  Run slimkit where the code that "
            "made the file can be imported, or give a state dict and --arch."
        ) from error
    except Exception as error:  # a damaged pickle can fail in any way
        raise damaged(path, f"{type(error).__name__}: {error}") from None


def _globals(path: Path) -> set[str]:
    """List, without running anything, the names that the pickles of a file ask for."""
    found: set[str] = set()
    for data in _pickles(path):
        strings: list[str] = []  # for STACK_GLOBAL, whose operands are the last two strings
        try:
            for opcode, argument, _ in pickletools.genops(data):
                if opcode.name in ("GLOBAL", "INST"):
                    found.add(".".join(str(argument).split(" ", 1)))
                elif opcode.name == "STACK_GLOBAL" and len(strings) > 1:
                    found.add(".".join(strings[-2:]))
                elif isinstance(argument, str):
                    strings.append(argument)
        except Exception as error:  # whatever a damaged pickle makes of itself
            raise damaged(path, f"{type(error).__name__}: {error}") from None
    return found


def _pickles(path: Path) -> Iterator[io.BytesIO | bytes]:
    """Yield the pickles inside a file: one in a zip, several in a row in the older format."""
    if zipfile.is_zipfile(path):
        try:
            yield torch._C.PyTorchFileReader(str(path)).get_record("data.pkl")
        except RuntimeError as error:
            raise damaged(path, str(error)) from None
        return
    with path.open("rb") as file:
        stream = io.BytesIO(file.read(64 * 2**20))  # the storages behind the pickles are not read
        for _ in range(5):  # magic number, protocol, system, the object, storage keys
            if stream.tell() == stream.getbuffer().nbytes:
                return
            yield stream


def _allowed(name: str) -> Any:
    """Return what a global name in a pickle may stand for, None where it is not allowed or already known."""
    if name in _WRAPPERS:
        return _WRAPPERS[name]
    place, _, leaf = name.rpartition(".")
    if leaf in _FUNCTIONS.get(place, ()):
        return getattr(importlib.import_module(place), leaf)
    if not any(place == package or place.startswith(f"{package}.") for package in _MODULE_PACKAGES):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = getattr(importlib.import_module(place), leaf, None)
    except Exception:
        return None
    good = (
        isinstance(found, type)
        and issubclass(found, nn.Module)
        and not issubclass(found, fx.GraphModule | torch.jit.ScriptModule)  # rebuilt by running generated code
        and found.__module__ == place
    )
    return found if good else None


def _culprit(message: str) -> str | None:
    """Read the refused name out of torch's message; None where the file is damaged instead."""
    for before in (
        "Unsupported global: GLOBAL ",
        "Trying to load unsupported GLOBAL ",
        "unrecognized function ",
    ):
        if before in message:
            return message.split(before, 1)[1].split(" was not")[0].split(" whose")[0].split("\n")[0].strip(" .")
    return None


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
