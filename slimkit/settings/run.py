"""What all runs share: frozen settings that check themselves when made; no files, no torch."""

from dataclasses import dataclass

from slimkit.errors import SpecError
from slimkit.settings.budget import Budget, budget_setting, parse_budget
from slimkit.settings.checks import choice, flag, number, optional, pattern, several, text, whole, word_or
from slimkit.settings.data import DataSpec
from slimkit.settings.files import FileSpec
from slimkit.settings.setting import setting

BUDGETS = ("macs", "params", "bytes", "latency", "energy")
RANKINGS = ("group-norm", "reader-norm", "gamma", "taylor", "popup", "random")
TRACERS = ("slimkit", "torch-pruning")
RUNTIMES = ("onnxruntime", "openvino", "openvino-bf16")
SCOPE = "group"  # where channels compete unless a run says otherwise
SHARE = number(0, 1, below=True)
RANKING_MEANING = f"what ranks channels: {', '.join(RANKINGS)}"


@dataclass(frozen=True, kw_only=True)
class RunSpec(FileSpec, DataSpec):
    """What both kinds of run share.

    Raises:
        SpecError: a value is of the wrong kind or outside its range, or there is more than one budget.
    """

    ratio: float | None = setting(
        None,
        "share of the removable channels to remove, in [0, 1); 0.5 where there is no budget; half of the channels is "
        "about a quarter of the work",
        optional(SHARE),
    )
    max_macs: str | float | None = setting(
        None,
        "MACs that may be left: a share, 0.5, or an amount, 500M (1 MAC = 2 FLOPs)",
        optional(budget_setting("macs")),
    )
    max_params: str | float | None = setting(
        None,
        "parameters that may be left: a share, or an amount such as 4M",
        optional(budget_setting("params")),
    )
    max_bytes: str | float | None = setting(
        None,
        "size of the ONNX file that may be left: a share, or an amount such as 4MB",
        optional(budget_setting("bytes")),
    )
    max_latency: str | float | None = setting(
        None,
        "latency to reach: a share of the original, 0.5, or a time, 2.5ms, that of a batch where batch is more than 1",
        optional(budget_setting("latency")),
    )
    max_energy: str | float | None = setting(
        None,
        "energy an inference may take: a share, or an amount such as 30mJ",
        optional(budget_setting("energy")),
    )
    ranking: str = setting("group-norm", RANKING_MEANING, choice(*RANKINGS))
    scope: str = setting(
        SCOPE,
        "where channels compete: global (whole network), isomorphic (groups of like build), group",
        choice("global", "group", "isomorphic"),
    )
    without_bn: str = setting(
        "norm",
        "channels without BatchNorm: norm (rank them by their weights) or keep",
        choice("norm", "keep"),
    )
    keep: tuple[str, ...] = setting(
        (), "layers whose channels all stay, by name or pattern, such as layer4.*", several(text)
    )
    cap: float = setting(0.9, "largest share to remove of one group, in (0, 1)", number(0, 1, above=True, below=True))
    round_to: str | int = setting(
        "auto",
        "channel counts are multiples of this; auto: what this machine's engine likes, less where that keeps the "
        "budget out of reach, and in compress where it would cost accuracy",
        word_or("auto", whole(1)),
    )
    constants: str = setting(
        "fold",
        "mean output of a removed channel: fold (into what reads it) or zero (drop it)",
        choice("fold", "zero"),
    )
    tracer: str = setting(
        "slimkit",
        f"what reads the channel graph: {' or '.join(TRACERS)}",
        choice(*TRACERS),
    )
    runtime: str = setting(
        "onnxruntime",
        f"engine that latency is measured in: {', '.join(RUNTIMES)}",
        choice(*RUNTIMES),
    )
    threads: int = setting(1, "threads of the engine when latency is measured", whole(1))
    batch: int = setting(1, "images at once when latency is measured", whole(1))
    latency_table: str | None = setting(
        None, "file with the latency table of another machine, to aim at that machine", optional(text)
    )
    int8: bool = setting(False, "also write an INT8 model, calibrated on the data or on `calibration`", flag)
    epochs: float = setting(10, "epochs of training", number(0))
    seed: int = setting(0, "seed of everything random", whole(0))
    precision: str = setting(
        "auto",
        "of training: auto (bf16 where the hardware has it), fp32, bf16",
        choice("auto", "fp32", "bf16"),
    )
    device: str = setting(
        "auto",
        "where networks are fitted, trained and judged: auto, cpu, cuda, cuda:N, mps, xpu",
        pattern(r"auto|cpu|mps|(cuda|xpu)(:\d+)?", "auto, cpu, cuda, cuda:N, mps or xpu"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        given = [name for name in self.budgets() if getattr(self, name) is not None]
        if len(given) > 1:
            raise SpecError(f"{' and '.join(given)} are set: a run has one budget.\n  Leave one of them")
        if self.latency_table is not None and given != ["max_latency"]:
            instead = f" in place of `{given[0]}`," if given else ""
            raise SpecError(
                f"latency_table is {self.latency_table!r}: it is of use only to a latency budget.\n"
                f"  Give `max_latency`,{instead} for example `max_latency=0.5`, or leave out the table"
            )
        if not given:
            object.__setattr__(self, "ratio", 0.5)
        if self.fixed_batch:
            self.refuse_idle(("batch",), "`fixed_batch` binds the ONNX file to one image at a time")

    def budgets(self) -> tuple[str, ...]:
        """Names of the settings that say how far to go; a run has one of them."""
        return ("ratio", *(f"max_{kind}" for kind in BUDGETS))

    @property
    def budget(self) -> Budget:
        """The one budget of the run."""
        for kind in BUDGETS:
            if (given := getattr(self, f"max_{kind}")) is not None:
                return parse_budget(given, kind)
        assert self.ratio is not None
        return Budget("ratio", self.ratio)
