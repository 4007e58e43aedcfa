"""Files of torch.save read as data, in the format of today and in that before torch 1.6."""

import io
import sys
import zipfile
from collections.abc import Callable
from typing import Any, BinaryIO

import torch

from slimkit.pickled import machine
from slimkit.pickled.machine import Refused
from slimkit.pickled.values import Stored

WHOLE_NETWORK = "a whole network in the format of torch before 1.6"

Lookup = Callable[[str], Any]

_PACKED, _FEW_OPCODES = 16, 2**20  # bytes of a pickle in an archive: times those of the file, and at least
_LONGEST_KEY = 100  # of a storage: a number, or the address that it had


def load(file: BinaryIO, names: Lookup) -> Any:
    """Read what torch.save wrote.

    Args:
        file: open for reading, at its start.
        names: what the names in the pickle stand for; see `machine.run`.

    Raises:
        Refused: the pickle asks for something that is not known.
        Exception: any other, where the file is damaged.
    """
    zipped = zipfile.is_zipfile(file)
    file.seek(0)
    return _from_zip(file, names) if zipped else _from_stream(file, names)


def _from_zip(file: BinaryIO, names: Lookup) -> Any:
    """Read the format of torch since 1.6: one pickle, and a member of the archive for every storage."""
    reader: Any = torch._C.PyTorchFileReader(file)
    if reader.has_record("byteorder") and reader.get_record("byteorder").decode() != sys.byteorder:
        raise ValueError("its numbers have the byte order of another machine")
    known: dict[str, torch.UntypedStorage] = {}

    def storage(identity: Any) -> Stored:
        dtype, key, count = _storage(identity)
        if key not in known:
            known[key] = _memory(reader.get_record(f"data/{key}"))
        return _stored(known[key], dtype, count)

    pickled = reader.get_record("data.pkl")
    if len(pickled) > max(_FEW_OPCODES, _PACKED * file.seek(0, io.SEEK_END)):
        raise ValueError("a pickle packed into a small part of its size")
    return machine.run(io.BytesIO(pickled), names, storage)


def _from_stream(file: BinaryIO, names: Lookup) -> Any:
    """Read the format before that: five pickles in a row, then the bytes of the storages."""
    known: dict[str, tuple[torch.UntypedStorage, torch.dtype]] = {}
    left = file.seek(0, io.SEEK_END)  # bytes that storages may still take
    file.seek(0)
    allowance = machine.Allowance(left)

    def storage(identity: Any) -> Stored:
        nonlocal left
        if isinstance(identity, tuple) and identity[:1] == ("module",):
            raise Refused(WHOLE_NETWORK)
        dtype, key, count = _storage(identity)
        if dtype is None:
            raise ValueError("a storage of no type")
        if key not in known:
            left -= count * dtype.itemsize
            if left < 0:
                raise EOFError("storages larger than the file")
            known[key] = _room(count * dtype.itemsize), dtype
        stored = _stored(known[key][0], dtype, count)
        view = identity[5] if len(identity) > 5 else None
        if view is None:
            return stored
        _, start, part = view
        if not all(type(number) is int and number >= 0 for number in (start, part)) or start + part > count:
            raise ValueError("a part of a storage outside of it")
        return Stored(stored.memory, dtype, start, part)

    for _ in range(3):  # magic number, protocol, system
        machine.run(file, names, storage, allowance)
    found = machine.run(file, names, storage, allowance)
    for key in machine.run(file, names, storage, allowance):
        count = int.from_bytes(file.read(8), "little")
        memory, dtype = known.pop(key if isinstance(key, str) else "")
        if count * dtype.itemsize != memory.nbytes():
            raise ValueError(f"{count} numbers in a storage of {memory.nbytes()} bytes")
        data = file.read(memory.nbytes())
        if len(data) != memory.nbytes():
            raise EOFError("a storage is cut off")
        memory.copy_(_memory(data))
    if known:
        raise EOFError("storages are missing")
    return found


def _storage(identity: Any) -> tuple[torch.dtype | None, str, int]:
    """Check a persistent id: ("storage", type, key, device, count, ...)."""
    kind, dtype, key, _, count, *_ = identity
    if kind != "storage" or not (isinstance(dtype, torch.dtype | None) and isinstance(key, str)):
        raise ValueError("a persistent id that is no storage's")
    if len(key) > _LONGEST_KEY:
        raise ValueError("a storage of a long name")
    if type(count) is not int or count < 0:
        raise ValueError("a storage of no number of numbers")
    return dtype, key, count


def _stored(memory: torch.UntypedStorage, dtype: torch.dtype | None, count: int) -> Stored:
    if count * (dtype.itemsize if dtype else 1) > memory.nbytes():
        raise EOFError(f"{count} numbers in a storage of {memory.nbytes()} bytes")
    return Stored(memory, dtype, 0, count)


def _memory(data: bytes) -> torch.UntypedStorage:
    if not data:
        return _room(0)
    return torch.frombuffer(bytearray(data), dtype=torch.uint8).untyped_storage()


def _room(size: int) -> torch.UntypedStorage:
    return torch.empty(size, dtype=torch.uint8).untyped_storage()
