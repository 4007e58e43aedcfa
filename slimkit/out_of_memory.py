"""Memory that runs out, of a GPU or of the machine: its user can mend it, and no network is to blame.

PyTorch has an error of its own for GPUs only, and engines have none, so that of others the message tells.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from slimkit.errors import DeviceMemoryError

_ON_GPU = "OutOfMemoryError"  # of torch, by its name: commands that need no torch import none
_SAID = (
    "out of memory", "can't allocate memory", "Cannot allocate memory", "Failed to allocate memory",
    "not enough memory: you tried", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED",
)  # fmt: skip
_MOST = 200  # letters of a message


def of(error: BaseException) -> DeviceMemoryError | None:
    """Return what a user can do about an exception that says that memory ran out; None of any other."""
    if isinstance(error, DeviceMemoryError):
        return error
    words = str(error)
    on_gpu = any(kind.__name__ == _ON_GPU for kind in type(error).__mro__)
    if not on_gpu and not isinstance(error, MemoryError) and not any(said in words for said in _SAID):
        return None
    line = (words.strip().splitlines() or [type(error).__name__])[0]
    elsewhere = ", or `device='cpu'`" if on_gpu or any(name in words for name in ("CUDA", "CUBLAS", "CUDNN")) else ""
    return DeviceMemoryError(
        f"memory ran out: {line[:_MOST].rstrip('. ')}.\n"
        f"  Give a smaller `batch_size`, or fewer or smaller inputs{elsewhere}"
    )


def pass_on(error: BaseException) -> None:
    """Raise a `DeviceMemoryError` where memory ran out; to be asked before an exception is held against a network."""
    if (found := of(error)) is not None:
        raise found from (None if found is error else error)


@contextmanager
def told() -> Iterator[None]:
    """Raise a `DeviceMemoryError` where memory runs out in the block."""
    try:
        yield
    except Exception as error:
        pass_on(error)
        raise
