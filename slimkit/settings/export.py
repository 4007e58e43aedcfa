"""What `slimkit export` should do."""

from dataclasses import dataclass

from slimkit.errors import SpecError
from slimkit.settings.checks import choice, flag, optional, pattern, several
from slimkit.settings.data import SHAPE, SHAPE_MEANING, Shapes, shapes
from slimkit.settings.files import OPSET, OnnxSpec
from slimkit.settings.setting import setting
from slimkit.settings.source import SourceSpec

FORMATS = ("onnx", "openvino", "torchscript", "coreml", "tflite", "ncnn")
_BY_ONNX = ("onnx", "openvino")
_ONE_SIZE = ("coreml", "tflite", "ncnn")


@dataclass(frozen=True, kw_only=True)
class ExportSpec(SourceSpec, OnnxSpec):
    """In which formats a network in a file is written."""

    to: tuple[str, ...] = setting(("onnx",), f"formats: {', '.join(FORMATS)}; several", several(choice(*FORMATS)))
    fp16: bool = setting(False, "weights in 16-bit floats", flag)
    input_shape: str | None = setting(
        None,
        "shape of one input, as for compress; default: what the file says",
        optional(pattern(SHAPE, SHAPE_MEANING)),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, default, formats, why in (
            ("opset", OPSET, _BY_ONNX, "it is of ONNX's operators"),
            ("fixed_batch", False, _BY_ONNX, "the others decide for themselves"),
        ):
            if getattr(self, name) != default and not set(self.to) & set(formats):
                raise SpecError(
                    f"{name} is {getattr(self, name)!r}, and to is {', '.join(self.to)}: {why}.\n  Leave out `{name}`"
                )
        one_size = [name for name in self.to if name in _ONE_SIZE]
        if self.free_size and one_size:
            raise SpecError(
                f"free_size is True: {' and '.join(one_size)} files are of one size.\n"
                "  Leave out `free_size`, or write those in a call of their own"
            )

    @property
    def shapes(self) -> Shapes | None:
        """`input_shape` as numbers."""
        return None if self.input_shape is None else shapes(self.input_shape)
