"""What a network is called with, and the tensors in what it gives back."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeGuard

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from slimkit.errors import TraceError
from slimkit.usage import INPUT

Example = Tensor | tuple[Any, ...] | Mapping[str, Any]


def call(model: Callable[..., Any], example: Example) -> Any:
    """Call a network with an example input: one tensor, a tuple of arguments or a dict of keyword arguments."""
    if isinstance(example, Tensor):
        return model(example)
    if isinstance(example, Mapping):
        return model(**example)
    return model(*example)


def tensors(tree: Any, depth: int = 9) -> list[Tensor]:
    """Return all tensors in a nest of tuples, lists, dicts and objects (as dataclasses are), in order.

    A nested tensor gives its parts.
    """
    if isinstance(tree, Tensor):
        return list(tree.unbind()) if tree.is_nested else [tree]
    if isinstance(tree, Mapping):
        tree = list(tree.values())
    elif not isinstance(tree, (tuple, list)):
        tree = [] if callable(tree) else list(getattr(tree, "__dict__", {}).values())
    return [tensor for item in tree for tensor in tensors(item, depth - 1)] if depth else []


def comparable(wanted: Any, found: Any) -> list[tuple[Tensor, Tensor]]:
    """Return pairs of the tensors of two outputs by which it can be told how far apart they are.

    Classes, masks and tensors of a size that depends on the data are left out; a complex number is two real ones.
    """
    pairs = zip(tensors(wanted), tensors(found), strict=False)
    same = [(a, b) for a, b in pairs if a.shape == b.shape and a.numel()]
    same = [(torch.view_as_real(a), torch.view_as_real(b)) if a.is_complex() else (a, b) for a, b in same]
    return [(a, b) for a, b in same if a.is_floating_point()]


def are_scores(output: Any) -> TypeGuard[Tensor]:
    """Tell whether an output is the scores of classes, [N, C], C > 1."""
    if not isinstance(output, Tensor) or output.is_nested:
        return False
    return output.is_floating_point() and output.dim() == 2 and output.shape[1] > 1


_SURE, _BEYOND = 10.0, 50.0  # nats between the largest score and the next: one in 20,000; more than a classifier has
_FEW, _NEARLY_ALL = 8, 0.98  # inputs that may be of one class by chance
# Training by softmax moves no sum of scores, so that it varies little: 0 to 0.28 of what independent scores would give,
# in 20 classifiers (quantiles, fields, pictures and embeddings: 0.4 to 3). Where it is moved, as Adam does with many
# classes, scores still say 0.27 or more of what there is to be said of the class, values 0.2 or less.
_SUM, _SAID = 0.3, 0.25
# The mean of a row of scores, over the deviation within rows: 0.01 to 0.14 in 15 classifiers by softmax or a margin
# between classes; 0.29 and 0.9 for several labels, 2.6 for one class by sigmoids.
_SHIFT = 0.2
_A_FEW = 0.1


def are_values(rows: Tensor) -> bool:
    """Tell whether numbers [N, C], of the shape of scores, are something else: a temperature, quantiles, an embedding.

    As scores they would make nearly all inputs one class, and most for certain, or leave no doubt at all about most of
    them. Or they would say little of the class, and either rise and fall together or are all of one length. Then
    softmax tells nothing of how far two networks are apart, whatever the numbers are.
    """
    rows = rows[rows.isfinite().all(1)].double()
    if not rows.numel():
        return False
    highest = rows.topk(2, 1).values
    lead = highest[:, 0] - highest[:, 1]
    if float(lead.median()) > (_SURE if are_of_one_class(rows) else _BEYOND):
        return True
    logarithms = rows.log_softmax(1)
    if _close(rows, logarithms) or _said(logarithms) >= _SAID:  # of probabilities; of some class
        return False
    lengths, alone = rows.square().sum(1), rows.var(0, correction=0).sum()
    return bool(alone > 0) and (_close(lengths, lengths[:1]) or bool(rows.sum(1).var(correction=0) > _SUM * alone))


def are_labels(rows: Tensor) -> bool:
    """Tell whether numbers [N, C], of the shape of scores, each answer a question of their own, as several labels do.

    What softmax makes of scores, and with it every loss of it, is the same whatever is added to all of them, so that
    training moves no mean over classes; where each class is answered by its own sigmoid, it is moved to where most
    answers are no. Then softmax tells little of how far two networks are apart: what all scores share is free.
    """
    rows = rows[rows.isfinite().all(1)].double()
    within = rows.var(1, correction=0).mean() if rows.numel() else torch.tensor(0.0)
    mean = rows.mean(1)
    if not within > 0 or _close(rows, rows.log_softmax(1)) or _close(rows.sum(1), torch.ones_like(mean)):
        return False
    return bool(mean.square().mean() > _SHIFT**2 * within)


def have_several(rows: Tensor) -> bool:
    """Tell whether of logits of labels [N, C] more than one says yes, at more than a few inputs."""
    return float(((rows > 0).sum(1) > 1).double().mean()) > _A_FEW


def _close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-4, atol=1e-4 * float(a.abs().max()))


def are_of_one_class(rows: Tensor) -> bool:
    """Tell whether scores [N, C] put nearly all inputs, of some at least, into one class."""
    return len(rows) >= _FEW and int(rows.argmax(1).bincount().max()) >= _NEARLY_ALL * len(rows)


def _said(logarithms: Tensor) -> float:
    """Return the share of what is to be said of classes that their probabilities say, in [0, 1]; of logarithms."""
    each = -(logarithms.exp() * logarithms).sum(1).mean()
    mean = logarithms.exp().mean(0)
    every = -torch.xlogy(mean, mean).sum()
    return 1 - float(each / every) if float(every) > 0 else 0.0


def named(example: Example, word: str = INPUT) -> dict[str, Tensor]:
    """Return the tensors of an example input, with `OUTPUT` those of outputs, by their names in an ONNX file."""
    if isinstance(example, Mapping):
        each = [{name: one} if isinstance(one, Tensor) else named((one,), name) for name, one in example.items()]
        return {name: tensor for part in each for name, tensor in part.items()}
    found = tensors(example)
    return {word: found[0]} if len(found) == 1 else {f"{word}_{i}": tensor for i, tensor in enumerate(found)}


def describe(example: Example) -> str:
    """Return the shapes of an example input for a message."""
    return " and ".join(str(list(tensor.shape)) for tensor in tensors(example)) or "(no tensor)"


def batch_size(example: Example) -> int:
    """Return the number of images in an example input.

    Raises:
        TraceError: it holds no tensor with a batch dimension, or no image.
    """
    found = [tensor for tensor in tensors(example) if tensor.dim()]
    if not found:
        raise TraceError(
            f"example_input is {type(example).__name__} without a tensor: nothing to trace.\n"
            "  Give a tensor [N, C, H, W], a tuple of arguments, or a dict of keyword arguments."
        )
    if not len(found[0]):
        raise TraceError(f"example_input is {describe(example)}: it is empty.\n  Give one input or more")
    return int(found[0].shape[0])


def mapped(example: Example, change: Callable[[Tensor], Tensor]) -> Example:
    """Return an example in which every tensor is `change(tensor)`."""
    found: Example = tree_map_only(Tensor, change, example)
    return found


def drawn_like(example: Example, generator: torch.Generator) -> Example:
    """Return an example of standard normal numbers of the same shapes; whole ones, which have a meaning, stay."""

    def drawn(tensor: Tensor) -> Tensor:
        return torch.randn(tensor.shape, generator=generator) if tensor.is_floating_point() else tensor

    return mapped(example, drawn)


def of_batch(example: Example, images: int) -> Example:
    """Return an example of another number of images: those it has, repeated. What has no batch stays as it is."""
    batch = batch_size(example)

    def change(tensor: Tensor) -> Tensor:
        if tensor.dim() == 0 or tensor.shape[0] != batch:
            return tensor
        repeats = -(-images // batch)
        return tensor.repeat(repeats, *[1] * (tensor.dim() - 1))[:images]

    return mapped(example, change)


def parts(example: Example, images: int) -> Iterator[Example]:
    """Give an example in parts of so many images; the last is filled up with its own images again."""
    whole = batch_size(example)

    def cut(tensor: Tensor, begin: int) -> Tensor:
        places = begin + torch.arange(images, device=tensor.device) % min(images, whole - begin)
        return tensor[places] if tensor.dim() and len(tensor) == whole else tensor

    for begin in range(0, whole, images):
        yield mapped(example, partial(cut, begin=begin))


def in_parts(compute: Callable[[Example], Sequence[Tensor]], example: Example, bound: int | None) -> list[Tensor]:
    """Compute the outputs for an example of any batch by what is bound to another one, part by part.

    Args:
        compute: example -> its outputs: [B, ...]; [k B, ...], k rows an image; of no batch, the same in all parts; or,
            for batches of one, of as many rows as there happen to be.
        example: of any batch.
        bound: the batch that `compute` takes; None: any.
    """
    images = batch_size(example)
    if bound in (None, images):
        return list(compute(example))
    assert bound is not None
    found = zip(*map(compute, parts(example, bound)), strict=True)

    def joined(each: Sequence[Tensor]) -> Tensor:
        one, rows = each[0], {len(other) if other.dim() else 0 for other in each}
        if len(rows) > 1:
            return torch.cat(list(each))
        count = rows.pop()
        same = len(each) > 1 and count != bound and all(torch.equal(one, other) for other in each)
        if not count or count % bound or same:
            return one
        return torch.cat(list(each))[: images * count // bound]

    return [joined(each) for each in found]


def fed(example: Example, ports: Sequence[str]) -> dict[str, Tensor]:
    """Return what an ONNX file of ours takes of an example: an input that nothing reads is none of the file's."""
    given = named(example)
    if len(ports) == len(given) == 1:  # whatever it is called
        return {ports[0]: next(iter(given.values()))}
    return {name: given[name] for name in ports}


def larger(example: Example) -> Example:
    """Return zeros like an example whose spatial dimensions, those after the second, are larger by a half.

    Each stays a multiple of what it is one of: 32, 16, ... What is no floating-point tensor stays as it is.
    """

    def half_more(size: int) -> int:
        step = next(step for step in (32, 16, 8, 4, 2, 1) if size % step == 0)
        return size + max(step, size // 2 // step * step)

    def change(tensor: Tensor) -> Tensor:
        if tensor.dim() < 3 or not tensor.is_floating_point():
            return tensor
        return tensor.new_zeros(*tensor.shape[:2], *map(half_more, tensor.shape[2:]))

    return mapped(example, change)


def first(tree: Any) -> Tensor | None:
    """Return the first tensor of a nest, None where there is none."""
    return next(iter(tensors(tree)), None)


def on(device: torch.device, tree: Any) -> Any:
    """Return a nest with its tensors on a device."""
    return mapped(tree, lambda tensor: tensor.to(device, non_blocking=True))
