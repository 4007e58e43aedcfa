"""ATen operators that move values or gather them: views, slices, joins, padding, reductions, pooling."""

from __future__ import annotations

from typing import Any

import torch

from slimkit.export.arithmetic import Translation, spread
from slimkit.export.recording import Batch, Call, Constant, Unsupported, plain
from slimkit.export.writer import Writer

_LAST = 2**63 - 1


def _axis(call: Call, name: str = "dim") -> int:
    """Return an axis counted from the front, as views of another rank need it."""
    axis, rank = int(call.arguments()[name]), len(call.args[0].shape)
    return axis % rank


def _reshape(writer: Writer, call: Call) -> str:
    """Give every shape-changing view its target shape; ONNX infers the size that follows the batch."""
    target = call.result().shape
    name = writer.name(call.args[0])
    if target == call.args[0].shape:
        return name
    if sum(isinstance(size, Batch) for size in target) > 1:
        raise Unsupported("a view with two sizes that follow the batch")
    sizes = [-1 if isinstance(size, Batch) else size for size in target]
    return writer.emit("Reshape", [name, writer.literal(sizes)])


def _restride(writer: Writer, call: Call) -> str:
    """`as_strided` comes from pooling to one pixel, where it renames strides of dimensions of size 1."""
    shape = call.result().shape
    if shape != call.args[0].shape or any(size != 1 for size in shape[2:]):
        raise Unsupported("as_strided")
    return writer.name(call.args[0])


def _expand(writer: Writer, call: Call) -> str:
    target = call.result().shape
    if target == call.args[0].shape:
        return writer.name(call.args[0])
    return writer.emit("Expand", [writer.name(call.args[0]), writer.shape(target)])


def _permute(writer: Writer, call: Call) -> str:
    order = [int(axis) % len(call.args[1]) for axis in call.args[1]]
    return writer.emit("Transpose", [writer.name(call.args[0])], perm=order)


def _transpose(writer: Writer, call: Call) -> str:
    order = list(range(len(call.args[0].shape)))
    first, second = _axis(call, "dim0"), _axis(call, "dim1")
    order[first], order[second] = order[second], order[first]
    return writer.emit("Transpose", [writer.name(call.args[0])], perm=order)


def _t(writer: Writer, call: Call) -> str:
    if isinstance(call.args[0], Constant) or len(call.args[0].shape) != 2:
        raise Unsupported("t() of a constant or a vector")
    return writer.emit("Transpose", [writer.name(call.args[0])], perm=[1, 0])


def _cat(writer: Writer, call: Call) -> str:
    parts = [part for part in call.args[0] if part.shape != (0,)]
    rank = len(call.result().shape)
    return writer.emit("Concat", [writer.name(p) for p in parts], axis=call.arguments()["dim"] % rank)


def _stack(writer: Writer, call: Call) -> str:
    axis = call.arguments()["dim"] % len(call.result().shape)
    axes = writer.literal([axis])
    parts = [writer.emit("Unsqueeze", [writer.name(part), axes]) for part in call.args[0]]
    return writer.emit("Concat", parts, axis=axis)


def _split(writer: Writer, call: Call) -> list[str]:
    axis = _axis(call)
    sizes = [plain(output.shape[axis]) for output in call.outputs if output is not None]
    if len(sizes) == 1:
        return [writer.name(call.args[0])]
    inputs = [writer.name(call.args[0]), writer.literal(sizes)]
    return writer.emit_many("Split", inputs, len(sizes), axis=axis)


def _unbind(writer: Writer, call: Call) -> list[str]:
    axis = _axis(call)
    return [_pick(writer, call, axis, index) for index in range(len(call.outputs))]


def _pick(writer: Writer, call: Call, axis: int, index: int) -> str:
    return writer.emit("Gather", [writer.name(call.args[0]), writer.literal(index)], axis=axis)


def _select(writer: Writer, call: Call) -> str:
    return _pick(writer, call, _axis(call), plain(call.arguments()["index"]))


def _slice(writer: Writer, call: Call) -> str:
    settings, axis, name = call.arguments(), _axis(call), writer.name(call.args[0])
    if call.result().shape == call.args[0].shape:
        return name
    end = _LAST if settings["end"] is None else plain(settings["end"])
    bounds = [settings["start"] or 0, end, axis, settings["step"]]
    return writer.emit("Slice", [name, *(writer.literal([plain(bound)]) for bound in bounds)])


def _roll(writer: Writer, call: Call) -> str:
    settings, name = call.arguments(), writer.name(call.args[0])
    if len(settings["dims"]) != len(settings["shifts"]):
        raise Unsupported("roll of a flattened tensor")
    for shift, axis in zip(settings["shifts"], settings["dims"], strict=True):
        size = plain(call.args[0].shape[axis])
        if cut := -shift % size:
            axes = writer.literal([axis])
            head = writer.emit("Slice", [name, writer.literal([0]), writer.literal([cut]), axes])
            tail = writer.emit("Slice", [name, writer.literal([cut]), writer.literal([_LAST]), axes])
            name = writer.emit("Concat", [tail, head], axis=axis)
    return name


def _pad(mode: str) -> Translation:
    def rule(writer: Writer, call: Call) -> str:
        widths, rank = plain(call.args[1]), len(call.args[0].shape)
        before, after = [0] * rank, [0] * rank
        for i in range(len(widths) // 2):  # torch starts at the last dimension
            before[rank - 1 - i], after[rank - 1 - i] = widths[2 * i : 2 * i + 2]
        inputs = [writer.name(call.args[0]), writer.literal([*before, *after])]
        if mode == "constant":
            inputs.append(writer.literal(call.arguments()["value"], call.result().dtype))
        return writer.emit("Pad", inputs, mode=mode)

    return rule


def _reduce(kind: str) -> Translation:
    def rule(writer: Writer, call: Call) -> str:
        settings, image = call.arguments(), call.args[0]
        rank, keep = len(image.shape), int(settings.get("keepdim", False))  # over everything: no such setting
        axes = sorted(int(axis) % rank for axis in settings.get("dim") or range(rank))
        if kind == "ReduceMean" and rank == 4 and axes == [2, 3] and keep:
            return writer.emit("GlobalAveragePool", [writer.name(image)])
        if kind == "ReduceL2" and settings["ord"] != 2:
            raise Unsupported("a norm of another order than 2")
        return writer.emit(kind, [writer.name(image), writer.literal(axes)], keepdims=keep)

    return rule


def _window(settings: dict[str, Any]) -> dict[str, Any]:
    kernel = spread(settings["kernel_size"], 2)
    return {
        "kernel_shape": kernel,
        "strides": spread(settings["stride"], 2) if settings["stride"] else kernel,
        "pads": spread(settings["padding"], 2) * 2,
        "ceil_mode": int(settings["ceil_mode"]),
    }


def _max_pool(writer: Writer, call: Call) -> list[str]:
    settings = call.arguments()
    dilations = spread(settings["dilation"], 2)
    return [writer.emit("MaxPool", [writer.name(call.args[0])], dilations=dilations, **_window(settings))]


def _average_pool(writer: Writer, call: Call) -> str:
    settings = call.arguments()
    if settings["divisor_override"] is not None:
        raise Unsupported("average pooling with its own divisor")
    window = {"count_include_pad": int(settings["count_include_pad"]), **_window(settings)}
    return writer.emit("AveragePool", [writer.name(call.args[0])], **window)


def _adaptive_average_pool(writer: Writer, call: Call) -> str:
    """Pool to a fixed size: one window where the sizes divide, else a product with the averaging matrices."""
    name, dtype = writer.name(call.args[0]), call.result().dtype
    sizes, targets = plain(call.args[0].shape[2:]), plain(call.result().shape[2:])
    if tuple(targets) == (1, 1):
        return writer.emit("GlobalAveragePool", [name])
    if all(size % target == 0 for size, target in zip(sizes, targets, strict=True)):
        kernel = [size // target for size, target in zip(sizes, targets, strict=True)]
        if kernel == [1, 1]:
            return name
        return writer.emit("AveragePool", [name], kernel_shape=kernel, strides=kernel)
    rows = averaging(sizes[0], targets[0]).to(dtype)
    columns = averaging(sizes[1], targets[1]).to(dtype).T.contiguous()
    half = writer.emit("MatMul", [writer.name(Constant(rows)), name])
    return writer.emit("MatMul", [half, writer.name(Constant(columns))])


def averaging(size: int, target: int) -> torch.Tensor:
    """Return the matrix [target, size] of adaptive pooling along one dimension; window i is
    [floor(i size / target), ceil((i + 1) size / target))."""
    matrix = torch.zeros(target, size, dtype=torch.float64)
    for i in range(target):
        start, end = i * size // target, -(-(i + 1) * size // target)
        matrix[i, start:end] = 1 / (end - start)
    return matrix


def _resize(mode: str) -> Translation:
    def rule(writer: Writer, call: Call) -> str:
        settings, image = call.arguments(), call.args[0]
        before, after = plain(list(image.shape[2:])), plain(list(call.result().shape[2:]))
        scales = [settings.get("scales_h"), settings.get("scales_w")]
        place: dict[str, Any]
        if mode == "nearest":
            place = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        else:
            corners = "align_corners" if settings["align_corners"] else "pytorch_half_pixel"
            place = {"coordinate_transformation_mode": corners, "cubic_coeff_a": -0.75}
        inputs = [writer.name(image), "", "", writer.literal(after)]
        if None not in scales and [int(s * f) for s, f in zip(before, scales, strict=True)] == after:
            inputs = [writer.name(image), "", writer.literal(scales, torch.float32)]  # unrounded
        return writer.emit("Resize", inputs, mode=mode, axes=[2, 3], **place)

    return rule


def _pixel_shuffle(writer: Writer, call: Call) -> str:
    return writer.emit("DepthToSpace", [writer.name(call.args[0])], blocksize=call.args[1], mode="CRD")


MOVEMENT: dict[str, Translation] = {
    "view": _reshape,
    "_unsafe_view": _reshape,
    "reshape": _reshape,
    "_reshape_alias": _reshape,
    "unsqueeze": _reshape,
    "squeeze": _reshape,
    "as_strided": _restride,
    "expand": _expand,
    "permute": _permute,
    "transpose": _transpose,
    "t": _t,
    "cat": _cat,
    "stack": _stack,
    "split": _split,
    "split_with_sizes": _split,
    "unbind": _unbind,
    "select": _select,
    "slice": _slice,
    "roll": _roll,
    "constant_pad_nd": _pad("constant"),
    "reflection_pad2d": _pad("reflect"),
    "replication_pad2d": _pad("edge"),
    "mean": _reduce("ReduceMean"),
    "sum": _reduce("ReduceSum"),
    "amax": _reduce("ReduceMax"),
    "linalg_vector_norm": _reduce("ReduceL2"),
    "max_pool2d_with_indices": _max_pool,
    "avg_pool2d": _average_pool,
    "_adaptive_avg_pool2d": _adaptive_average_pool,
    "upsample_nearest2d": _resize("nearest"),
    "upsample_bilinear2d": _resize("linear"),
    "upsample_bicubic2d": _resize("cubic"),
    "pixel_shuffle": _pixel_shuffle,
}
