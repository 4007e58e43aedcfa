"""Reading files of torch.save without running what is in them."""

import builtins
import warnings
from pathlib import Path
from typing import Any

import torch

from slimkit import own_code
from slimkit.errors import CheckpointError
from slimkit.models import pickled_modules, ultralytics
from slimkit.models.files import damaged
from slimkit.pickled import torch_file
from slimkit.pickled.machine import Refused


def read(path: Path, trust_pickle: bool) -> Any:
    """Read a file written by torch.save.

    Unless `trust_pickle`, only tensors, plain data and modules of torch, torchvision, timm and Ultralytics are built.

    Raises:
        CheckpointError: damaged, or it names something else; the message names the culprit.
    """
    if trust_pickle:
        return _run(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about storages that are deprecated
            with path.open("rb") as file:
                return pickled_modules.finished(torch_file.load(file, pickled_modules.word))
    except Refused as error:
        if str(error) == torch_file.WHOLE_NETWORK:
            raise CheckpointError(
                f"{path}: holds {error}, which cannot be read safely.\n"
                "  Give its weights alone, torch.save(model.state_dict(), PATH), or save it anew;\n"
                "  or, only if you trust where the file comes from, let it run: `trust_pickle=True`"
            ) from None
        raise _unsafe(path, str(error)) from None
    except Exception as error:  # a damaged pickle can fail in any way
        raise damaged(path, f"{type(error).__name__}: {error}") from None


def _run(path: Path) -> Any:
    """Let torch unpickle a file that the user trusts."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about sources that changed and storages that are deprecated
            with own_code.on_path(str(Path.cwd())):  # where `arch` looks too
                return torch.load(path, map_location="cpu", weights_only=False)
    except (ImportError, AttributeError) as error:
        raise CheckpointError(
            f"{path}: unpickling it failed with {type(error).__name__}: {error}.\n"
            "  Run slimkit in the folder of the code that made the file, or with that folder in PYTHONPATH; or give a "
            "state dict and `arch`"
        ) from error
    except Exception as error:
        raise damaged(path, f"{type(error).__name__}: {error}") from None


def _unsafe(path: Path, culprit: str) -> CheckpointError:
    if culprit.startswith("ultralytics."):
        version = ultralytics.installed()
        if version == "none":
            return CheckpointError(
                f"{path}: is a checkpoint of Ultralytics, which is not installed.\n"
                "  Install it: pip install 'slimkit[ultralytics]'"
            )
        return CheckpointError(
            f"{path}: is a checkpoint of Ultralytics, and {culprit!r} in it is no layer of {version}, which is "
            "installed.\n  Install the version that made it; or, only if you trust where the file comes from, let it "
            "run: `trust_pickle=True`"
        )
    name = culprit if "." in culprit or not hasattr(builtins, culprit) else f"builtins.{culprit}"
    return CheckpointError(
        f"{path}: is a pickle that asks for {name!r}, which slimkit does not run from a file.\n"
        "  Either give the weights alone, torch.save(model.state_dict(), PATH), and `arch='module:factory'` or "
        "file.py:factory;\n  or, only if you trust where the file comes from, let it run: `trust_pickle=True`"
    )
