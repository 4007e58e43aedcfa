"""What `slimkit compress` should do."""

from dataclasses import dataclass
from typing import Any

from slimkit.errors import SpecError
from slimkit.settings.checks import choice, flag, number, optional, text, whole, word_or
from slimkit.settings.data import DATA_MEANING
from slimkit.settings.run import RANKINGS, RunSpec
from slimkit.settings.setting import setting
from slimkit.settings.source import SourceSpec


@dataclass(frozen=True, kw_only=True)
class CompressSpec(SourceSpec, RunSpec):
    """What `slimkit compress` should do with a checkpoint."""

    data: str | None = setting(
        None,
        f"{DATA_MEANING}, file.py:make, or the yaml of a data set where the "
        "network is one of Ultralytics; default: none",
        optional(text),
    )
    ranking: str = setting(
        "auto",
        "what ranks channels: auto (what the others can make up for, where there are inputs; else group-norm), "
        f"{', '.join(RANKINGS)}",
        choice("auto", *RANKINGS),
    )
    rounds: str | int = setting(
        "auto",
        "looks at what channels are worth, each at a network nearer to the budget; auto: 2 where little is left",
        word_or("auto", whole(1)),
    )
    max_drop: float | None = setting(
        None,
        "the smallest network that loses at most so much: points of accuracy, or the metric's own unit; without labels "
        "of agreement with the original",
        optional(number(0, above=True)),
    )
    minimise: str = setting(
        "latency",
        "what max_drop makes small: latency, macs, params, bytes or energy",
        choice("latency", "macs", "params", "bytes", "energy"),
    )
    calibration: str | None = setting(
        None,
        "unlabelled inputs that what is left is fitted to: folder:PHOTOS, a data set, file.py:make; default: the data",
        optional(text),
    )
    constants: str = setting(
        "fit",
        "what becomes of what removed channels said: fit (what is left is fitted to what the original computes), "
        "fold (their mean goes into what reads them) or zero (dropped)",
        choice("fit", "fold", "zero"),
    )
    recover: bool = setting(True, "recover before any retraining; without: constants are folded, no more", flag)
    epochs: float = setting(10, "epochs of retraining, where there is data; also parts of one; 0: none", number(0))
    batch_size: str | int = setting(
        "auto",
        "images a training step; auto: 128, by an own loss 16 to 128, of a detector 8, of a YOLO 16",
        word_or("auto", whole(1)),
    )
    optimizer: str = setting(
        "auto",
        "what steps in the retraining: sgd or adamw; auto: sgd, by an own loss adamw, of a YOLO its trainer's own",
        choice("auto", "sgd", "adamw"),
    )
    learning_rate: str | float = setting(
        "auto",
        "highest learning rate of the retraining; auto: 0.02 with sgd, 0.001 with adamw, of a detector a fortieth of "
        "these, of a YOLO its trainer's own",
        word_or("auto", number(0, above=True)),
    )
    distill: bool = setting(True, "retrain with the dense network as teacher; detectors have none", flag)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ranking == "auto" and self.fits:
            self.refuse_idle(
                ("scope",),
                "every group loses the same share, of the channels that reconstruction can best do without"
                if self.evenly
                else "the budget is shared out between all groups by what reconstruction loses without their channels",
                "Name what ranks them too, for example `ranking='group-norm'`, or leave `{name}` out",
            )
        if self.max_drop is None:
            self.refuse_idle(
                ("minimise",),
                "it says what `max_drop` makes small, and that is not given",
                "Add `max_drop`, or leave `{name}` out",
            )
        if not self.onnx and self.minimise in ("bytes", "energy"):
            raise SpecError(
                f"minimise is {self.minimise!r}: that is measured of the ONNX file, and onnx is False.\n"
                "  Leave out `onnx=False`, or give `minimise='macs'` or `'params'`"
            )

    @property
    def evenly(self) -> bool:
        """Whether losses of groups are not compared, where channels are ranked by what the others make up for."""
        return self.max_drop is None and self.budget.kind in ("ratio", "bytes")

    @property
    def fits(self) -> bool:
        """Whether what is left is fitted to what the original computes."""
        return self.recover and self.constants == "fit"

    @property
    def pace(self) -> dict[str, Any]:
        """What was asked for of batch size and learning rate; what was not is left to the kind of network."""
        given = {"batch_size": self.batch_size, "learning_rate": self.learning_rate}
        return {name: value for name, value in given.items() if value != "auto"}

    def budgets(self) -> tuple[str, ...]:
        """Names of the settings that say how far to go."""
        return (*super().budgets(), "max_drop")
