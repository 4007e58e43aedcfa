"""What files a run is to leave, and how its ONNX file is written."""

from dataclasses import dataclass

from slimkit.settings.checks import flag, whole
from slimkit.settings.setting import Settings, setting

_OF_ONNX = (
    "opset", "fixed_batch", "free_size", "embed_normalisation", "int8", "max_bytes", "max_latency", "max_energy",
    "runtime", "threads", "batch",
)  # fmt: skip
_OLDEST = 15  # nothing converts to an older one
OPSET = 18  # the lowest that has all that our own export writes: ONNX Runtime 1.14 (2023) and later read it


@dataclass(frozen=True, kw_only=True)
class OnnxSpec(Settings):
    """How an ONNX file is written."""

    opset: int = setting(OPSET, "version of ONNX's operators, 15 or later", whole(_OLDEST))
    fixed_batch: bool = setting(False, "bind the ONNX file to one image at a time", flag)
    free_size: bool = setting(
        False, "leave height and width free in the ONNX file, and prove it at a second size too", flag
    )
    embed_normalisation: bool = setting(
        False, "put mean and std into the ONNX file, which then takes pixels of 0 to 255 as they are", flag
    )


@dataclass(frozen=True, kw_only=True)
class FileSpec(OnnxSpec):
    """Which files a run is to leave."""

    onnx: bool = setting(True, "write an ONNX file and time it; without: the slim file and the report alone", flag)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.onnx:
            self.refuse_idle(
                _OF_ONNX, "that is about the ONNX file, and onnx is False", "Leave out `onnx=False`, or `{name}`"
            )
