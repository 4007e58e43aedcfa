"""How a picture file becomes an input: decoded, resized, cropped, in the range [0, 1]."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from slimkit.data.listing import FORMATS, in_bytes, open_picture
from slimkit.data.order import number
from slimkit.errors import DataError, SpecError
from slimkit.hardware import CPU, draw_from, own_random
from slimkit.provenance import Provenance
from slimkit.tasks.segmentation import IGNORED

# Of ImageNet, and so of most networks that are trained on colour pictures; grey: of their brightness.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
GREY_MEAN, GREY_STD = (0.449,), (0.226,)
CROP = 0.875  # torchvision's 224 of 256
SQUASH = "squash"


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How picture files are read; None: as most do, and `Dataset.notes` says what that was.

    Attributes:
        input_shape: (C, H, W) that pictures are brought to, C = 1 (grey) or 3 (RGB).
        resize: pixels of the shorter side before the centre crop; or `squash`: no crop, the whole picture is
            brought to H x W whatever its aspect.
        crop: share of the shorter side that the centre crop keeps, in (0, 1], where `resize` does not say it.
        mean, std: per channel, of images in [0, 1].
        allow_bad: largest share of files that may be left out because they cannot be read, in [0, 1).

    Raises:
        SpecError: values that are out of range or do not go together.
    """

    input_shape: tuple[int, ...] | None = None
    resize: int | str | None = None
    crop: float | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    allow_bad: float = 0.0

    def __post_init__(self) -> None:
        squash = isinstance(self.resize, str)
        if (squash and self.resize != SQUASH) or (not squash and self.resize is not None and int(self.resize) < 1):
            raise SpecError(f"resize is {self.resize!r}: it must be a number of pixels, or {SQUASH!r}.\n  Change it")
        if self.crop is not None and not 0 < self.crop <= 1:
            raise SpecError(f"crop is {self.crop}: it must be in (0, 1], the share that is kept.\n  Change it")
        if self.crop is not None and self.resize is not None:
            given = f"resize is {self.resize} and crop is {self.crop}"
            raise SpecError(f"{given}: one follows from the other.\n  Give `resize` or `crop`")
        if (self.mean is None) != (self.std is None):
            raise SpecError("of mean and std only one is given.\n  Give `mean` and `std`, one number a channel each")
        if self.std is not None and not min(self.std, default=0) > 0:
            raise SpecError(f"std is {self.std}: it must be above 0.\n  Change it")
        if not 0 <= self.allow_bad < 1:
            raise SpecError(f"allow_bad is {self.allow_bad}: it must be in [0, 1), a share.\n  Change it")


@dataclass(frozen=True, kw_only=True)
class View:
    """What a network sees of a picture.

    Attributes:
        shape: (C, H, W).
        mean, std: per channel, C each.
        resize: pixels of the shorter side; None: as `crop` says; or `squash`.
        crop: share of the shorter side that is kept.
    """

    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: int | str | None = None
    crop: float = CROP

    @property
    def cropped(self) -> float | None:
        """Share of the shorter side that is kept; None where `resize` says it."""
        return self.crop if self.resize is None else None

    def open(self, path: Path) -> Any:
        """Return the picture, decoded, in as many channels as are wanted.

        Raises:
            DataError: it cannot be read.
        """
        from PIL import Image

        try:
            with open_picture(path, formats=FORMATS) as opened:
                return in_bytes(opened).convert("RGB" if self.shape[0] == 3 else "L")
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise DataError(f"{path} cannot be read as a picture: {error}.\n  Mend or remove it") from error

    def whole(self, image: Any, mask: Any = None) -> tuple[Any, Any]:
        """Resize and crop as for measuring: torchvision's Resize and CenterCrop, both by the same numbers."""
        from torchvision.transforms import InterpolationMode
        from torchvision.transforms.v2 import functional as F

        size = self._before_crop(*image.size)
        image = F.center_crop(F.resize(image, size, antialias=True), list(self.shape[1:]))
        if mask is not None:
            mask = F.resize(mask, size, InterpolationMode.NEAREST)
            down, across = (max(0, wanted - side) for wanted, side in zip(self.shape[1:], mask.shape[-2:], strict=True))
            around = [across // 2, down // 2, (across + 1) // 2, (down + 1) // 2]  # as center_crop pads the picture
            mask = F.center_crop(F.pad(mask, around, fill=IGNORED), list(self.shape[1:]))
        return image, mask

    def varied(self, seed: int, image: Any, mask: Any = None) -> tuple[Any, Any]:
        """Crop and mirror at random, as for training: torchvision's RandomResizedCrop and RandomHorizontalFlip."""
        from torchvision.transforms import v2

        vary = v2.Compose([v2.RandomResizedCrop(self.shape[1:], (0.25, 1.0)), v2.RandomHorizontalFlip()])
        with own_random(CPU):
            draw_from(number("picture", seed))
            return vary(image, mask) if mask is not None else (vary(image), None)

    def _before_crop(self, width: int, height: int) -> list[int]:
        """Return [height, width] of the picture before the centre crop."""
        _, tall, wide = self.shape
        if self.resize == SQUASH:
            return [tall, wide]
        if self.resize is None:
            scale = max(round(tall / self.crop) / height, round(wide / self.crop) / width)
        else:
            scale = int(self.resize) / min(width, height)
        return [max(1, int(side * scale + 1e-6)) for side in (height, width)]  # torchvision cuts off, too


def as_tensor(image: Any) -> Tensor:
    """Return a picture as float32 [C, H, W] in [0, 1]."""
    from torchvision.transforms.v2 import functional as F

    pixels: Tensor = F.pil_to_tensor(image)
    return pixels.float() / 255


def view(reading: Reading, own: Provenance, resize: int | str | None = None) -> tuple[View, tuple[str, ...]]:
    """Decide how pictures are read: as asked for, else as the network was trained, else as most networks are.

    Args:
        reading: what was asked for.
        own: what is known of the network: shape, mean, std, resize and crop that it was trained with.
        resize: what this kind of data is resized by where nothing is asked for.

    Returns:
        The view, and what was assumed.

    Raises:
        SpecError: mean and std are not of as many channels as the pictures.
    """
    import torchvision.transforms.v2  # noqa: F401 - here, so that processes that are forked to read have it already

    usable = own.input_shape is not None and len(own.input_shape) == 3 and own.input_shape[0] in (1, 3)
    known = own.input_shape if usable else None
    asked_for = reading.input_shape
    if asked_for is not None and (len(asked_for) != 3 or asked_for[0] not in (1, 3) or min(asked_for) < 1):
        raise SpecError(
            f"input_shape is {asked_for}: pictures are (1, H, W) or (3, H, W).\n"
            "  Give data of other shapes by a function of your own, as file.py:make"
        )
    channels, height, width = asked_for or known or (3, 224, 224)
    shaped = "" if asked_for is not None else f"input_shape {'from the network' if known else '3,224,224'}"
    crop, asked, sized = _cropped(reading, own, resize, height)
    mean, std, scaled = _scaled(reading, own, channels)
    assumed = [note for note in (shaped, sized, scaled) if note]
    if not len(mean) == len(std) == channels:
        raise SpecError(
            f"mean and std are of {len(mean)} and {len(std)} channels, the pictures of {channels}.\n"
            "  Give one number a channel"
        )
    found = View(
        shape=(channels, height, width),
        mean=mean,
        std=std,
        resize=asked,
        crop=crop or CROP,
    )
    note = f"pictures are read as {channels}x{height}x{width}, with {', '.join(assumed)}"
    return found, (note,) if assumed else ()


def _cropped(
    reading: Reading, own: Provenance, resize: int | str | None, height: int
) -> tuple[float | None, int | str | None, str]:
    """Return crop and resize, one of them or none, and what was assumed; see `view`."""
    if reading.crop is not None or reading.resize is not None:
        return reading.crop, reading.resize, ""
    crop, size = own.use.crop, own.use.resize
    if crop is not None:
        return crop, None, f"crop {crop:.4g} (resize {round(height / crop)}) from the network"
    if size is not None and (reading.input_shape in (None, own.input_shape) or size == SQUASH):
        return None, size, f"resize {size} from the network"
    return None, resize, f"resize {resize}" if resize else f"crop {CROP} (resize {round(height / CROP)})"


def _scaled(reading: Reading, own: Provenance, channels: int) -> tuple[tuple[float, ...], tuple[float, ...], str]:
    """Return mean and std, one number a channel, and what was assumed; see `view`."""
    if reading.mean is not None and reading.std is not None:
        return reading.mean, reading.std, ""
    known = own.normalisation
    if known is not None and len(known["mean"]) == channels:
        return tuple(known["mean"]), tuple(known["std"]), "mean and std from the network"
    mean, std = (MEAN, STD) if channels == 3 else (GREY_MEAN, GREY_STD)
    return mean, std, f"mean {','.join(map(str, mean))} and std {','.join(map(str, std))} (ImageNet's)"
