"""What `slimkit evaluate` should do."""

from dataclasses import dataclass

from slimkit.errors import SpecError
from slimkit.settings.checks import text, whole
from slimkit.settings.data import DATA_MEANING, DataSpec
from slimkit.settings.setting import setting
from slimkit.settings.source import SourceSpec


@dataclass(frozen=True, kw_only=True)
class EvaluateSpec(SourceSpec, DataSpec):
    """What a network in a file is measured on."""

    data: str = setting(
        "",
        f"{DATA_MEANING}, file.py:make, or the yaml of a data set where the network is one of Ultralytics",
        text,
    )
    seed: int = setting(0, "draws the validation split, as it did when the network was trained", whole(0))

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.data:
            raise SpecError("data is not set: there is nothing to measure on.\n  Add it, for example `data='digits'`")
