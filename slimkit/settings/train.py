"""What `slimkit train` should do."""

from dataclasses import dataclass

from slimkit.errors import SpecError
from slimkit.settings.checks import choice, flag, number, optional, pattern, several, text, whole
from slimkit.settings.run import RANKING_MEANING, RANKINGS, SHARE, RunSpec
from slimkit.settings.setting import setting


@dataclass(frozen=True, kw_only=True)
class TrainSpec(RunSpec):
    """What `slimkit train` should do with an architecture and data."""

    arch: str = setting("", "resnet18, zoo:NAME, timm:NAME, package.module:factory or file.py:factory", text)
    data: str = setting("", "digits, fashion-mnist, cifar10, cifar100, folder:PATH or file.py:make", text)
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
    ranking: str = setting("gamma", RANKING_MEANING, choice(*RANKINGS))
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
    watch: tuple[float, ...] = setting((), "further ratios whose draw is watched and reported", several(SHARE))
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
