"""Kill tiny runs at random moments and resume them: what comes of it is what comes of a run that nobody kills.

    python tools/kills.py --train 100 --compress 20 --out kills.jsonl

Each run is a forked child that SIGKILL ends after a random time, and that is begun again with --resume until it is
through. After every kill there is either no output or a whole one, and beside it nothing but the lock, the state and
the folder under way; after every run there is the output alone, with the weights of the run that was not killed.
"""

import argparse
import hashlib
import json
import os
import random
import re
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from slimkit import zoo
from slimkit.cli import main as slimkit
from slimkit.measure import latency
from slimkit.runs import compress, train  # noqa: F401 - imported here, so that no child need do it

FILES = {"model.onnx", "model.safetensors", "report.json", "report.html", "run.toml", "train.log", ".manifest.json"}
BESIDE = re.compile(r"\.out\.lock|\.out\.[0-9a-f]{8}\.(partial|old)|out\.state")
FEW = ["--batch-size", "256", "--device", "cpu", "--precision", "fp32", "--round-to", "1", "--out", "out", "--resume"]
EARLY = ["--method", "early-bird", "--at", "1"]
WORDS = {
    "train": ["train", "--arch", "zoo:resnet8(width=4)", "--data", "digits", "--epochs", "4", *EARLY, *FEW],
    "compress": ["compress", str(zoo.CHECKPOINTS["resnet8-digits"]), "--data", "digits", "--epochs", "3", *FEW],
}


latency._MOST = 3  # rounds: what is killed here is not the measuring


def begun(words: list[str]) -> int:
    """Begin a run in a child, silent; give its process."""
    child = os.fork()
    if child:
        return child
    silent = os.open("../said", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    try:
        status = slimkit(words)
    except BaseException as error:
        print(repr(error), flush=True)
        status = 1
    os._exit(status)


def ended(child: int, within: float) -> int | None:
    """Wait for a child that long and kill it then; give its exit status, None where it was killed."""
    until = time.monotonic() + within
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return None if status == -signal.SIGKILL else status


def weights() -> str:
    """Return a digest of the weights in the output."""
    digest = hashlib.sha256()
    for name, tensor in sorted(load_file("out/model.safetensors").items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def epochs() -> list[dict[str, Any]]:
    """Return the log of the output, without its times."""
    return [json.loads(line) | {"seconds": None} for line in Path("out/train.log").read_text().splitlines()]


def whole() -> bool:
    """Tell whether the output is complete, by its manifest."""
    noted = json.loads(Path("out/.manifest.json").read_text())["files"]
    return {path.name for path in Path("out").iterdir()} == FILES and all(
        hashlib.sha256(Path("out", name).read_bytes()).hexdigest() == digest for name, digest in noted.items()
    )


def killed(kind: str, kills: int, rng: random.Random, note: Callable[[dict[str, Any]], None]) -> None:
    """Kill runs of a kind so often, and count what was not as it should be; the counts are noted after each run."""
    found: dict[str, Any] = {"kind": kind, "kills": 0, "runs": 0, "half_written": 0, "left_over": 0, "other_result": 0}
    found |= {"in_state": 0, "failed": 0}
    for _ in range(3):  # the first is slower than those that are killed
        before = time.monotonic()
        if ended(begun(WORDS[kind]), 600) != 0:
            raise RuntimeError(Path("../said").read_text())
        lasts, wanted = time.monotonic() - before, (weights(), epochs())
        shutil.rmtree("out")
    while found["kills"] < kills or Path("out.state").exists():
        status = ended(begun(WORDS[kind]), rng.uniform(0, 1.2 * lasts))
        names = {path.name for path in Path().iterdir()}
        if status is None:
            found["kills"] += 1
            found["in_state"] += "out.state" in names
            found["half_written"] += "out" in names and not whole()
            found["left_over"] += not all(name == "out" or BESIDE.fullmatch(name) for name in names)
            continue
        found["runs"] += 1
        found["failed"] += status != 0
        found["left_over"] += names != {"out"}
        found["other_result"] += status != 0 or (weights(), epochs()) != wanted
        shutil.rmtree("out", ignore_errors=True)
        note(found | {"seconds_of_a_run": round(lasts, 2)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=int, default=100)
    parser.add_argument("--compress", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("kills.jsonl"))
    given = parser.parse_args()
    rows: dict[str, dict[str, Any]] = {}

    def note(row: dict[str, Any]) -> None:
        rows[row["kind"]] = row
        out.write_text("".join(f"{json.dumps(each)}\n" for each in rows.values()))

    out, home = given.out.resolve(), Path(tempfile.mkdtemp(prefix="slimkit-kills-"))
    torch.set_num_threads(1)
    (home / "work").mkdir()
    os.chdir(home / "work")
    for kind, kills in (("train", given.train), ("compress", given.compress)):
        if kills:
            killed(kind, kills, random.Random(f"{given.seed} {kind}"), note)
    shutil.rmtree(home)


if __name__ == "__main__":
    main()
