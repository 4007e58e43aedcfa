"""The settings of a run: frozen values that check themselves when made; no files, no torch."""

from dataclasses import dataclass, field, fields
from typing import Any

from slimkit.errors import SpecError
from slimkit.settings.budget import Budget, budget_setting, parse_budget
from slimkit.settings.checks import Check, choice, flag, number, optional, pattern, several, text, whole, word_or

BUDGETS = ("macs", "params", "bytes", "latency", "energy")
_RATIO = number(0, 1, below=True)
_RANKINGS = ("group-norm", "reader-norm", "gamma", "taylor", "random")
_RANKING = "what ranks channels: group-norm, reader-norm, gamma, taylor (needs data), random"


def setting(default: Any, meaning: str, check: Check) -> Any:
    """Make a field whose meaning is written once: the help, the settings file and the report all read it."""
    return field(default=default, metadata={"help": meaning, "check": check})


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """What both kinds of run share. A value: safe to print, compare and store.

    Raises:
        SpecError: a value is of the wrong kind or outside its range, or there is more than one budget.
    """

    ratio: float | None = setting(
        None,
        "share of the removable channels to remove, in [0, 1); 0.5 where there is no budget",
        optional(_RATIO),
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
        "latency to reach: a share of the original, 0.5, or a time, 2.5ms",
        optional(budget_setting("latency")),
    )
    max_energy: str | float | None = setting(
        None,
        "energy an inference may take: a share, or an amount such as 30mJ",
        optional(budget_setting("energy")),
    )
    ranking: str = setting("group-norm", _RANKING, choice(*_RANKINGS))
    scope: str = setting(
        "group",
        "where channels compete: global (whole network), isomorphic (groups of like build), group",
        choice("global", "group", "isomorphic"),
    )
    without_bn: str = setting(
        "norm",
        "channels without BatchNorm: norm (rank them by their weights) or keep",
        choice("norm", "keep"),
    )
    cap: float = setting(0.9, "largest share to remove of one group, in (0, 1)", number(0, 1, above=True, below=True))
    round_to: str | int = setting(
        "auto",
        "channel counts are multiples of this; auto: what this machine's engine likes",
        word_or("auto", whole(1)),
    )
    constants: str = setting(
        "fold",
        "mean output of a removed channel: fold (into what reads it) or zero (drop it)",
        choice("fold", "zero"),
    )
    tracer: str = setting(
        "slimkit",
        "what reads the channel graph: slimkit or torch-pruning",
        choice("slimkit", "torch-pruning"),
    )
    runtime: str = setting(
        "onnxruntime",
        "engine that latency is measured in: onnxruntime, openvino (32-bit floats) or openvino-bf16",
        choice("onnxruntime", "openvino", "openvino-bf16"),
    )
    threads: int = setting(1, "threads of the engine when latency is measured", whole(1))
    batch: int = setting(1, "images at once when latency is measured", whole(1))
    latency_table: str | None = setting(
        None, "file with the latency table of another machine, to aim at that machine", optional(text)
    )
    int8: bool = setting(False, "also write an INT8 model, calibrated on the data", flag)
    data_root: str | None = setting(None, "folder in which named data sets lie", optional(text))
    epochs: int = setting(10, "epochs of training", whole(0))
    batch_size: int = setting(128, "images a training step", whole(1))
    learning_rate: float = setting(0.1, "highest learning rate", number(0, above=True))
    seed: int = setting(0, "seed of everything random", whole(0))
    precision: str = setting(
        "auto",
        "of training: auto (bf16 where the hardware has it), fp32, bf16",
        choice("auto", "fp32", "bf16"),
    )
    device: str = setting(
        "auto",
        "of training: auto, cpu, cuda, cuda:N, mps",
        pattern(r"auto|cpu|mps|cuda(:\d+)?", "auto, cpu, cuda, cuda:N or mps"),
    )

    def __post_init__(self) -> None:
        for entry in fields(self):
            checked = entry.metadata["check"](entry.name, getattr(self, entry.name))
            object.__setattr__(self, entry.name, checked)
        names = ("ratio", *(f"max_{kind}" for kind in BUDGETS))
        given = [name for name in names if getattr(self, name) is not None]
        if len(given) > 1:
            raise SpecError(f"{' and '.join(given)} are set: a run has one budget.\n  Leave one of them")
        if self.latency_table is not None and given != ["max_latency"]:
            raise SpecError(
                f"latency_table is {self.latency_table!r}: it is of use only to a latency budget.\n"
                "  Add --max-latency, for example --max-latency 0.5, or leave out the table"
            )
        if not given:
            object.__setattr__(self, "ratio", 0.5)

    @property
    def budget(self) -> Budget:
        """The one budget of the run."""
        for kind in BUDGETS:
            if (given := getattr(self, f"max_{kind}")) is not None:
                return parse_budget(given, kind)
        assert self.ratio is not None
        return Budget("ratio", self.ratio)


@dataclass(frozen=True, kw_only=True)
class CompressSpec(RunSpec):
    """What `slimkit compress` should do with a checkpoint."""

    arch: str | None = setting(
        None,
        "resnet18, zoo:NAME, timm:NAME, package.module:factory or file.py:factory; default: recognised",
        optional(text),
    )
    data: str | None = setting(
        None,
        "digits, fashion-mnist, cifar10, cifar100, folder:PATH, package.module:factory; default: none",
        optional(text),
    )
    input_shape: str | None = setting(
        None,
        "shape C,H,W of one image; default: that of the data, else what the architecture is used with",
        optional(pattern(r"[1-9]\d*,[1-9]\d*,[1-9]\d*", "C,H,W, such as 3,224,224")),
    )
    trust_pickle: bool = setting(False, "unpickle the checkpoint, which can run any code that is in it", flag)
    epochs: int = setting(10, "epochs of retraining, where there is data; 0: re-estimate BatchNorm only", whole(0))
    learning_rate: float = setting(0.02, "highest learning rate of the retraining", number(0, above=True))
    distill: bool = setting(True, "retrain with the dense network as teacher", flag)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, wanted in (("int8", self.int8), ("ranking", self.ranking == "taylor")):
            if wanted and self.data is None:
                given = f"{name} is {getattr(self, name)!r}"
                raise SpecError(f"{given}: it needs data.\n  Add --data, for example --data digits")


@dataclass(frozen=True, kw_only=True)
class TrainSpec(RunSpec):
    """What `slimkit train` should do with an architecture and data."""

    arch: str = setting("", "resnet18, zoo:NAME, timm:NAME, package.module:factory or file.py:factory", text)
    data: str = setting("", "digits, fashion-mnist, cifar10, cifar100, folder:PATH or package.module:factory", text)
    epochs: int = setting(30, "epochs of the whole schedule, search and training of the small network", whole(1))
    schedule: str = setting(
        "cosine",
        "learning rate over time: cosine, or step (a tenth at 1/2 and again at 3/4)",
        choice("cosine", "step"),
    )
    penalty: str = setting(
        "gamma",
        "what is pulled to zero until the draw: gamma, or group (all weights coupled to a channel; "
        "rank by group-norm then)",
        choice("gamma", "group"),
    )
    l1: float | None = setting(
        None,
        "weight lambda of the penalty; default: solved from penalty_total",
        optional(number(0)),
    )
    penalty_total: float | None = setting(
        None,
        "S = lambda * sum(learning rate) / (1 - momentum) to reach; default: 2 for gamma, 1 for group",
        optional(number(0)),
    )
    ranking: str = setting("gamma", _RANKING, choice(*_RANKINGS))
    draw: str = setting(
        "early-bird",
        "when channels are removed: early-bird (mask settled), end, epoch:K, init",
        pattern(r"early-bird|end|init|epoch:(0|[1-9]\d*)", "early-bird, end, epoch:K or init"),
    )
    rule: str = setting(
        "consecutive",
        "when a mask has settled: consecutive, window (both of masks), architecture (of widths)",
        choice("consecutive", "window", "architecture"),
    )
    threshold: float = setting(0.1, "mask distance below which a mask has settled, in (0, 1]", number(0, 1, above=True))
    normalised: bool = setting(False, "divide mask distances by those of chance, 2p(1-p)", flag)
    interval: int | None = setting(
        None,
        "steps between two masks; default: an eighth of an epoch, or of the deadline where that comes first",
        optional(whole(1)),
    )
    deadline: float = setting(
        0.02,
        "share of the steps after which a mask is drawn, settled or not, in (0, 1)",
        number(0, 1, above=True, below=True),
    )
    spend: float | None = setting(
        None,
        "train the small network on until the run has cost this share of one dense training; "
        "default: for the rest of the epochs",
        optional(number(0, 1, above=True)),
    )
    watch: tuple[float, ...] = setting((), "further ratios whose draw is watched and reported", several(_RATIO))
    init: str = setting(
        "inherit",
        "weights after the draw: inherit, rewind (to rewind_step), fresh",
        choice("inherit", "rewind", "fresh"),
    )
    rewind_step: int = setting(0, "step whose weights init = rewind goes back to", whole(0))
    passes: int = setting(1, "rounds of training and removal, for draw = end", whole(1))
    search_precision: str = setting(
        "fp32", "of the search: fp32, bf16, int8-emulated", choice("fp32", "bf16", "int8-emulated")
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, example in (("arch", "zoo:resnet20"), ("data", "fashion-mnist")):
            if not getattr(self, name):
                raise SpecError(f"{name} is not set: training needs it.\n  Add it, for example --{name} {example}")
        if self.passes > 1 and self.draw != "end":
            raise SpecError(f"passes is {self.passes}: that needs draw = 'end', but draw is {self.draw!r}.")
        if self.draw == "end" and self.spend is not None:
            raise SpecError(
                f"spend is {self.spend:g}: draw = 'end' trains the dense network to the end, which costs 1 already.\n"
                "  Leave out one of them"
            )
        if self.draw in ("init", "epoch:0"):
            for name, idle in (("search_precision", "fp32"), ("rewind_step", 0)):
                if (given := getattr(self, name)) != idle:
                    raise SpecError(
                        f"{name} is {given!r}: with draw = {self.draw!r} there is no search.\n  Leave it out"
                    )
        if self.draw.startswith("epoch:") and int(self.draw[6:]) > self.epochs:
            raise SpecError(f"draw is {self.draw!r}: the run has only {self.epochs} epochs.")
