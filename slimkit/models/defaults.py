"""What weights alone do not tell: the input's size and normalisation that an architecture is used with."""

from typing import Any

from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from slimkit.models.detectors import Heads
from slimkit.models.reference import Reference

_LAYERS = (_ConvNd, nn.Linear)
_SIZE = 224  # pixels; what ImageNet networks without a known size are given


def input_shape(reference: Reference | None, model: nn.Module) -> tuple[tuple[int, int, int] | None, bool]:
    """Return the usual shape (C, H, W) of one image, and whether it is known rather than guessed.

    A detector says itself what it makes of pictures.
    C is read from the network's first convolution. None: it takes something else than images.
    """
    if isinstance(model, Heads):
        return model.input_shape, True
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
        named = configured.get("first_conv", True)  # an empty list: what comes before it is no convolution of pixels
        folded = not named or channels in (4 * first, 16 * first)  # pixels were folded into channels, as in tresnet
        return (first if folded else channels or first, height, width), True
    layers = [module for module in model.modules() if isinstance(module, _LAYERS)]
    if layers and (isinstance(layers[0], _ConvTransposeNd) or not any(isinstance(one, nn.Conv2d) for one in layers)):
        return None, False  # what begins by enlarging makes images, and takes none
    return (channels or 3, _SIZE, _SIZE), False


def normalisation(reference: Reference | None, model: nn.Module, channels: int) -> dict[str, list[float]] | None:
    """Return the `mean` and `std` of images in [0, 1] that the published weights were trained with.

    None where there are none, or for another number of channels.
    """
    if isinstance(model, Heads):
        return model.normalisation
    found: dict[str, Any] = {}
    if reference is not None and reference.source == "torchvision":
        found = _transforms(reference.name)
    elif isinstance(getattr(model, "pretrained_cfg", None), dict):
        found = getattr(model, "pretrained_cfg")  # noqa: B009 (nn.Module's own type says Tensor | Module)
    mean, std = (list(map(float, found.get(key) or ())) for key in ("mean", "std"))
    return {"mean": mean, "std": std} if len(mean) == len(std) == channels else None


def crop(reference: Reference | None, model: nn.Module) -> float | None:
    """Return the share of a picture's shorter side that the published weights were measured on; None where unknown."""
    if reference is not None and reference.source == "torchvision":
        found = _transforms(reference.name).get("crop")
    else:
        configured = getattr(model, "pretrained_cfg", None)
        found = configured.get("crop_pct") if isinstance(configured, dict) else None
    return float(found) if isinstance(found, int | float) and 0 < found <= 1 else None


def _channels(model: nn.Module) -> int | None:
    for module in model.modules():
        if isinstance(module, _LAYERS):
            return module.in_channels if isinstance(module, _ConvNd) else None
    return None


def _transforms(name: str) -> dict[str, Any]:
    """Read `size`, `crop`, `mean` and `std` off the preprocessing of torchvision's first weights for a network."""
    from torchvision import models

    try:
        weights = list(models.get_model_weights(name))
    except ValueError:
        return {}
    plain = next((each for each in weights if each.name.startswith("IMAGENET1K_V1")), None)
    if plain is None and not weights:
        return {}
    transforms = (plain or weights[0]).transforms()
    size, whole = (_first(getattr(transforms, name, None)) for name in ("crop_size", "resize_size"))
    return {
        "size": size,
        "crop": size / whole if size and whole else None,
        "mean": getattr(transforms, "mean", None),
        "std": getattr(transforms, "std", None),
    }


def _first(sizes: Any) -> int | None:
    return int(sizes[0]) if isinstance(sizes, list) and sizes else None
