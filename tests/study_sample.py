"""Arms of studies for tests: records as a study writes them, and work for processes of their own."""

import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

from slimkit.results import STUDY_SCHEMA, Arm, Clock, Outcome, Spending

CLOCK = Clock(seconds=2.0, cpu_seconds=1.0, energy_kj=0.006, energy_by="modelled", latency_ms=0.5, cpu="a CPU")
SETTINGS = {
    "arch": "zoo:resnet8(width=4)", "data": "digits", "epochs": 1, "batch_size": 64, "round_to": 1,
    "images": 256, "device": "cpu", "precision": "fp32", "latency": False,
}  # fmt: skip


def arm(name: str, right: int, seed: int = 0, **changes: Any) -> Arm:
    """A finished arm that told `right` of 1,000 test images right."""
    control = name in ("uniform", "dense", "uniform-params")
    given: dict[str, Any] = {
        "schema": STUDY_SCHEMA,
        "arm": name,
        "method": "scratch" if control else "early-bird",
        "budget": "" if name == "dense" else "ratio 0.5",
        "seed": seed,
        "settings": {"arch": "zoo:resnet8", "control": name if control else None},
        "data": "digits, 256 training images of 8 x 8",
        "slimkit": "0.1.0",
        "commit": "abcdef0",
        "metric": "accuracy",
        "unit": "share",
        "better": "higher",
        "validation": Outcome(value=0.9, right=90, images=100),
        "test": Outcome(value=right / 1000, right=right, images=1000),
        "macs": 1000 if name == "dense" else 250,
        "params": 100 if name == "dense" else 30,
        "dense_macs": 1000,
        "dense_params": 100,
        "spent": Spending(macs=100, dense_trainings=0.5, search=0.1),
        "clock": CLOCK,
    }
    return Arm(**{**given, **changes})


def dies_once(place: str) -> str:
    """Work that takes its process with it, the first time."""
    flag = Path(place)
    if not flag.exists():
        flag.write_text("died")
        os._exit(9)
    return "done"


def tells(flag: str) -> tuple[str, str | None]:
    """Tell which process this is and which GPUs it sees, once somebody has touched the flag."""
    while not Path(flag).exists():
        time.sleep(0.02)
    return multiprocessing.current_process().name, os.environ.get("CUDA_VISIBLE_DEVICES")


def tells_or_dies(flag: str) -> tuple[str, str | None]:
    """Tell the same; die where there is no flag to wait for."""
    if not flag:
        os._exit(9)
    return tells(flag)


def reads(place: str) -> None:
    """Work without end, with a process that reads data, whose numbers are left at a place."""
    from torch.utils.data import DataLoader

    for _ in DataLoader(_Endless(), num_workers=1, multiprocessing_context="fork"):
        half = Path(f"{place}.half")
        half.write_text(f"{os.getpid()} {multiprocessing.active_children()[0].pid}")
        half.replace(place)  # whoever looks finds it whole


class _Endless:
    def __getitem__(self, index: int) -> int:
        time.sleep(0.05)
        return index

    def __len__(self) -> int:
        return 10**9
