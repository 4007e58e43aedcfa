"""Under what a latency is measured."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What a latency is of.

    Attributes:
        engine: a name in `slimkit.measure.engines.ENGINES`.
        threads: that compute.
        batch: images at once.
    """

    engine: str = "onnxruntime"
    threads: int = 1
    batch: int = 1
