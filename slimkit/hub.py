"""Slim networks in repositories of the Hugging Face hub: `push` a run with its card, `pull` a network back.

Needs `slimkit[hub]`. Who one is to the hub, and where it keeps what it fetched, is `huggingface_hub`'s own affair.
"""

import shutil
import tempfile
from pathlib import Path
from typing import Any

from torch import nn

from slimkit.errors import CheckpointError, EngineError
from slimkit.models import load, load_slim
from slimkit.report.card import card
from slimkit.results import report_file

_CHECKPOINT = "model.pt"  # of Ultralytics
_SLIM = ("model.safetensors", "model.pt2", _CHECKPOINT)
_FILES = (*_SLIM, "model.onnx", "model.int8.onnx", "report.json")


def push(folder: str | Path, repository: str, *, private: bool = True, message: str = "Slim network") -> str:
    """Upload the output folder of a run: its networks, its report, and a card made of the report.

    They take the place of those of an earlier run; other files of the repository stay.

    Args:
        folder: as `compress` and `train` leave it.
        repository: `owner/name`; made where it is not there.
        private: whether a repository that is made is private.
        message: of the commit.

    Returns:
        Where it is now.

    Raises:
        CheckpointError: the folder holds no slim file.
        EngineError: `huggingface_hub` is not installed, or the hub refuses.
    """
    folder = Path(folder)
    if not any((folder / name).is_file() for name in _SLIM):
        raise CheckpointError(
            f"{folder}: has no {' or '.join(_SLIM)}.\n  Give the output folder of slimkit compress or train"
        )
    api = _library().HfApi()
    with tempfile.TemporaryDirectory() as staged:
        for name in _FILES:
            if (folder / name).is_file():
                shutil.copyfile(folder / name, Path(staged) / name)
        text = card(report_file.read(folder), repository)
        (Path(staged) / "README.md").write_text(text, encoding="utf-8")
        try:
            api.create_repo(repository, private=private, exist_ok=True)
            older = list(_FILES)  # of an earlier run: what this one left none of goes
            return str(
                api.upload_folder(repo_id=repository, folder_path=staged, commit_message=message, delete_patterns=older)
            )
        except Exception as error:  # of the network and of the hub, without a common base
            raise _refused(repository, error) from error


def pull(
    repository: str,
    *,
    revision: str | None = None,
    arch: str | None = None,
    cache: str | Path | None = None,
    offline: bool = False,
    max_memory: int | str | None = None,
) -> nn.Module:
    """Fetch a slim network and load it, as `slimkit.load` does: no code from the repository is run.

    Of Ultralytics it is what surgery sees of a network, `.net` the network itself.

    Args:
        repository: `owner/name`.
        revision: a commit, branch or tag.
        arch: factory of the network, where the file names one that is not slimkit's, torchvision's or timm's.
        cache: folder of what was fetched; the hub's own unless given.
        offline: take what is in the cache, ask nobody.
        max_memory: as for `slimkit.load`.

    Raises:
        EngineError: `huggingface_hub` is not installed, or the hub has no such repository.
        CheckpointError: there is no slim file in it.
    """
    library = _library()
    try:
        folder = library.snapshot_download(
            repository, revision=revision, cache_dir=cache, local_files_only=offline, allow_patterns=list(_SLIM)
        )
    except Exception as error:  # of the network and of the hub, without a common base
        raise _refused(repository, error) from error
    found = next((Path(folder) / name for name in _SLIM if (Path(folder) / name).is_file()), None)
    if found is None:
        raise CheckpointError(f"{repository}: has no {' or '.join(_SLIM)}.\n  Name a repository that slimkit pushed")
    if found.name == _CHECKPOINT:
        return load(found, max_memory=max_memory).model
    return load_slim(found, arch=arch, max_memory=max_memory)


def _library() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise EngineError(
            "the hub: the package huggingface_hub is not installed.\n  Install it: pip install 'slimkit[hub]'"
        ) from error
    return huggingface_hub


def _refused(repository: str, error: Exception) -> EngineError:
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return EngineError(
        f"{repository}: the hub cannot be reached or refuses: {line[:300]}.\n"
        "  See to the name, and to who you are there: hf auth login"
    )
