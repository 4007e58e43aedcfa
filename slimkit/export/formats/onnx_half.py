"""ONNX, in 32-bit or 16-bit floats; inputs and outputs stay float32. Converter: ONNX Runtime's own."""

import json
from pathlib import Path

import onnx

from slimkit.export.formats.source import Format, Source
from slimkit.modules import quiet


def _convert(source: Source, path: Path) -> int | None:
    batch = source.onnx(path)
    if not source.half:
        return batch
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = onnx.load(str(path))
    said = {entry.key: entry.value for entry in model.metadata_props}
    with quiet():
        small = convert_float_to_float16(model, keep_io_types=True)
    onnx.helper.set_model_props(small, dict(sorted({**said, "floats": json.dumps("float16")}.items())))
    path.write_bytes(small.SerializeToString(deterministic=True))
    return batch


FORMAT = Format("model.onnx", _convert, engine="onnxruntime")
