"""OpenVINO's IR: model.xml and model.bin. Converter: OpenVINO's own, from ONNX; 16-bit floats are of the weights."""

import tempfile
from pathlib import Path

from slimkit.export.formats.source import Format, Source, needed


def _convert(source: Source, path: Path) -> int | None:
    openvino = needed("openvino", "openvino")
    with tempfile.TemporaryDirectory() as folder:
        batch = source.onnx(Path(folder) / "model.onnx")
        openvino.save_model(
            openvino.convert_model(Path(folder) / "model.onnx"), str(path), compress_to_fp16=source.half
        )
    return batch


FORMAT = Format("model.xml", _convert, engine="openvino", packages=("openvino",))
