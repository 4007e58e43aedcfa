"""What a network is called with, and the tensors in what it gives back."""

import copy
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from functools import partial
from itertools import count
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


_NEVER = -1e3  # in place of the logarithm of 0: a number, and below what scores of a trained network give


def log_probabilities(scores: Tensor) -> Tensor:
    """Return logarithms of what softmax makes of scores [N, C, ...]; -1,000 of scores of minus infinity.

    These are of classes that are masked, or a logarithm that has underflowed: a probability of 0 times its logarithm is
    0 then, and no NaN. So where all classes are masked, as in padding.
    """
    found = scores.log_softmax(1)
    return found.masked_fill(scores.isneginf() | found.isneginf(), _NEVER)


_SURE, _BEYOND = 10.0, 50.0  # nats between the largest score and the next: one in 20,000; more than a classifier has
_FEW, _NEARLY_ALL = 8, 0.98  # inputs that may be of one class by chance
# Training by softmax moves no sum of scores, so that it varies little: 0 to 0.28 of what independent scores would give,
# in 20 classifiers (quantiles, fields, pictures and embeddings: 0.4 to 3). Where it is moved, as Adam does with many
# classes, scores still say 0.27 or more of what there is to be said of the class, values 0.2 or less.
_SUM, _SAID = 0.3, 0.25
# Sigmoids are seldom in doubt, about zero, and most are independent; softmax knows no zero. Of networks of small images
# by SGD, Adam, AdamW and RMSprop, logits about zero over those in as wide a range to either side: 1.2 to 7.8 in 30
# classifiers of more than two classes; below 0.8 in 28 of 36 taggers, where in the other 8 the sum varies by more than
# 0.5 of what that of independent scores does (classifiers: 0 to 0.38). Adam moves the mean of all scores, to 0.9
# deviations; that of one class by sigmoids is 1.1 to 1.6 below zero.
_DOUBT, _VALLEY, _INDEPENDENT, _MOSTLY = 0.35, 0.8, 0.5, 1.0
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
    lengths = rows.square().sum(1)
    return bool((rows != rows[:1]).any()) and (_close(lengths, lengths[:1]) or _varies_together(rows) > _SUM)


def are_labels(rows: Tensor) -> bool:
    """Tell whether numbers [N, C], of the shape of scores, are logits of several labels, each answered by a sigmoid.

    More than one says yes at more than a few inputs, and few are near zero or they vary as independent ones do. Then
    softmax, to which what all scores share is free, tells little of how far two networks are apart.
    """
    logits = _logits(rows)
    if logits is None or not float(((logits > 0).sum(1) > 1).double().mean()) > _A_FEW:
        return False
    return _doubt(logits) < _VALLEY or _varies_together(logits) > _INDEPENDENT


def are_mostly_no(rows: Tensor) -> bool:
    """Tell whether numbers [N, C], of the shape of scores, are by sigmoids of which nearly all say no, as of one class.

    The highest is still the class, but the others are not free to rise and fall with it.
    """
    logits = _logits(rows)
    spread = torch.zeros(()) if logits is None else logits.var(1, correction=0).mean().sqrt()
    return logits is not None and bool(spread > 0) and bool(logits.mean() < -_MOSTLY * spread)


def _logits(rows: Tensor) -> Tensor | None:
    """Return what sigmoids may be of, or may have been; None of the probabilities of one class, and of no numbers."""
    rows = rows[rows.isfinite().all(1)].double()
    if not rows.numel() or _close(rows, rows.log_softmax(1)) or _close(rows.sum(1), torch.ones_like(rows[:, 0])):
        return None
    return torch.logit(rows, 1e-6) if bool(((rows >= 0) & (rows <= 1)).all()) else rows


def _doubt(rows: Tensor) -> float:
    """Return how many numbers are about zero, over the fewer of those in as wide a range to either side."""
    width = _DOUBT * rows.std()
    low, about, high = (
        int(((rows >= centre * width - width) & (rows < centre * width + width)).sum()) for centre in (-2, 0, 2)
    )
    return about / max(1, min(low, high))


def _varies_together(rows: Tensor) -> float:
    """Return the variance of the sum of scores over that of independent ones; 0 of what never varies."""
    alone = rows.var(0, correction=0).sum()
    return float(rows.sum(1).var(correction=0) / alone) if bool(alone > 0) else 0.0


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
    """Return the tensors of an example input by their names in an ONNX file; those of no name are called by a word."""
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
        TraceError: no network is called with it, it holds no tensor with a batch dimension, or no image.
    """
    callable_with = isinstance(example, (Tensor, tuple, list, Mapping))
    found = [tensor for tensor in tensors(example) if tensor.dim()] if callable_with else []
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


def own_batch(example: Example, least: int) -> int:
    """Return a number of images, this one or the next above that tells a batch from what has none in an example."""
    taken = {len(tensor) for tensor in tensors(example) if tensor.dim()} - {batch_size(example)}
    return next(images for images in count(least) if images not in taken)


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
        length = rows.pop()
        same = len(each) > 1 and length != bound and all(torch.equal(one, other) for other in each)
        if not length or length % bound or same:
            return one
        return torch.cat(list(each))[: images * length // bound]

    return [joined(each) for each in found]


def fed(example: Example, ports: Sequence[str]) -> dict[str, Tensor]:
    """Return what an ONNX file of ours takes of an example, on the CPU: an input that nothing reads is none of it."""
    given = named(on(torch.device("cpu"), example))
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
    waiting = device.type == "cpu"  # what a GPU sends to the CPU could be read before it has arrived
    return mapped(tree, lambda tensor: tensor.to(device, non_blocking=not waiting))


_HALF = (torch.float16, torch.bfloat16)


def in_float32(returned: Any) -> Any:
    """Return what a network gives, of the nests that `tensors` knows, with its numbers of half precision as float32.

    What holds none is the same object; what does is copied, and a tensor that it holds twice stays one.
    """
    return _in_float32(returned, {}, 9)


def _in_float32(tree: Any, known: dict[int, Tensor], depth: int) -> Any:
    if not any(tensor.dtype in _HALF for tensor in tensors(tree, depth)):
        return tree
    if isinstance(tree, Tensor):
        return known.setdefault(id(tree), tree.float())
    change = partial(_in_float32, known=known, depth=depth - 1)
    if isinstance(tree, (tuple, list)):
        entries = [change(entry) for entry in tree]
        return type(tree)(*entries) if hasattr(tree, "_fields") else type(tree)(entries)  # a named tuple
    if isinstance(tree, Mapping) and not isinstance(tree, MutableMapping):
        return {key: change(entry) for key, entry in tree.items()}
    made = copy.copy(tree)
    for key in tree if isinstance(tree, Mapping) else ():
        made[key] = change(tree[key])
    for name, entry in getattr(tree, "__dict__", {}).items():
        made.__dict__[name] = change(entry)  # also where it is frozen
    return made
