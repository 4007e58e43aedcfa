"""What kind of file a checkpoint is, told by what is in it, never by its suffix."""

import zipfile
from enum import Enum
from pathlib import Path
from typing import BinaryIO

from slimkit.errors import CheckpointError
from slimkit.models import memory
from slimkit.own_code import is_url

_LEGACY_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the pickled magic number of torch < 1.6
_MOST_FIELDS = 2_000  # of an ONNX file, read byte by byte: what comes before the graph, or after it
_EXPORT_AGAIN = (
    "Give the checkpoint the ONNX file was made from: a state dict (torch.save(model.state_dict(), PATH)),\n"
    "  a .safetensors file, or an exported program (torch.export.save)."
)


class Kind(Enum):
    """The kinds of files that can hold a trainable network."""

    SAFETENSORS = "safetensors"
    TORCH = "torch file"
    EXPORTED = "exported program"


def kind(path: Path) -> Kind:
    """Tell the kind of a checkpoint.

    Raises:
        CheckpointError: no such file, an empty or truncated one, or a kind that holds no trainable network;
            the message says what to give instead.
    """
    try:
        size = path.stat().st_size
        if path.is_dir():
            raise CheckpointError(
                f"{path}: is a folder, not a checkpoint.\n"
                "  Give one of the files in it: .safetensors, .pt, .pth "
                "or .pt2"
            )
        with path.open("rb") as file:
            head = file.read(512)
            if head.startswith(b"PK\x03\x04"):
                return _kind_of_zip(path, file)
            if _is_safetensors(path, head, size):
                return Kind.SAFETENSORS
            if head.startswith(_LEGACY_TORCH):
                return Kind.TORCH
            raise CheckpointError(f"{path}: {_refusal(head, file, size)}")
    except FileNotFoundError:
        remedy = "It is a URL: give a path on this machine" if is_url(str(path)) else "Check the path of the checkpoint"
        raise CheckpointError(f"{path}: no such file.\n  {remedy}.") from None
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be read ({error.strerror}).\n  Check the path and its permissions."
        ) from None


def damaged(path: object, detail: str) -> CheckpointError:
    """Make the error for a file that starts like a checkpoint but cannot be read to its end."""
    line = (detail.strip() or "no details").splitlines()[0].rstrip(".")
    return CheckpointError(
        f"{path}: the file is damaged or incomplete ({line}).\n"
        "  Download or save it again, and check that its "
        "size is what it should be."
    )


def _is_safetensors(path: Path, head: bytes, size: int) -> bool:
    if len(head) < 9 or head[8:9] != b"{":
        return False
    length = int.from_bytes(head[:8], "little")
    if length > 100_000_000:  # the format's own limit for a header: this is something else
        return False
    if 8 + length > size:
        raise damaged(path, f"its header of {length} bytes is cut off at {size}")
    return True


def _kind_of_zip(path: Path, file: BinaryIO) -> Kind:
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
            memory.check_size(sum(member.file_size for member in archive.infolist()), "what its archive declares")
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise damaged(path, str(error)) from None
    inner = {name.split("/", 1)[-1] for name in names}
    if "constants.pkl" in inner or any(name.startswith("code/") for name in inner):
        raise CheckpointError(
            f"{path}: is a TorchScript archive (torch.jit.save), whose layers are frozen into compiled code "
            "and cannot be taken apart.\n"
            "  Give the weights instead: torch.save(scripted.state_dict(), PATH), with "
            "`arch` where the architecture is not found by itself;\n  or export the Python module: "
            "torch.export.save(torch.export.export(model, (example,)), 'model.pt2')"
        )
    if any(name.startswith(("data/aotinductor/", "aotinductor/")) for name in inner):
        raise CheckpointError(
            f"{path}: is a package compiled by AOTInductor: machine code, not a trainable network.\n"
            "  Give the exported program it was compiled from (torch.export.save) or a state dict."
        )
    if any(name.startswith("models/") and name.endswith(".json") for name in inner):
        _check_sums(path)
        return Kind.EXPORTED
    if "serialized_exported_program.json" in names:
        raise CheckpointError(
            f"{path}: is an exported program in the format of torch 2.7 and before.\n"
            "  Load it with that torch and save a state dict, or export the model again with a newer torch."
        )
    if "data.pkl" in inner:
        _check_sums(path)
        return Kind.TORCH
    if any(name.endswith(".npy") for name in names):
        raise CheckpointError(
            f"{path}: is a NumPy archive (.npz).\n  Save the arrays as a state dict: torch.save({{name: "
            "torch.from_numpy(array) ...}, PATH)"
        )
    raise CheckpointError(
        f"{path}: is a zip archive without a network in it (first members: "
        f"{', '.join(names[:3]) or 'none'}).\n"
        "  Give a state dict (.pt, .pth, .safetensors), a pickled torchvision or timm module, or a .pt2 file."
    )


def _check_sums(path: Path) -> None:
    """Compare every member with its checksum, which torch.load does not do.

    Raises:
        CheckpointError: one is damaged. Where none fits, torch was told to write none, and they say nothing.
    """
    good, bad = 0, []
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            try:
                with archive.open(member) as stream:
                    while stream.read(2**20):
                        pass
                good += 1
            except Exception:  # a damaged member can fail in any way: names that are no text, odd packings
                bad.append(member.filename)
    if good and bad:
        raise damaged(path, f"the checksum of {bad[0]} does not fit")


def _refusal(head: bytes, file: BinaryIO, size: int) -> str:
    """Say what a file is, and what to give instead."""
    text = head.lstrip()[:64].lower()
    if not size:
        return "the file is empty.\n  Download or save it again."
    if head.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the file itself.\n  Fetch it with `git lfs pull`."
    if text.startswith((b"<!doctype html", b"<html", b"<?xml")):
        return "is a web page, not a checkpoint: the download failed.\n  Download it again."
    if head.startswith(b"\x89HDF"):
        return (
            "is an HDF5 file, as Keras writes it; slimkit reads PyTorch networks.\n"
            "  Give a PyTorch state dict (.pt, .pth, .safetensors)."
        )
    if head[257:262] == b"ustar":
        return (
            "is a tar archive: either packed files, or a checkpoint in the format of torch before 0.4, which "
            "cannot be read without running its code.\n"
            "  Unpack it, or load it with torch.load in an environment "
            "you trust and save the state dict again."
        )
    if head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf", b"Rar!")):
        return "is a compressed archive.\n  Unpack it and give the checkpoint inside."
    if head[4:8] == b"TFL3":
        return "is a TensorFlow Lite model, not a PyTorch network.\n  Give a PyTorch state dict or .pt2 file."
    if head.startswith(b"GGUF"):
        return "is a GGUF language model; slimkit slims convolutional networks.\n  Give a PyTorch state dict."
    if head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05":
        return (
            "is a plain Python pickle, not a file written by torch.save; reading it could run any code.\n"
            "  Load it yourself if you trust it, and save the weights: torch.save(model.state_dict(), PATH)"
        )
    if _is_onnx(file, size):
        return (
            "is an ONNX model, not a trainable network: in ONNX, batch normalisation is already folded into the "
            f"convolutions, and what PyTorch computes by is gone.\n  {_EXPORT_AGAIN}"
        )
    return (
        "is no checkpoint that slimkit knows, or a damaged one.\n"
        "  Give a state dict (.pt, .pth, .safetensors), "
        "a pickled torchvision or timm module, or an exported program (.pt2)."
    )


def _is_onnx(file: BinaryIO, size: int) -> bool:
    """Walk the top-level protobuf fields: an ONNX ModelProto has ir_version (1) and graph (7)."""
    file.seek(0)
    seen: set[int] = set()
    for _ in range(_MOST_FIELDS):
        if file.tell() >= size:
            return False
        tag = _varint(file)
        field, wire = tag >> 3, tag & 7
        if field == 0 or field > 30 or wire not in (0, 2):
            return False
        value = _varint(file)
        if wire == 2:
            file.seek(min(value, size), 1)  # no file can be asked for a place beyond 2^63
        seen.add(field)
        if {1, 7} <= seen:
            return True
    return False


def _varint(file: BinaryIO) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            return 0
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            break
    return value
