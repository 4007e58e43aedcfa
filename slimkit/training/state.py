"""The state of a run on disk: written whole or not at all, checked when read, no pickled code."""

import hashlib
import io
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from slimkit import out_of_memory
from slimkit.errors import OutputError, TrainingError
from slimkit.pickled import torch_file, values

_MAGIC = b"slimkit training state 1\n"
_NAME, _PREVIOUS = "state.bin", "state.previous.bin"
LOG = "train.log"  # what each epoch gave, beside the states; it moves to the output when all is done


@dataclass(frozen=True)
class Store:
    """Where a run keeps its state.

    Attributes:
        folder: made if missing; holds the newest state and the one before.
        resume: go on from what is there; otherwise a state that is there is an error.
        identity: what must be equal for two runs to be one (settings, architecture, version); JSON-able.
        seconds: how long to wait between two states; 0: one after every step.
    """

    folder: Path
    resume: bool = False
    identity: dict[str, Any] = field(default_factory=dict)
    seconds: float = 30.0


@dataclass
class Interrupt:
    """Whether Ctrl-C has been pressed."""

    pressed: bool = False


def write(store: Store, state: dict[str, Any]) -> None:
    """Write a state of tensors, numbers, strings, lists and dicts; the one there becomes the previous one.

    Raises:
        OutputError: it cannot be written (a full disk); the states that were there are still there.
    """
    buffer = io.BytesIO()
    torch.save({"identity": store.identity, **state}, buffer)
    payload = buffer.getbuffer()
    temporary = store.folder / f"{_NAME}.tmp"
    try:
        store.folder.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(_MAGIC + hashlib.blake2b(payload).digest())
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        if (store.folder / _NAME).exists():
            os.replace(store.folder / _NAME, store.folder / _PREVIOUS)
        os.replace(temporary, store.folder / _NAME)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OutputError(
            f"{store.folder}: the state of the run cannot be saved: {error.strerror or error}.\n"
            "  Make room or mend the folder, then go on with `resume=True` from the last state"
        ) from error


def read(store: Store) -> tuple[dict[str, Any] | None, str | None]:
    """Return the newest state that is whole, and a note where that isn't the newest one.

    None without a note: there is none, the run starts at its beginning.

    Raises:
        TrainingError: states are there but all damaged; or they are another run's; or `resume` was not asked.
    """
    paths = [path for name in (_NAME, _PREVIOUS) if (path := store.folder / name).exists()]
    if not paths:
        return None, None
    refuse_unasked(store)
    for path in paths:
        state = _read(path)
        if state is not None:
            _check(store, state["identity"])
            note = f"{paths[0].name} was damaged; went on from {path.name}" if path != paths[0] else None
            return state, note
    raise TrainingError(
        f"{store.folder}: {' and '.join(p.name for p in paths)} are damaged.\n  Delete the folder and start again"
    )


def refuse_unasked(store: Store) -> None:
    """Refuse to begin where a state is that nobody asked to go on from.

    Raises:
        TrainingError: so it is.
    """
    if exists(store) and not store.resume:
        raise TrainingError(
            f"{store.folder} holds the state of a run.\n  Give `resume=True` to go on with it, or delete it"
        )


def refuse_others(store: Store) -> None:
    """Refuse to begin, in the place of a run or of one of its stages, where the state of another run is.

    Stages are named by what they begin with, so that those of another run would not be found, only forgotten at the
    end. What is damaged is left to whoever goes on from it.

    Raises:
        TrainingError: so it is; what differs.
    """
    for folder in (store.folder, *sorted(store.folder.glob("*/"))):
        for path in (folder / _NAME, folder / _PREVIOUS):
            if (found := _read(path)) is not None:
                _check(store, found["identity"])


def check(found: dict[str, Any]) -> None:
    """Check the numbers of a state, which the run goes by.

    Raises:
        TypeError, ValueError: one is of another kind, or there is none.
    """

    def of(value: Any, *kinds: type) -> None:
        if type(value) not in kinds:
            raise TypeError(f"{value!r:.40} is {type(value).__name__}")

    for name in ("step", "done"):
        of(found[name], int)
        if found[name] < 0:
            raise ValueError(f"{name} is {found[name]}")
    for number in (found["loss"], *found["losses"]):
        of(number, float)
    for note in found["notes"]:
        of(note, str)
    of(found["hooks"], list)
    if not found["phases"]:
        raise ValueError("no phases")
    for row in (*found["history"], *found["phases"]):
        for number in row.values():
            of(number, int, float, type(None))


@contextmanager
def fitting(store: Store) -> Iterator[None]:
    """Bring a run to a state in the block; what the state lacks, or has of another kind, is not our fault.

    Raises:
        TrainingError: the state does not fit the run.
    """
    try:
        yield
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, IndexError, OverflowError) as error:
        out_of_memory.pass_on(error)
        raise TrainingError(
            f"{store.folder}: the state does not fit this run ({type(error).__name__}: {error}).\n"
            "  Delete the folder and start again"
        ) from error


def forget(store: Store) -> None:
    """Remove the states of a run that is done, of its stages too; what else lies in the folder stays."""
    log = store.folder / LOG
    for folder in (*store.folder.glob("*/"), store.folder):
        states = (folder / name for name in (_NAME, _PREVIOUS, f"{_NAME}.tmp"))
        ours = [path for path in (*states, log) if path.parent == folder and path.is_file()]
        with suppress(OSError):  # what cannot be removed, or is not empty, stays
            for path in ours:
                path.unlink()
            if ours or folder == store.folder:
                folder.rmdir()


def exists(store: Store) -> bool:
    """Tell whether a state has been written, whole or not."""
    return any((store.folder / name).exists() for name in (_NAME, _PREVIOUS))


def anywhere(store: Store) -> bool:
    """Tell whether a state of the run has been written, of one of its stages too."""
    return any(exists(replace(store, folder=folder)) for folder in (store.folder, *store.folder.glob("*/")))


@contextmanager
def delayed_interrupt(active: bool) -> Iterator[Interrupt]:
    """Note Ctrl-C instead of raising in the middle of a step; the second one raises at once."""
    interrupt = Interrupt()
    if not active or threading.current_thread() is not threading.main_thread():
        yield interrupt
        return

    def note(number: int, frame: Any) -> None:
        if interrupt.pressed:
            raise KeyboardInterrupt
        interrupt.pressed = True

    before = signal.signal(signal.SIGINT, note)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, before)


def _read(path: Path) -> dict[str, Any] | None:
    """Return the state in a file, None where the file is damaged."""
    try:
        raw = path.read_bytes() if path.is_file() else b""  # a pipe would be waited for, a device has no end
    except OSError:
        return None
    start = len(_MAGIC) + hashlib.blake2b().digest_size
    payload = memoryview(raw)[start:]
    if not raw.startswith(_MAGIC) or raw[len(_MAGIC) : start] != hashlib.blake2b(payload).digest():
        return None
    try:
        state = torch_file.load(io.BytesIO(payload), values.value)
    except Exception:  # whoever can change the file can make the digest fit
        return None
    return state if isinstance(state, dict) and isinstance(state.get("identity"), dict) else None


def _check(store: Store, found: dict[str, Any]) -> None:
    names = sorted(set(found) | set(store.identity))
    other = [name for name in names if found.get(name) != store.identity.get(name)]
    if other:
        first = other[0]
        raise TrainingError(
            f"{store.folder} is the state of another run: {', '.join(other)} differ ({first} was "
            f"{found.get(first)!r}, is {store.identity.get(first)!r}).\n"
            "  Go on with the same settings and data, or start in another folder"
        )
