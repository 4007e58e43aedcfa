"""The loop: the same run gives the same bits, whatever interrupts it."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from math import ceil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from training_sample import accuracy, job, network, recipe, same, stripes

from slimkit import recovery, training
from slimkit.channels import trace
from slimkit.errors import OutputError, SpecError, TrainingError
from slimkit.methods.train import train as train_a_job
from slimkit.selection.mask import Mask
from slimkit.surgery.remove import kept_indices, remove
from slimkit.training import Hook, Run, Store, distributed
from slimkit.training.distributed import World, whole_batch_statistics


class Killed(Exception):
    """Stands for the end of the process."""


def killer(step: int) -> Hook:
    """End the run after a step, before its state is saved."""

    def kill(run: Run) -> None:
        if run.step == step:
            raise Killed

    return Hook(after_step=kill)


def shrinker(step: int) -> Hook:
    """Remove every third channel after a step; remember it, so that a resumed run can do the same."""
    done: dict[str, Any] = {}

    def shrink(run: Run) -> None:
        graph = trace(run.model.eval(), torch.zeros(1, 1, 6, 6))
        mask = Mask(torch.arange(graph.units) % 3 > 0)
        slim = remove(run.model, graph, mask)
        run.replace(slim, training.follow(run.optimizer, run.model, slim, kept_indices(graph, mask)))
        done["step"] = run.step

    return Hook(
        after_step=lambda run: shrink(run) if run.step == step and not done else None,
        save=lambda: dict(done),
        restore=lambda run, saved: shrink(run) if saved else None,
    )


def test_training_learns_and_leaves_its_inputs_alone() -> None:
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    trained = training.train(model, stripes(), recipe(epochs=12), evaluate=accuracy)
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)
    assert torch.equal(random, torch.get_rng_state())
    assert accuracy(trained.model) == trained.history[-1].validation_accuracy > 0.85
    assert [epoch.epoch for epoch in trained.history] == list(range(1, 13))
    assert trained.images == 12 * 96 and not trained.model.training
    assert trained.model[0].weight.is_contiguous()


@pytest.mark.parametrize(("epochs", "steps"), [(0, 0), (0.001, 1), (0.5, 3), (1, 6), (1.5, 9)])
def test_a_part_of_an_epoch_ends_where_it_should(epochs: float, steps: int) -> None:
    rates: list[float] = []
    watch = Hook(after_step=lambda run: rates.append(run.learning_rate))
    trained = training.train(network(), stripes(), recipe(epochs=epochs, warm_up=0.0), hooks=[watch])
    assert trained.images == steps * 16
    assert len(trained.history) == ceil(epochs)
    assert rates == sorted(rates, reverse=True)  # a cosine that falls to its end, and does not rise again


def test_bf16_learns_too() -> None:
    trained = training.train(network(), stripes(), recipe(epochs=12, precision="bf16"))
    assert trained.precision == "bf16" and accuracy(trained.model) > 0.85
    assert trained.model[0].weight.dtype == torch.float32


def with_and_without_a_kill(
    run: Callable[..., training.Trained], folder: Path, step: int
) -> tuple[training.Trained, training.Trained]:
    """Run once whole, once killed at a step and gone on with; both must end the same."""
    whole = run(Hook())
    with pytest.raises(Killed):
        run(killer(step), store=Store(folder, seconds=0))
    resumed = run(Hook(), store=Store(folder, resume=True, seconds=0))
    same(resumed.model, whole.model)
    assert resumed.history == whole.history
    return whole, resumed


@pytest.mark.parametrize("step", [1, 6, 10, 17])
@pytest.mark.parametrize("hooks", [[], [shrinker]])
@pytest.mark.parametrize(("optimizer", "clip"), [("sgd", False), ("sgd", True), ("adamw", False)])
def test_a_run_killed_anywhere_ends_with_the_same_bits(
    tmp_path: Path, step: int, hooks: list[Any], optimizer: str, clip: bool
) -> None:
    def run(*more: Hook, store: Store | None = None) -> training.Trained:
        return training.train(
            network(dropout=0.3),
            stripes(),
            recipe(optimizer=optimizer, clip=clip),
            hooks=[*(make(8) for make in hooks), *more],
            evaluate=accuracy,
            store=store,
        )

    whole, resumed = with_and_without_a_kill(run, tmp_path, step)
    assert resumed.phases == whole.phases
    assert [p.images for p in whole.phases] == ([8 * 16, 10 * 16] if hooks else [18 * 16])


@pytest.mark.parametrize("zero", [False, True])
def test_no_gradient_is_more_than_twice_the_first(zero: bool) -> None:
    """Of a rate at which gradients grow; a first one of zero bounds nothing."""
    norms: dict[bool, list[float]] = {}
    for clip in (False, True):
        found: list[float] = []

        def begin(run: Run) -> None:
            if zero and run.step == 0:
                for parameter in run.model.parameters():
                    parameter.grad.zero_()

        def note(run: Run, found: list[float] = found) -> None:
            found.append(float(torch.nn.utils.get_total_norm([p.grad for p in run.model.parameters()])))

        hooks = [Hook(gradients=begin), Hook(after_step=note)]
        training.train(network(), stripes(), recipe(epochs=3, learning_rate=1.0, warm_up=0.0, clip=clip), hooks=hooks)
        norms[clip] = found[zero:]
        assert not zero or found[0] == 0
    free, bounded = norms[False], norms[True]
    assert max(free) > 2.1 * free[0]
    assert bounded[0] == free[0] and max(bounded) == pytest.approx(2 * free[0], rel=1e-4)


class Restless(nn.Module):
    """Draws random numbers and counts its calls, in evaluation mode too; what it gives depends on both."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, images: Tensor) -> Tensor:
        calls = self.get_buffer("calls").add_(1)
        return images * (1 + 0.1 * torch.rand_like(images)) + 0.01 * calls


@pytest.mark.parametrize("step", [3, 6])
def test_what_a_network_does_when_it_is_looked_at_leaves_no_trace_in_a_run(tmp_path: Path, step: int) -> None:
    def run(*more: Hook, store: Store | None = None) -> training.Trained:
        model = nn.Sequential(Restless(), network())
        return training.train(model, stripes(), recipe(epochs=2), hooks=more, evaluate=accuracy, store=store)

    with_and_without_a_kill(run, tmp_path, step)


def test_a_damaged_state_gives_way_to_the_one_before(tmp_path: Path) -> None:
    whole = training.train(network(), stripes(), recipe())
    with pytest.raises(Killed):
        training.train(network(), stripes(), recipe(), hooks=[killer(12)], store=Store(tmp_path, seconds=0))
    newest = tmp_path / "state.bin"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    resumed = training.train(network(), stripes(), recipe(), hooks=[Hook()], store=Store(tmp_path, resume=True))
    same(resumed.model, whole.model)
    assert resumed.notes == ("state.bin was damaged; went on from state.previous.bin",)
    for path in tmp_path.iterdir():
        path.write_bytes(b"")
    with pytest.raises(TrainingError, match=r"are damaged\.\n  Delete"):
        training.train(network(), stripes(), recipe(), store=Store(tmp_path, resume=True))


def test_a_state_of_another_run_is_refused(tmp_path: Path) -> None:
    training.train(network(), stripes(), recipe(epochs=1), store=Store(tmp_path, identity={"ratio": 0.5}))
    with pytest.raises(TrainingError, match=r"Give `resume=True`"):
        training.train(network(), stripes(), recipe(), store=Store(tmp_path, identity={"ratio": 0.5}))
    with pytest.raises(TrainingError, match=r"ratio was 0\.5, is 0\.3"):
        training.train(network(), stripes(), recipe(), store=Store(tmp_path, True, {"ratio": 0.3}))


def test_a_full_disk_leaves_the_state_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    def fill(run: Run) -> None:
        if run.step == 7:
            monkeypatch.setattr(os, "fsync", full)

    with pytest.raises(OutputError, match="No space left"):
        training.train(network(), stripes(), recipe(), hooks=[Hook(after_step=fill)], store=Store(tmp_path, seconds=0))
    monkeypatch.undo()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["state.bin", "state.previous.bin"]
    whole = training.train(network(), stripes(), recipe())
    resumed = training.train(network(), stripes(), recipe(), hooks=[Hook()], store=Store(tmp_path, resume=True))
    same(resumed.model, whole.model)


def test_no_state_is_promised_where_the_first_steps_spoilt_the_weights(tmp_path: Path) -> None:
    for rate, kept in ((1e39, False), (1e12, True)):  # infinite weights after one step; large ones that still compute
        store = Store(tmp_path / str(kept), seconds=0)
        with pytest.raises(TrainingError, match="training has diverged") as stopped:
            training.train(network(), stripes(), recipe(learning_rate=rate), store=store)
        assert ("The last good state is in" in str(stopped.value)) is kept is (store.folder / "state.bin").exists()


def test_ctrl_c_saves_the_state_and_ends(tmp_path: Path) -> None:
    def press(run: Run) -> None:
        if run.step == 9:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        training.train(network(), stripes(), recipe(), hooks=[Hook(after_step=press)], store=Store(tmp_path))
    steps: list[int] = []
    watch = Hook(after_step=lambda run: steps.append(run.step))
    training.train(network(), stripes(), recipe(), hooks=[watch], store=Store(tmp_path, resume=True))
    assert steps == list(range(10, 19))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_loss_that_is_not_finite_ends_the_run() -> None:
    model = network()
    nn.init.constant_(model[9].weight, float("inf"))
    with pytest.raises(TrainingError, match=r"at step 0 of 18 \(learning rate 0\.1\).*diverged"):
        training.train(model, stripes(), recipe(warm_up=0.0))


def test_a_rewound_run_repeats_steps_rates_and_batches() -> None:
    seen: list[tuple[int, float]] = []
    kept: dict[str, Any] = {}

    def watch(run: Run) -> None:
        seen.append((run.step, run.learning_rate))
        if run.step == 4 and not kept:
            kept["model"] = {k: v.clone() for k, v in run.model.state_dict().items()}
            kept["optimizer"] = {p: s["momentum_buffer"].clone() for p, s in run.optimizer.state.items()}
        if len(seen) == 11:
            run.model.load_state_dict(kept["model"])
            for parameter, buffer in kept["optimizer"].items():
                run.optimizer.state[parameter]["momentum_buffer"].copy_(buffer)
            run.rewind(4)

    plain = training.train(network(), stripes(), recipe())
    rewound = training.train(network(), stripes(), recipe(), hooks=[Hook(after_step=watch)])
    assert [step for step, _ in seen] == [*range(1, 12), *range(5, 19)]
    assert seen[4:11] == seen[11:18]
    same(rewound.model, plain.model)
    assert rewound.images == 25 * 16


def test_distillation_draws_towards_the_teacher() -> None:
    teacher = training.train(network(), stripes(), recipe(epochs=12)).model
    [(images, _)] = stripes().batches(96)
    distances = []
    for share in (0.0, 1.0):
        settings = recipe(epochs=6, distillation=share, learning_rate=0.05)
        pupil = training.train(network(seed=1), stripes(), settings, teacher=teacher).model
        with torch.no_grad():
            distances.append(float((pupil(images).softmax(1) - teacher(images).softmax(1)).abs().mean()))
    assert distances[1] < distances[0] / 1.5


def test_recovery_measures_batch_norm_anew_then_trains() -> None:
    teacher = training.train(network(), stripes(), recipe(epochs=12)).model
    broken = training.train(network(), stripes(), recipe(epochs=12)).model
    with torch.no_grad():
        scales = torch.logspace(-1, 1, 8).view(8, 1, 1, 1)
        broken[0].weight *= scales  # BN takes that out again, once it knows the new statistics
    assert accuracy(broken) < accuracy(teacher) - 0.2
    recovery.reestimate(broken, stripes())
    assert accuracy(broken) > accuracy(teacher) - 0.05
    retrained = training.train(broken, stripes(), recipe(epochs=2, learning_rate=0.02), teacher=teacher)
    assert accuracy(retrained.model) > accuracy(teacher) - 0.05 and len(retrained.history) == 2


def test_a_network_that_refuses_channels_last_is_trained_all_the_same() -> None:
    class Rows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(1, 2, 3), nn.Linear(32, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.conv(x)
            return self.fc(y.view(len(y), -1))

    assert len(training.train(Rows(), stripes(), recipe(epochs=1)).history) == 1


@pytest.mark.parametrize(("channels", "last"), [(6, False), (8, False), (16, True)])
def test_narrow_strided_shortcuts_are_trained_in_the_layout_that_does_not_crash(channels: int, last: bool) -> None:
    """oneDNN wrote behind the end of gradients: the process died, or other memory was changed."""
    shortcut = nn.Conv2d(channels, 2 * channels, 1, stride=2)
    net = nn.Sequential(nn.Conv2d(1, channels, 3), shortcut, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(3))
    net(torch.zeros(1, 1, 6, 6))
    seen: list[torch.memory_format] = []
    hook = Hook(gradients=lambda run: seen.append(run.memory_format))
    training.train(net, stripes(), recipe(epochs=1), hooks=[hook])
    assert set(seen) == {torch.channels_last if last else torch.contiguous_format}


def test_statistics_over_processes_are_those_of_the_whole_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes with the same images must compute what one does with the images twice."""
    monkeypatch.setattr(dist, "all_reduce", lambda value: value.mul_(2))
    half = 2 + 3 * torch.randn(4, 3, 5, 5)
    scales = torch.rand(3)
    results = []
    for ranks in (2, 1):
        norm = nn.BatchNorm2d(3)
        norm.weight.data.copy_(scales)
        x = half.clone() if ranks == 2 else torch.cat([half, half])
        x.requires_grad_()
        with whole_batch_statistics(World(0, ranks)):
            y = norm(x)
        (y**3).sum().backward()
        results.append([y[:4], x.grad[:4], ranks * norm.weight.grad, norm.running_mean, norm.running_var])
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-4)


def test_a_batch_must_be_divisible_among_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "joined", lambda device: nullcontext(World(0, 5)))
    with pytest.raises(SpecError, match="a batch of 16 images cannot be shared by 5 processes"):
        training.train(network(), stripes(), recipe())


SCRIPT = """
import os, sys
import torch
from torch import nn
from slimkit import training
from training_sample import network, recipe, stripes

class Parts(nn.Module):
    "Has a part that no step uses, one of every other step, one that no loss depends on, a frozen one, a complex one."

    def __init__(self):
        super().__init__()
        self.whole, self.calls = network(), 0
        self.spare, self.now, self.said, self.frozen = (nn.Linear(3, 3) for _ in range(4))
        self.frozen.requires_grad_(False)
        self.turn = nn.Parameter(torch.ones(3, dtype=torch.complex64))

    def forward(self, x):
        self.calls += 1
        y = torch.view_as_real(self.frozen(self.whole(x)) * self.turn).sum(-1)
        y = self.now(y) if self.training and self.calls % 2 else y
        return {"out": y, "said": self.said(y)}

torch.set_num_threads(1)
net = network() if sys.argv[2] == "plain" else Parts()
if os.environ.get("RANK") == "1":
    nn.init.ones_(next(net.parameters()))  # those of the first process count
trained = training.train(net, stripes(), recipe(learning_rate=0.02))
found = [trained.model.state_dict(), [e.loss for e in trained.history]]
torch.save(found, sys.argv[1] + os.environ.get("RANK", "alone"))
"""


@pytest.mark.slow
@pytest.mark.parametrize("what", ["plain", "parts"])
def test_two_processes_give_what_one_gives(tmp_path: Path, what: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    root = Path(__file__).parents[1]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{root}{os.pathsep}{root / 'tests'}"}
    together = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for command in ([sys.executable], together):
        arguments = [*command, str(script), str(tmp_path / "out"), what]
        done = subprocess.run(arguments, env=environment, capture_output=True, timeout=300, text=True)
        assert not done.returncode, done.stderr
    alone, first, second = (torch.load(tmp_path / f"out{name}") for name in ("alone", "0", "1"))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    torch.testing.assert_close(first, alone, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("size", "said"), [(96, False), (97, True)])
def test_a_batch_size_beyond_the_training_images_is_said(size: int, said: bool) -> None:
    trained = training.train(network(), stripes(), recipe(batch_size=size, epochs=2))
    note = f"batch_size is {size}, and there are 96 training images: each step takes all of them"
    assert [one.startswith(note) for one in trained.notes] == [True] * said
    assert trained.images == 2 * 96


KILLED = """
import pathlib, sys
import torch.distributed as dist
from test_training_loop import Killed, killer
from training_sample import network, recipe, same, stripes
from slimkit import training
from slimkit.training import Hook, Store

def run(hook, store=None):
    return training.train(network(dropout=0.3), stripes(), recipe(), hooks=[hook], store=store).model

folder = pathlib.Path(sys.argv[1])
dist.init_process_group("gloo")
whole = run(Hook())
same(run(Hook()), whole)
try:
    run(killer(7), Store(folder, seconds=0))
except Killed:
    dist.barrier()
same(run(Hook(), Store(folder, resume=True, seconds=0)), whole)
"""


@pytest.mark.slow
def test_processes_that_were_killed_go_on_to_the_same_bits_with_random_numbers_of_their_own(tmp_path: Path) -> None:
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    root = Path(__file__).parents[1]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{root}{os.pathsep}{root / 'tests'}"}
    together = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    together += [str(script), str(tmp_path / "state")]
    done = subprocess.run(together, env=environment, capture_output=True, timeout=300, text=True)
    assert not done.returncode, done.stderr


def test_networks_that_train_on_mps_are_judged_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Metrics are summed in double precision, which MPS has not: segmentation ended at its first validation."""
    asked: list[torch.device | None] = []

    def judged(model: nn.Module, split: object, task: object, *, device: torch.device | None = None) -> float:
        asked.append(device)
        return 0.5

    monkeypatch.setattr("slimkit.hardware.pick_device", lambda name: torch.device("mps"))
    monkeypatch.setattr("slimkit.methods.train.quality", judged)
    model = network()
    train_a_job(job(model, recipe(epochs=1)), model)
    assert asked == [torch.device("cpu")]
