"""Settings as keyword arguments of `slimkit.compress` and `slimkit.train`, for editors and type checkers.

A test holds them equal to the fields of the specs.
"""

from typing import TypedDict

from slimkit.settings.setting import Settings


class RunKeywords(TypedDict, total=False):
    """Fields of `RunSpec` but for the ratio and the epochs; their meanings stand there."""

    task: str | None
    data_root: str | None
    input_shape: str | None
    resize: str | int | None
    crop: float | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    allow_bad: float

    max_macs: str | float | None
    max_params: str | float | None
    max_bytes: str | float | None
    max_latency: str | float | None
    max_energy: str | float | None
    ranking: str
    scope: str
    without_bn: str
    keep: tuple[str, ...]
    cap: float
    round_to: str | int
    constants: str
    tracer: str
    runtime: str
    threads: int
    batch: int
    latency_table: str | None
    int8: bool
    onnx: bool
    opset: int
    fixed_batch: bool
    free_size: bool
    embed_normalisation: bool
    seed: int
    precision: str
    device: str


class CompressKeywords(RunKeywords, total=False):
    """Fields of `CompressSpec` but for the ratio, what calibrates, and what only a file needs."""

    data: str | None
    rounds: str | int
    max_drop: float | None
    minimise: str
    recover: bool
    epochs: float
    batch_size: str | int
    optimizer: str
    learning_rate: str | float
    distill: bool


class TrainKeywords(RunKeywords, total=False):
    """Fields of `TrainSpec` but for the ratio, the network and the data; a method also as an object of its settings."""

    method: str | Settings
    epochs: int
    batch_size: int
    learning_rate: float
    schedule: str
