"""torchvision's detectors as surgery sees them: images -> the maps of their heads, before anchors and suppression.

Faster R-CNN with its masks and keypoints, RetinaNet, FCOS, SSD and SSDLite. A detector itself takes a list of images,
and what it returns depends on what it finds; what its layers compute is told by its heads. It is trained by the losses
that it gives itself, and judged by the boxes, masks and keypoints that it finds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from slimkit import provenance
from slimkit.modules import copied
from slimkit.provenance import Finds, Provenance

REGIONS = ((0.0, 0.0, 1.0, 1.0), (0.0, 0.0, 0.6, 0.5), (0.3, 0.4, 1.0, 1.0))  # of an image, that second stages look at
_WITH_MASKS = 4  # images to find masks in at once: of up to a hundred objects each, maps of all classes are made
_TRAINED_ON = ("boxes", "labels", "masks", "keypoints")  # of a target

Target = Mapping[str, Any]


class Heads(nn.Module):
    """A detector as surgery sees it; the detector itself is `net`, and stays one.

    Second stages look at three fixed regions, on the features of every level. What is known of where the network comes
    from is the detector's own: its paths begin with `net.`, whichever of both is asked.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor, targets: Sequence[Target] | None = None) -> Any:
        """Return the maps of every head by name; with targets what the detector itself returns.

        That is in training its losses by name, in evaluation of each image `boxes` and `keypoints` in pixels of the
        picture that it was made from, `labels` and `scores`, and `masks` as its head gives them, [D, 1, M, M] in [0, 1]
        over the boxes: pasting all of them into pictures takes gigabytes.

        Args:
            images: [N, 3, H, W], as `prepared` gives them.
            targets: as `prepared_with` gives them.
        """
        if targets is not None and self.training:
            return _detected(self.net, images, targets)
        if targets is not None:
            at_once = _WITH_MASKS if self.finds.masks else len(images)
            places = [slice(begin, begin + at_once) for begin in range(0, len(images), at_once)]
            return [found for place in places for found in _detected(self.net, images[place], targets[place])]
        net: Any = self.net
        features = net.backbone(images)
        features = dict(features) if isinstance(features, Mapping) else {"0": features}
        if not hasattr(net, "rpn"):
            return net.head(list(features.values()))
        objectness, boxes = net.rpn.head(list(features.values()))
        return {"objectness": objectness, "boxes": boxes} | _second_stage(net.roi_heads, features, images)

    def prepared(self, images: Sequence[Tensor]) -> Tensor:
        """Return images as the layers get them: normalised, resized and padded by the detector, [N, 3, H, W].

        Args:
            images: each [3, h, w] in [0, 1], as a detector takes them.
        """
        net: Any = self.net
        found: Tensor = net.transform(list(images))[0].tensors
        return found

    def prepared_with(self, images: Sequence[Tensor], targets: Sequence[Target]) -> tuple[Tensor, list[Target]]:
        """Return images as the layers get them, and targets in their pixels, to train on and to judge by.

        Args:
            images: each [3, h, w] in [0, 1].
            targets: of each image `boxes` [K, 4] in its pixels and `labels` [K]; `masks` and `keypoints` are trained
                on where there are some, objects that `iscrowd` [K] marks are not.

        Returns:
            Images [N, 3, H, W], and of each what training takes, with `size` and `original` (height and width of the
            image before padding, and as it was given) and `truth`, the target as it was given.
        """
        net: Any = self.net
        made, found = net.transform(list(images), [_trained_on(target) for target in targets])
        both = zip(found, made.image_sizes, images, targets, strict=True)
        return made.tensors, [
            {**entry, "size": torch.tensor(size), "original": torch.tensor(image.shape[-2:]), "truth": dict(target)}
            for entry, size, image, target in both
        ]

    @property
    def classes(self) -> int | None:
        """Number of classes, that of the background among them; None where its head does not tell."""
        net: Any = self.net
        if hasattr(net, "rpn"):
            found = getattr(getattr(net.roi_heads.box_predictor, "cls_score", None), "out_features", None)
        else:
            head = getattr(net.head, "classification_head", None)
            found = getattr(head, "num_columns", None) or getattr(head, "num_classes", None)
        return found if isinstance(found, int) else None

    @property
    def finds(self) -> Finds:
        """What it finds beside boxes and labels, and its own losses want of a target."""
        heads: Any = getattr(self.net, "roi_heads", None)
        if heads is None:
            return Finds()
        points = _keypoints(heads.keypoint_predictor) if heads.has_keypoint() else 0
        return Finds(masks=heads.has_mask(), keypoints=points)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Shape (3, H, W) of an image as the layers get it; a square where that follows the picture's aspect."""
        transform: Any = self._transform
        if self.squashes:
            width, height = transform.fixed_size
            return (3, height, width)
        side = min(transform.min_size[-1], transform.max_size)
        side = math.ceil(side / transform.size_divisible) * transform.size_divisible
        return (3, side, side)

    @property
    def normalisation(self) -> dict[str, list[float]]:
        """The `mean` and `std` that the detector normalises images in [0, 1] by."""
        transform: Any = self._transform
        return {"mean": [*map(float, transform.image_mean)], "std": [*map(float, transform.image_std)]}

    @property
    def squashes(self) -> bool:
        """Whether pictures are brought to one size whatever their aspect."""
        return self._transform.fixed_size is not None

    @property
    def _transform(self) -> Any:
        net: Any = self.net
        return net.transform

    @property
    def _slimkit_provenance(self) -> Provenance:
        return provenance.of(self.net)

    @_slimkit_provenance.setter
    def _slimkit_provenance(self, known: Provenance) -> None:
        provenance.attach(self.net, known)


def is_detector(model: object) -> bool:
    """Tell whether a module is a detector of torchvision, with a backbone of its own."""
    kinds = {kind.__module__ for kind in type(model).__mro__}
    named = any(kind.startswith("torchvision.models.detection.") for kind in kinds)
    return named and hasattr(model, "backbone") and hasattr(model, "transform")


def seen(model: nn.Module) -> nn.Module:
    """Return a network as surgery sees it: of a detector its heads, any other as it is."""
    if not is_detector(model):
        return model
    heads = Heads(model)
    heads.training = model.training
    return heads


def itself(model: nn.Module) -> nn.Module:
    """Return a network as its user knows it: of heads the detector, any other as it is."""
    found: nn.Module = model.net if isinstance(model, Heads) else model
    return found


def known(said: Provenance, heads: Heads) -> Provenance:
    """Add what a detector says itself to what is known of it."""
    return replace(
        said,
        input_shape=said.input_shape or heads.input_shape,
        classes=heads.classes,
        finds=heads.finds,
        normalisation=heads.normalisation,
        guessed=(),
        use=replace(said.use, task="detection", resize="squash" if heads.squashes else None),
    )


def thawed(net: nn.Module) -> nn.Module:
    """Return a copy of a detector whose frozen BatchNorms are ordinary ones: as torchvision's builders make it."""
    from torchvision.ops import FrozenBatchNorm2d

    def ordinary(frozen: Any) -> nn.Module:
        return nn.BatchNorm2d(len(frozen.weight), frozen.eps)

    return _exchanged(copied(net), FrozenBatchNorm2d, ordinary)


def frozen(net: nn.Module) -> nn.Module:
    """Exchange BatchNorms whose statistics nobody has counted for frozen ones, in place; return the detector.

    torchvision freezes BatchNorm wherever it begins with trained weights: these have statistics, but no counter of
    batches, and building the network anew makes ordinary BatchNorms of them, which further training would change.
    """
    from torchvision.ops import FrozenBatchNorm2d

    def made(norm: nn.BatchNorm2d) -> nn.Module:
        mean, counted = norm.running_mean, norm.num_batches_tracked
        if mean is None or bool(counted) or not bool(mean.any()):
            return norm
        found: nn.Module = FrozenBatchNorm2d(len(mean), norm.eps)
        found.load_state_dict({name: tensor.detach() for name, tensor in norm.state_dict().items()})
        return found

    return _exchanged(net, nn.BatchNorm2d, made)


def _exchanged(net: nn.Module, kind: type[nn.Module], make: Callable[[Any], nn.Module]) -> nn.Module:
    for module in list(net.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, kind):
                setattr(module, name, make(child).train(child.training))
    return net


def _keypoints(predictor: nn.Module) -> int:
    """Return how many maps a predictor ends in, one a keypoint."""
    return [m.out_channels for m in predictor.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)][-1]


def _trained_on(target: Target) -> dict[str, Tensor]:
    found = {name: target[name] for name in _TRAINED_ON if name in target}
    crowd = target.get("iscrowd")
    return found if crowd is None else {name: value[~crowd.bool()] for name, value in found.items()}


def _detected(net: Any, images: Tensor, targets: Sequence[Target]) -> Any:
    """Call a detector on images that it has prepared already."""
    from torchvision.models.detection.image_list import ImageList

    sizes, originals = ([tuple(map(int, t[name].tolist())) for t in targets] for name in ("size", "original"))
    wanted = [{name: target[name] for name in _TRAINED_ON if name in target} for target in targets]
    transform = net.transform

    class Done(nn.Module):
        def forward(self, images: Any, targets: Any = None) -> Any:
            return batch, targets

        def postprocess(self, found: Any, _: Any, __: Any) -> Any:
            if net.training:
                return found
            bare = [{name: value for name, value in entry.items() if name != "masks"} for entry in found]
            made = transform.postprocess(bare, sizes, originals)
            return [entry | one for entry, one in zip(found, made, strict=True)]

    batch = ImageList(images, sizes)
    views = [image[:, :height, :width] for image, (height, width) in zip(images, sizes, strict=True)]
    with exchanged(net, "transform", Done()), _keypoints_in_rows(net):
        return net(views, wanted if net.training else None)


class _InRows(nn.Module):
    def __init__(self, predictor: nn.Module) -> None:
        super().__init__()
        self.predictor = predictor

    def forward(self, features: Tensor) -> Tensor:
        found: Tensor = self.predictor(features)
        return found.contiguous()


@contextmanager
def _keypoints_in_rows(net: Any) -> Iterator[None]:
    """Let torchvision's loss of keypoints view their maps as rows, which it cannot in channels-last layout."""
    heads: Any = getattr(net, "roi_heads", None)
    if heads is None or not heads.has_keypoint():
        yield
        return
    with exchanged(heads, "keypoint_predictor", _InRows(heads.keypoint_predictor)):
        yield


@contextmanager
def exchanged(module: Any, name: str, value: Any) -> Iterator[None]:
    """Let a module have another attribute for a while."""
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


def _second_stage(heads: Any, features: dict[str, Tensor], images: Tensor) -> dict[str, Any]:
    found: dict[str, Any] = {}
    scores, deltas = heads.box_predictor(heads.box_head(pooled(heads.box_roi_pool, features, images)))
    found |= {"classes": scores, "box_deltas": deltas}
    if heads.has_mask():
        found["masks"] = heads.mask_predictor(heads.mask_head(pooled(heads.mask_roi_pool, features, images)))
    if heads.has_keypoint():
        regions = pooled(heads.keypoint_roi_pool, features, images)
        found["keypoints"] = heads.keypoint_predictor(heads.keypoint_head(regions))
    return found


def pooled(pool: Any, features: dict[str, Tensor], images: Tensor) -> Tensor:
    """Return `REGIONS` of images [N, 3, H, W] on every level that a stage reads, [levels x N x regions, C, h, w]."""
    from torchvision.ops import roi_align

    height, width = images.shape[2:]
    sides = images.new_tensor([width, height, width, height])
    regions = [images.new_tensor(REGIONS) * sides for _ in images]
    maps = [features[name] for name in pool.featmap_names if name in features]
    return torch.cat([roi_align(m, regions, pool.output_size, m.shape[2] / height, pool.sampling_ratio) for m in maps])
