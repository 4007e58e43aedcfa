"""What weights alone do not tell: the input's size and normalisation that an architecture is used with."""

from typing import Any

from torch import nn

from slimkit.models.reference import Reference

_SIZE = 224  # pixels; what ImageNet networks without a known size are given


def input_shape(reference: Reference | None, model: nn.Module) -> tuple[tuple[int, int, int], bool]:
    """Return the usual shape (C, H, W) of one image, and whether it is known rather than guessed.

    C is read from the network's first convolution.
    """
    channels = _channels(model)
    if reference is not None and reference.source == "torchvision":
        size = getattr(model, "image_size", None)  # vision transformers are built for one size
        size = size if isinstance(size, int) else _transforms(reference.name).get("size")
        return (channels or 3, size or _SIZE, size or _SIZE), size is not None
    if reference is not None and reference.source == "zoo":
        from slimkit import zoo

        first, height, width = zoo.INPUT_SHAPES[reference.name]
        return (channels or first, height, width), True
    configured = getattr(model, "pretrained_cfg", None) or {}
    if isinstance(configured, dict) and len(configured.get("input_size") or ()) == 3:
        first, height, width = (int(number) for number in configured["input_size"])
        return (channels or first, height, width), True
    return (channels or 3, _SIZE, _SIZE), False


def normalisation(reference: Reference | None, model: nn.Module, channels: int) -> dict[str, list[float]] | None:
    """Return the `mean` and `std` of images in [0, 1] that the published weights were trained with.

    None where there are none, or for another number of channels.
    """
    found: dict[str, Any] = {}
    if reference is not None and reference.source == "torchvision":
        found = _transforms(reference.name)
    elif isinstance(getattr(model, "pretrained_cfg", None), dict):
        found = getattr(model, "pretrained_cfg")  # noqa: B009 (nn.Module's own type says Tensor | Module)
    mean, std = (list(map(float, found.get(key) or ())) for key in ("mean", "std"))
    return {"mean": mean, "std": std} if len(mean) == len(std) == channels else None


def _channels(model: nn.Module) -> int | None:
    for module in model.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            return module.in_channels
        if isinstance(module, nn.Linear):
            return None
    return None


def _transforms(name: str) -> dict[str, Any]:
    """Read `size`, `mean` and `std` off the preprocessing of torchvision's first weights for a network."""
    from torchvision import models

    try:
        weights = list(models.get_model_weights(name))
    except ValueError:
        return {}
    plain = next((each for each in weights if each.name.startswith("IMAGENET1K_V1")), None)
    if plain is None and not weights:
        return {}
    transforms = (plain or weights[0]).transforms()
    size = getattr(transforms, "crop_size", None)
    return {
        "size": size[0] if isinstance(size, list) and size else None,
        "mean": getattr(transforms, "mean", None),
        "std": getattr(transforms, "std", None),
    }
