"""The one training loop: of `slimkit train`, and of recovery after `slimkit compress`."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from slimkit import out_of_memory
from slimkit.data import Batches
from slimkit.errors import SpecError, TrainingError
from slimkit.example import Example, call, first, mapped, on
from slimkit.hardware import draw_from, own_random, pick_device, pick_precision
from slimkit.modules import copied
from slimkit.quantity import number_of
from slimkit.results import Epoch
from slimkit.tasks import CLASSIFICATION, Task
from slimkit.training import beforehand, distributed, state
from slimkit.training.clip import clip
from slimkit.training.layout import layout
from slimkit.training.loss import Objective, backward
from slimkit.training.optimizer import make_optimizer
from slimkit.training.recipe import Recipe
from slimkit.training.run import Hook, Phase, Run, align


@dataclass(frozen=True)
class Trained:
    """What a run gave.

    Attributes:
        model: last epoch, in eval mode, on the CPU.
        history: one entry an epoch.
        phases: images that each network of the run was trained on.
        images: images trained on, in all.
        seconds: wall time, of this process only where the run was resumed.
        earlier: seconds and CPU-seconds of training before the run was resumed; what a kill undid isn't in them.
        device: type of device computed on.
        precision: `fp32` or `bf16`.
        notes: what the user should know.
    """

    model: nn.Module
    history: tuple[Epoch, ...]
    phases: tuple[Phase, ...]
    images: int
    seconds: float
    earlier: tuple[float, float]
    device: str
    precision: str
    notes: tuple[str, ...]


@out_of_memory.told()
def train(
    model: nn.Module,
    split: Batches,
    recipe: Recipe,
    *,
    task: Task = CLASSIFICATION,
    teacher: nn.Module | None = None,
    hooks: Sequence[Hook] = (),
    evaluate: Callable[[nn.Module], float | None] | None = None,
    progress: Callable[[Run], None] | None = None,
    store: state.Store | None = None,
    first_step: int = 0,
) -> Trained:
    """Train a copy of a network.

    Args:
        model: not changed.
        split: images to train on.
        recipe: settings.
        task: gives the loss.
        teacher: network whose outputs are imitated, by the share `recipe.distillation`; not changed.
        hooks: watch the run, and may change it.
        evaluate: gives the task's first metric on the validation split after each epoch; called in eval mode.
        progress: called after each step, on every process.
        store: where to keep the state of the run; with it, a run that was killed can be resumed. On the CPU
            the result is the same to the bit.
        first_step: step to begin at: schedule and data order are those of a run that has got there.

    Raises:
        SpecError: the recipe asks for what the task does not have.
        TrainingError: the loss is NaN or infinite; the state in `store` does not fit.
        OutputError: the state cannot be saved.
        KeyboardInterrupt: Ctrl-C; with a store the state has been saved.
    """
    criterion = Objective(task, recipe)
    hooks = [*hooks, clip()] if recipe.clip else hooks
    device = distributed.local_device(pick_device(recipe.device))
    began = time.perf_counter()
    with ExitStack() as stack:
        world = stack.enter_context(distributed.joined(device))
        stack.enter_context(own_random(device))
        interrupt = stack.enter_context(state.delayed_interrupt(store is not None))
        draw_from(recipe.seed + world.rank, device)
        to = getattr(split, "to", None)
        if to is not None and device.type != "cpu":
            split = to(device)  # batches are then made on the device
        run = _start(model, split, recipe, device, world)
        run.step = first_step
        keeper = _Keeper(store, run, hooks, world)
        earlier = (math.fsum(p.seconds for p in run.phases), math.fsum(p.cpu_seconds for p in run.phases))
        run.losses.mean = partial(distributed.mean, world=world)
        stepper = _Stepper(run, criterion, teacher, hooks, world)
        _go_on(run, split, _Watchers(hooks, evaluate, progress), stepper, keeper, interrupt)
    trained = run.model.to("cpu").to(memory_format=torch.contiguous_format).eval()
    return Trained(
        model=trained,
        history=tuple(run.history),
        phases=tuple(run.phases),
        images=sum(phase.images for phase in run.phases),
        seconds=time.perf_counter() - began,
        earlier=earlier,
        device=device.type,
        precision="bf16" if stepper.precision == torch.bfloat16 else "fp32",
        notes=tuple(run.notes),
    )


def _start(model: nn.Module, split: Batches, recipe: Recipe, device: torch.device, world: distributed.World) -> Run:
    batch = min(recipe.batch_size, len(split))
    if batch == 0:
        raise TrainingError("the training split has no images.\n  Give another data set")
    if batch % world.ranks:
        raise SpecError(
            f"a batch of {number_of(batch, 'image')} cannot be shared by {world.ranks} processes.\n"
            f"  Give a batch size that {world.ranks} divides"
        )
    model = copied(model).to(device)
    optimizer = make_optimizer(model, recipe)
    steps = len(split) // batch
    run = Run(model, optimizer, recipe, steps_per_epoch=steps, device=device)
    if batch < recipe.batch_size:
        run.notes.append(
            f"batch_size is {recipe.batch_size}, and there are {number_of(batch, 'training image')}: each step takes "
            f"all of them, so that an epoch is one step, {number_of(run.budget, 'step')} in all."
        )
    return run


@dataclass(frozen=True)
class _Watchers:
    """What is called while a run goes on; as `train` says."""

    hooks: Sequence[Hook]
    evaluate: Callable[[nn.Module], float | None] | None
    progress: Callable[[Run], None] | None


def _go_on(
    run: Run,
    split: Batches,
    watchers: _Watchers,
    stepper: "_Stepper",
    keeper: "_Keeper",
    interrupt: state.Interrupt,
) -> None:
    """Do all steps that are left; start anew with the batches whenever a hook has rewound the run."""
    recipe, world, hooks = run.recipe, stepper.world, watchers.hooks
    clock = _Clock(run)
    while run.step < run.budget:
        epoch, position = divmod(run.step, run.steps_per_epoch)
        due = run.step
        for inputs, targets in split.batches(
            recipe.batch_size,
            seed=recipe.seed,
            epoch=epoch,
            augment=recipe.augment,
            start=position,
            rank=world.rank,
            ranks=world.ranks,
        ):
            number = len(run.phases) - 1
            with keeper.rescue():
                stepper.step(inputs, targets)
            due += 1
            _call([hook.after_step for hook in hooks], run)
            if (due % run.steps_per_epoch == 0 or due == run.budget) and run.step == due:
                with keeper.rescue():
                    run.losses.read()
                accuracy = watchers.evaluate(run.model.eval()) if watchers.evaluate else None
                mean = math.fsum(run.losses.epoch) / len(run.losses.epoch)
                run.history.append(Epoch(epoch + 1, mean, run.learning_rate, accuracy))
                run.losses.forget()
                _call([hook.after_epoch for hook in hooks], run)
            clock.enter(number)
            if watchers.progress:
                watchers.progress(run)
            if not run.losses.waiting and (interrupt.pressed or keeper.due(run)):  # all losses so far were good
                keeper.save()
                if interrupt.pressed:
                    raise KeyboardInterrupt
            if run.step != due or due == run.budget:
                break  # rewound, or at the end of a part of an epoch
        else:
            if due == epoch * run.steps_per_epoch + position:
                raise TrainingError("the training split gave no batch.\n  Mend its `batches`")


class _Clock:
    """Enters the time that passes in the phases of a run."""

    def __init__(self, run: Run) -> None:
        self.run, self.wall, self.cpu = run, time.perf_counter(), time.process_time()

    def enter(self, number: int) -> None:
        """Add the time since the last call to a phase."""
        wall, cpu, phase = time.perf_counter(), time.process_time(), self.run.phases[number]
        self.run.phases[number] = replace(
            phase, seconds=phase.seconds + wall - self.wall, cpu_seconds=phase.cpu_seconds + cpu - self.cpu
        )
        self.wall, self.cpu = wall, cpu


def _call(functions: Sequence[Callable[[Run], None] | None], run: Run) -> None:
    for function in functions:
        if function is not None:
            function(run)


class _Stepper:
    """Does one step on the network that the run has at the moment."""

    def __init__(
        self,
        run: Run,
        criterion: Objective,
        teacher: nn.Module | None,
        hooks: Sequence[Hook],
        world: distributed.World,
    ) -> None:
        self.run, self.criterion, self.hooks, self.world = run, criterion, hooks, world
        self.precision = pick_precision(run.recipe.precision, run.device)
        self.teacher = None
        if teacher is not None and run.recipe.distillation and criterion.task.imitation is not None:
            self.teacher = copied(teacher).to(run.device).eval().requires_grad_(False)
        self.schedule = run.recipe.rate_share
        self.taken: nn.Module | None = None

    def _take_up(self, inputs: Example, targets: Any) -> None:
        """Make ready for the network that the run has now, in the memory layout that suits it."""
        run = self.run
        if self.taken is None:
            self.precision = beforehand.that_runs(run, self.criterion, (inputs, targets), self.precision)
        run.memory_format = layout(run.model, mapped(inputs, lambda tensor: tensor[:2]))
        run.model.to(memory_format=run.memory_format)
        align(run.optimizer)
        distributed.share_weights_(run.model, self.world)
        self.taken = run.model

    def _share(self, targets: Any) -> Tensor | float:
        """Return what the loss of this process weighs beside that of the others."""
        counted = self.criterion.task.counted
        if self.world.ranks == 1 or counted is None or targets is None:
            return 1.0
        return distributed.share(torch.as_tensor(counted(targets), device=self.run.device), self.world)

    def step(self, inputs: Example, targets: Any) -> None:
        """Do one step, from batch to weights."""
        run, recipe = self.run, self.run.recipe
        rate = recipe.learning_rate * self.schedule(run.step, run.budget)
        for group in run.optimizer.param_groups:
            group["lr"] = rate
        inputs, targets = on(run.device, inputs), on(run.device, targets)
        if self.taken is not run.model:
            self._take_up(inputs, targets)
        if isinstance(inputs, Tensor):
            inputs = inputs.contiguous(memory_format=run.memory_format)
        run.model.train()
        if self.world.ranks > 1:  # a state holds the random numbers of one process
            draw_from(((recipe.seed * self.world.ranks + self.world.rank) << 32 ^ run.step) % 2**63, run.device)
        with beforehand.autocast(run.device, self.precision), distributed.whole_batch_statistics(self.world):
            returned = call(run.model, self.criterion.asked(inputs, targets))
            with torch.no_grad():
                wanted = call(self.teacher, inputs) if self.teacher is not None else None
        value = self.criterion(returned, targets, wanted, self._share(targets))
        run.optimizer.zero_grad()
        backward(value, run.model)
        distributed.share_gradients_(run.model, self.world)
        run.losses.add(
            run.step, run.budget, rate, value
        )  # before the step, so that a bad one leaves the weights as they were
        _call([hook.gradients for hook in self.hooks], run)
        run.optimizer.step()
        run.step += 1
        run.done += 1
        phase = run.phases[-1]
        batch = first(inputs)
        images = 0 if batch is None else len(batch) * self.world.ranks
        run.phases[-1] = replace(phase, images=phase.images + images)


class _Keeper:
    """Saves the state of a run now and then, and brings a run to a saved one."""

    def __init__(self, store: state.Store | None, run: Run, hooks: Sequence[Hook], world: distributed.World) -> None:
        self.store, self.run, self.hooks, self.world = store, run, hooks, world
        self.saved_at, self.cost = time.perf_counter(), 0.0
        if store is not None:
            found, note = state.read(store)
            if found is not None:
                with state.fitting(store):
                    self._load(found)
            if note:
                run.notes.append(note)

    def due(self, run: Run) -> bool:
        """Every `seconds` and at epoch ends, unless that would take more than 2 % of the time."""
        if self.store is None:
            return False
        epoch_end = run.step % run.steps_per_epoch == 0
        wait = 50 * self.cost if epoch_end else max(50 * self.cost, self.store.seconds)
        return not self.store.seconds or time.perf_counter() - self.saved_at >= wait

    def save(self) -> None:
        """Save the state, unless it is spoilt: the next loss will tell. Of several processes the first does."""
        began = time.perf_counter()
        if self.store is not None and self.world.rank == 0 and _is_good(self.run.model):
            state.write(self.store, self._state())
        self.saved_at = time.perf_counter()
        self.cost = self.saved_at - began

    @contextmanager
    def rescue(self) -> Iterator[None]:
        """Where the block ends the training, say what is kept."""
        try:
            yield
        except TrainingError as error:
            if self.store is None or not state.exists(self.store):
                raise
            raise type(error)(
                f"{error}.\n  The last good state is in {self.store.folder}: `resume=True` goes on from it with "
                "the same settings; delete it to begin with others"
            ) from error

    def _state(self) -> dict[str, Any]:
        run = self.run
        cuda = torch.cuda.get_rng_state(run.device) if run.device.type == "cuda" else None
        return {
            "model": run.model.state_dict(),
            "optimizer": run.optimizer.state_dict(),
            "random": torch.get_rng_state(),
            "random_cuda": cuda,
            "step": run.step,
            "done": run.done,
            "loss": run.loss,
            "losses": run.losses.epoch,
            "history": [asdict(epoch) for epoch in run.history],
            "phases": [asdict(phase) for phase in run.phases],
            "notes": run.notes,
            "hooks": [hook.save() if hook.save else None for hook in self.hooks],
        }

    def _load(self, found: dict[str, Any]) -> None:
        run = self.run
        state.check(found)
        run.step, run.done = found["step"], found["done"]
        for hook, saved in zip(self.hooks, found["hooks"], strict=True):
            if hook.restore is not None and saved is not None:
                hook.restore(run, saved)
        run.model.load_state_dict(found["model"])
        run.optimizer.load_state_dict(found["optimizer"])
        align(run.optimizer)
        torch.set_rng_state(found["random"])
        if run.device.type == "cuda" and found["random_cuda"] is not None:
            torch.cuda.set_rng_state(found["random_cuda"], run.device)
        run.losses.epoch, run.losses.last = list(found["losses"]), found["loss"]
        run.history = [Epoch(**epoch) for epoch in found["history"]]
        run.phases = [Phase(**phase) for phase in found["phases"]]
        run.notes = list(found["notes"])


def _is_good(model: nn.Module) -> bool:
    weights = all(bool(parameter.isfinite().all()) for parameter in model.parameters())
    return weights and not any(bool(buffer.isnan().any()) for buffer in model.buffers())
