"""The engines that run ONNX files here: each opens a file and gives a function that computes one batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slimkit.errors import CheckpointError, EngineError

Array = NDArray[Any]


@dataclass(frozen=True)
class Port:
    """An input of a file.

    Attributes:
        name: as the file has it.
        shape: None where the file leaves a dimension free.
        dtype: type of its elements.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: np.dtype[Any]


def takes(free: Sequence[int | None], shape: Sequence[int]) -> bool:
    """Tell whether a shape is one that a file takes, whose free sizes are None."""
    return len(free) == len(shape) and all(size in (None, given) for size, given in zip(free, shape, strict=True))


def sizes(free: Sequence[int | None]) -> str:
    """Write the shape that a file takes: 3 x 96 x 96, or 3 x any x any."""
    return " x ".join("any" if size is None else str(size) for size in free)


@dataclass(frozen=True)
class Runner:
    """An ONNX file, opened by an engine.

    Attributes:
        compute: computes the outputs, [batch, ...] each, of one array an input.
        inputs: what it takes, in order.
        engine: name and version.
    """

    compute: Callable[[Sequence[Array]], Sequence[Array]]
    inputs: tuple[Port, ...]
    engine: str

    def run(self, given: Array | Sequence[Array]) -> Sequence[Array]:
        """Compute the outputs of one input, or of several in order."""
        return self.compute([given] if isinstance(given, np.ndarray) else given)


def open_runner(path: str | Path, engine: str = "onnxruntime", threads: int = 1) -> Runner:
    """Open an ONNX file for inference on the CPU.

    Args:
        path: the file.
        engine: `onnxruntime`; `openvino`, in 32-bit floats also where the processor has bfloat16; or
            `openvino-bf16`, in bfloat16 where it has that.
        threads: number of threads that compute.

    Raises:
        CheckpointError: the file is missing, damaged, or not one that the engine reads.
        EngineError: the engine is unknown or not installed, or an input is none of numbers.
    """
    require(engine)
    if not Path(path).is_file():
        there = "is no file" if Path(path).exists() else "no such file"
        raise CheckpointError(f"{path}: {there}.\n  Give the path of an ONNX file")
    return ENGINES[engine](Path(path), threads)


def require(engine: str) -> None:
    """Check that an engine is known and installed, before any work is done for it.

    Raises:
        EngineError: it is not; the message has the pip command.
    """
    if engine not in ENGINES:
        raise EngineError(f"engine {engine!r}: not known here.\n  Choose one of: {', '.join(ENGINES)}")
    if engine.startswith("openvino"):
        _openvino()


def runs_here(engine: str) -> bool:
    """Tell whether an engine is known and installed."""
    try:
        require(engine)
    except EngineError:
        return False
    return True


def onnxruntime_session(path: Path, threads: int, profile_prefix: str | None = None) -> Any:
    """Open a session with all optimisations: sequential, threads that sleep while they wait."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4
    if profile_prefix is not None:
        options.enable_profiling = True
        options.profile_file_prefix = profile_prefix
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's exceptions share no base class
        raise _unreadable(path, "ONNX Runtime", error) from error


def _open_onnxruntime(path: Path, threads: int) -> Runner:
    return onnxruntime_runner(path, onnxruntime_session(path, threads))


_TYPES = {
    "tensor(float)": "float32", "tensor(float16)": "float16", "tensor(double)": "float64", "tensor(bool)": "bool",
    **{f"tensor({sign}int{bits})": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}  # fmt: skip


def onnxruntime_runner(path: Path, session: Any) -> Runner:
    """Wrap an open session."""
    import onnxruntime

    entries = session.get_inputs()
    _some_input(path, len(entries))
    odd = next((entry.type for entry in entries if entry.type not in _TYPES), None)
    if odd is not None:
        raise EngineError(f"{path}: its input is {odd}, not numbers.\n  Give a file that takes a tensor of images")
    ports = tuple(
        Port(entry.name, tuple(s if isinstance(s, int) else None for s in entry.shape), np.dtype(_TYPES[entry.type]))
        for entry in entries
    )
    return Runner(
        compute=lambda arrays: session.run(None, {p.name: array for p, array in zip(ports, arrays, strict=True)}),
        inputs=ports,
        engine=f"onnxruntime {onnxruntime.__version__}",
    )


def _openvino() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise EngineError(
            "OpenVINO: the package is not installed.\n  Install it: pip install 'slimkit[openvino]'"
        ) from error
    return openvino


@cache
def _core() -> Any:
    """Return OpenVINO's one core: each sets this thread's stack for signals, and takes it away when it goes.

    Of two that end in the order of their making, the second puts back the first one's, which is no more: the
    next signal with a handler (a data loader's worker that ends) would kill the process.
    """
    return _openvino().Core()


def openvino_model(path: Path, threads: int, engine: str, profile: bool = False) -> Any:
    """Compile a file for one stream, in the precision of the engine's name; with `profile`, to time its nodes."""
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": "bf16" if engine == "openvino-bf16" else "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "PERF_COUNT": profile,
    }
    try:
        return _core().compile_model(_core().read_model(str(path)), "CPU", settings)
    except Exception as error:  # plain RuntimeErrors
        raise _unreadable(path, "OpenVINO", error) from error


def _open_openvino(path: Path, threads: int, engine: str = "openvino") -> Runner:
    return openvino_runner(path, openvino_model(path, threads, engine))


def openvino_runner(path: Path, compiled: Any) -> Runner:
    """Wrap a compiled model."""
    _some_input(path, len(compiled.inputs))
    ports = tuple(
        Port(
            port.get_any_name(),
            tuple(size.get_length() if size.is_static else None for size in port.get_partial_shape()),
            np.dtype(port.get_element_type().to_dtype()),
        )
        for port in compiled.inputs
    )
    computed = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()  # f32 where bf16 is not to be had
    request = compiled.create_infer_request()

    def compute(arrays: Sequence[Array]) -> Sequence[Array]:
        found = request.infer(dict(enumerate(arrays)), share_inputs=True)
        return [found[out] for out in compiled.outputs]

    return Runner(compute, ports, f"openvino {_openvino().__version__.split('-')[0]} ({computed})")


def _some_input(path: Path, count: int) -> None:
    if not count:
        raise EngineError(f"{path}: has no inputs.\n  Give a file with an input, [batch, ...]")


def _unreadable(path: Path, engine: str, error: Exception) -> CheckpointError:
    lines = str(error).strip().splitlines()
    reason = lines[-1].strip().rstrip(".") if lines else type(error).__name__
    return CheckpointError(f"{path}: {engine} cannot read it: {reason}.\n  Give an intact ONNX file")


ENGINES: dict[str, Callable[[Path, int], Runner]] = {
    "onnxruntime": _open_onnxruntime,
    "openvino": _open_openvino,
    "openvino-bf16": partial(_open_openvino, engine="openvino-bf16"),
}
