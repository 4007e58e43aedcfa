"""The train command on two hosts: two network namespaces, an address each, that share a folder."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors import safe_open

pytestmark = pytest.mark.slow
# At a low rate: at a high one the last bits of sums, taken in another order, grow until other channels matter.
RUN = ["train", "--arch", "zoo:resnet8", "--data", "digits", "--ratio", "0.5", "--method", "early-bird", "--precision",
       "fp32", "--device", "cpu", "--batch-size", "64", "--set", "round_to=1", "--set", "learning_rate=0.002",
       "--set", "penalty_total=0.1", "--set", "at=1", "--epochs", "20"]  # fmt: skip
ROOT = Path(__file__).parents[1]
ADDRESSES = ("10.231.7.1", "10.231.7.2")


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[str, str]]:
    """Two network namespaces with a cable between them."""
    names = f"sk{os.getpid()}a", f"sk{os.getpid()}b"
    ends = f"v{os.getpid()}a", f"v{os.getpid()}b"
    made = []
    try:
        for name in names:
            ip("netns", "add", name)
            made.append(name)
        ip("link", "add", ends[0], "netns", names[0], "type", "veth", "peer", "name", ends[1], "netns", names[1])
        for name, end, address in zip(names, ends, ADDRESSES, strict=True):
            ip("-n", name, "addr", "add", f"{address}/24", "dev", end)
            ip("-n", name, "link", "set", end, "up")
            ip("-n", name, "link", "set", "lo", "up")
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no network namespaces here: {error}")
    else:
        yield names
    finally:
        for name in made:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def environment(end: str = "") -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | ({"GLOO_SOCKET_IFNAME": end} if end else {})


def started(hosts: tuple[str, str], out: Path, *more: str, restarts: int = 0) -> list[subprocess.Popen[str]]:
    """Start a launcher on each host, a rank each."""
    launchers = []
    for host, end in zip(hosts, "ab", strict=True):
        launcher = [
            "ip", "netns", "exec", host, sys.executable, "-m", "torch.distributed.run", "--nnodes", "2",
            "--nproc-per-node", "1", "--node-rank", str("ab".index(end)), "--master-addr", ADDRESSES[0],
            "--master-port", "29511", "--max-restarts", str(restarts),
        ]  # fmt: skip
        command = [*launcher, "-m", "slimkit", *RUN, "--out", str(out), *more]
        pipe = subprocess.PIPE
        launchers.append(subprocess.Popen(
            command, env=environment(f"v{os.getpid()}{end}"), stdout=subprocess.DEVNULL, stderr=pipe, text=True
        ))  # fmt: skip
    return launchers


def ended(launchers: list[subprocess.Popen[str]]) -> list[int]:
    said = [launcher.communicate(timeout=600)[1] for launcher in launchers]
    codes = [launcher.returncode for launcher in launchers]
    print(*said, sep="\n")
    return codes


def alone(out: Path, *more: str) -> None:
    command = [sys.executable, "-m", "slimkit", *RUN, "--out", str(out), *more]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr


def kill_a_rank(out: Path) -> None:
    """Wait for a state, then kill the process of rank 1."""
    state = out.parent / f"{out.name}.state" / "state.bin"
    end = time.monotonic() + 300
    while not state.exists():
        assert time.monotonic() < end, "no state was written"
        time.sleep(0.05)
    for process in Path("/proc").glob("[0-9]*"):
        try:
            given = process.joinpath("environ").read_bytes().split(b"\0")
            command = process.joinpath("cmdline").read_bytes()
        except OSError:
            continue
        if b"RANK=1" in given and str(out).encode() in command and b"torch.distributed.run" not in command:
            os.kill(int(process.name), signal.SIGKILL)
            return
    raise AssertionError("rank 1 is not there")


def kept(out: Path) -> dict[str, list[int]]:
    """Return the channels that are left, by layer."""
    with safe_open(out / "model.safetensors", "pt") as file:
        return json.loads(file.metadata()["slimkit"])["edits"][0]["kept"]


def alike(one: Path, two: Path) -> None:
    """Hold two runs to the same channels, and to losses as far apart as floats drift in as many steps."""
    assert kept(one) == kept(two)
    histories = [json.loads((out / "report.json").read_text())["search"]["history"] for out in (one, two)]
    losses = [[epoch["loss"] for epoch in history] for history in histories]
    assert len(losses[0]) == 20 and losses[0] == pytest.approx(losses[1], rel=0.02), losses


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("one") / "one"
    alone(out)
    return out


def test_two_hosts_do_what_one_process_does(hosts: tuple[str, str], whole: Path, tmp_path: Path) -> None:
    assert ended(started(hosts, tmp_path / "two")) == [0, 0]
    alike(whole, tmp_path / "two")
    assert not list(tmp_path.glob("*.state")) and not list(tmp_path.glob(".*"))


def test_a_killed_rank_ends_the_run_and_one_process_goes_on(
    hosts: tuple[str, str], whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    launchers = started(hosts, out)
    kill_a_rank(out)
    assert all(ended(launchers)) and not out.exists()
    alone(out, "--resume")
    alike(whole, out)


def test_the_launcher_starts_a_killed_rank_again_by_itself(hosts: tuple[str, str], whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    launchers = started(hosts, out, restarts=5)  # some fail: a process may read where its peer was before
    kill_a_rank(out)
    assert ended(launchers) == [0, 0]
    alike(whole, out)
