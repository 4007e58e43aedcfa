"""What networks are judged by: figures of single images, and how they become one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from slimkit.errors import DataError
from slimkit.tasks import measurement
from slimkit.tasks.measurement import Measurement

BatchRows = Tensor | list[Any]
_EXACT = 100.0  # dB


def joined(batches: Sequence[BatchRows]) -> Tensor:
    """Return the rows of all batches as one tensor."""
    return torch.cat([rows for rows in batches if isinstance(rows, Tensor)])


@dataclass(frozen=True)
class Metric:
    """A metric that is known image by image.

    Attributes:
        per_image: (outputs, targets) of a batch of B -> one row an image: bool [B], whether it is right;
            float [B], its figure; or with `of_sum` float [B, ...], what is counted of it. A float [] is one
            figure for the whole batch: it is weighted by B and has no interval. With `of_all` a list of B entries
            of any kind.
        of_sum: sum of the rows [...] -> the metric, where that is no mean over images (as mean IoU).
        unit: `share` (in [0, 1], written as a percentage), a unit such as `dB`, or "" for a plain number.
        of_all: the rows of all images -> the metric, where they have to be seen together (as average precision).
        draws: the same rows -> the metric of images drawn anew, float64 [draws], the same ones for as many rows; None
            where there are none.
    """

    per_image: Callable[[Any, Any], Any]
    of_sum: Callable[[Tensor], float] | None = None
    unit: str = ""
    of_all: Callable[[Sequence[Any]], Measurement] | None = None
    draws: Callable[[Sequence[Any]], Any] | None = None

    def spread(self, one: Sequence[BatchRows], other: Sequence[BatchRows]) -> float:
        """Return the standard deviation over draws of the difference between two networks; 0 where nothing is drawn."""
        if self.draws is None:
            return 0.0
        before, after = (self.draws([row for rows in batches for row in rows]) for batches in (one, other))
        if before is None or after is None:
            return 0.0
        count = min(len(before), len(after))
        return float((before[:count] - after[:count]).std())

    def rows(self, name: str, outputs: Any, targets: Any, images: int) -> BatchRows:
        """Return what is known of each image of a batch, on the CPU.

        Raises:
            DataError: the metric gives no number, or not one row an image.
        """
        if self.of_all is not None:
            return list(self.per_image(outputs, targets))
        found = torch.as_tensor(self.per_image(outputs, targets)).detach().cpu()
        if not bool(found.isfinite().all()):
            raise DataError(
                f"metric {name!r}: it gave {float(found[~found.isfinite()][0])} for a batch of {images}.\n"
                "  Let it give a finite number for every image"
            )
        if found.dim() and len(found) == images:
            return found
        if found.dim() or self.of_sum is not None:
            raise DataError(
                f"metric {name!r}: it gave {list(found.shape)} for a batch of {images}.\n"
                f"  Return one number an image, [{images}], or one for the batch, []"
            )
        return found.double().expand(images, 1)  # a second dimension: alike within a batch, so no interval

    def measured(self, batches: Sequence[BatchRows]) -> Measurement:
        """Return the metric of all images, from the rows of their batches."""
        if self.of_all is not None:
            return self.of_all([row for rows in batches for row in rows])
        rows = joined(batches)
        if self.of_sum is not None:
            return measurement.of_sums(rows, self.of_sum)
        if rows.dtype == torch.bool:
            return measurement.share(int(rows.sum()), len(rows))
        if rows.dim() == 2:
            return Measurement(float(rows.double().mean()), len(rows), None)
        return measurement.mean(rows)


def psnr(peak: float = 1.0) -> Metric:
    """Return the peak signal-to-noise ratio in dB, of outputs and targets [B, ...] whose largest value is `peak`.

    100 at the most: an exact picture would be worth any number of others.
    """

    def per_image(outputs: Tensor, targets: Tensor) -> Tensor:
        error = (outputs.double() - targets.double()).square().flatten(1).mean(1)
        return (10 * torch.log10(peak**2 / error)).clamp_max(_EXACT)

    return Metric(per_image, unit="dB")
