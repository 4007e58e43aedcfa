"""Early bird in other people's loops: bare PyTorch, a Lightning callback, a Trainer with callbacks as timm and
Hugging Face have them. Each loop is a worked example; the tests run it and look at what came out.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import slimkit
from slimkit import zoo
from slimkit.methods import Rule
from slimkit.surgery.remove import kept_indices
from slimkit.training import follow

EASY = Rule(threshold=0.9, length=2)  # draws at the third look: these are examples, not searches


def net() -> nn.Module:
    torch.manual_seed(0)
    return zoo.resnet8(num_classes=3, in_channels=1, width=8)


def batches(count: int = 6) -> list[tuple[Tensor, Tensor]]:
    random = torch.Generator().manual_seed(1)
    labels = [torch.randint(3, (16,), generator=random) for _ in range(count)]
    return [(torch.randn(16, 1, 8, 8, generator=random) + y.view(-1, 1, 1, 1), y) for y in labels]


def bare_loop(model: nn.Module, epochs: int) -> nn.Module:
    """Train, draw, shrink, train on: all that slimkit adds to a loop stands in the lines marked with <."""
    data = batches()
    graph = slimkit.trace(model, data[0][0][:1])  # <
    bird = slimkit.EarlyBird(graph, ratio=0.5, rule=EASY)  # <
    sgd = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    drawn = False
    for _ in range(epochs):
        for images, labels in data:
            sgd.zero_grad()
            cross_entropy(model(images), labels).backward()
            if not drawn:
                slimkit.penalise_gamma_(model, strength=1e-3)  # < after backward(), before step()
            sgd.step()
        if not drawn and bird.observe(model):  # <
            small = slimkit.remove(model, graph, bird.mask)  # <
            sgd = follow(sgd, model, small, kept_indices(graph, bird.mask))  # < momentum goes with the channels
            model, drawn = small, True
    return model


class ShrinkCallback:
    """For trainers with `on_pre_optimizer_step` and `on_epoch_end`, as Hugging Face's TrainerCallback has them.

    `swap(model, optimizer)` is what the trainer offers to exchange both; timm's train.py needs no more than
    these two calls at the same places.
    """

    def __init__(self, graph: slimkit.Graph, swap: Callable[[nn.Module, torch.optim.SGD], None]) -> None:
        self.graph, self.swap, self.drawn = graph, swap, False
        self.bird = slimkit.EarlyBird(graph, ratio=0.5, rule=EASY)

    def on_pre_optimizer_step(self, model: nn.Module, **more: Any) -> None:
        if not self.drawn:
            slimkit.penalise_gamma_(model, 1e-3)

    def on_epoch_end(self, model: nn.Module, optimizer: torch.optim.SGD, **more: Any) -> None:
        if not self.drawn and self.bird.observe(model):
            small = slimkit.remove(model, self.graph, self.bird.mask)
            self.swap(small, follow(optimizer, model, small, kept_indices(self.graph, self.bird.mask)))
            self.drawn = True


class Trainer:
    """The least that a trainer with callbacks is."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.callbacks = model, []
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

    def swap(self, model: nn.Module, optimizer: torch.optim.SGD) -> None:
        self.model, self.optimizer = model, optimizer

    def train(self, epochs: int) -> None:
        for _ in range(epochs):
            for images, labels in batches():
                self.optimizer.zero_grad()
                cross_entropy(self.model(images), labels).backward()
                self.call("on_pre_optimizer_step")
                self.optimizer.step()
            self.call("on_epoch_end")

    def call(self, name: str) -> None:
        for callback in self.callbacks:
            getattr(callback, name)(model=self.model, optimizer=self.optimizer)


def channels(model: nn.Module) -> int:
    return sum(m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d))


def check(model: nn.Module) -> None:
    assert channels(model) < 0.6 * channels(net())
    data = batches()
    with torch.no_grad():
        right = sum(int((model.eval()(x).argmax(1) == y).sum()) for x, y in data)
    assert right > 0.7 * 16 * len(data)


def test_bare_loop():
    check(bare_loop(net(), 12))


def test_callbacks():
    trainer = Trainer(net())
    trainer.callbacks.append(ShrinkCallback(slimkit.trace(trainer.model, torch.zeros(1, 1, 8, 8)), trainer.swap))
    trainer.train(12)
    check(trainer.model)


@pytest.mark.filterwarnings("ignore")  # Lightning's own
def test_lightning(tmp_path):
    lightning = pytest.importorskip("lightning")

    class Classifier(lightning.LightningModule):  # type: ignore[name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.net = net()

        def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
            return cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.SGD:
            return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)

    class Shrink(lightning.Callback):  # type: ignore[name-defined]
        """Draws and shrinks within a run of Lightning's Trainer."""

        def on_fit_start(self, trainer: Any, module: Any) -> None:
            self.graph = slimkit.trace(module.net, torch.zeros(1, 1, 8, 8))
            self.bird, self.drawn = slimkit.EarlyBird(self.graph, ratio=0.5, rule=EASY), False

        def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
            if not self.drawn:  # under mixed precision gradients have been unscaled by now
                slimkit.penalise_gamma_(module.net, 1e-3)

        def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
            if not self.drawn and self.bird.observe(module.net):
                dense, self.drawn = module.net, True
                module.net = slimkit.remove(dense, self.graph, self.bird.mask)
                kept = kept_indices(self.graph, self.bird.mask)
                trainer.optimizers = [follow(trainer.optimizers[0], dense, module.net, kept)]

    module = Classifier()
    trainer = lightning.Trainer(
        max_epochs=12, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path, callbacks=[Shrink()],
    )  # fmt: skip
    loader = torch.utils.data.DataLoader([(x, y) for batch in batches() for x, y in zip(*batch, strict=True)], 16)
    trainer.fit(module, loader)
    check(module.net)


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda net: torch.compile(net, backend="eager")])
def test_what_is_inside_a_wrapper_is_traced_watched_penalised_and_followed(wrap: Any) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 3))
    wrapped, x = wrap(net), torch.randn(4, 1, 8, 8)
    graph = slimkit.trace(wrapped, x)
    assert [group.name for group in graph.groups] == [group.name for group in slimkit.trace(net, x).groups] == ["0"]
    decayed, others = ([p for p in net.parameters() if (p.dim() > 1) == matrix] for matrix in (True, False))
    optimizer = torch.optim.SGD([{"params": decayed, "weight_decay": 0.1}, {"params": others}], lr=0.1, momentum=0.9)
    net(x).square().sum().backward()
    slimkit.penalise_groups_(wrapped, graph, 0.1)
    optimizer.step()
    slimkit.EarlyBird(graph, 0.5).observe(wrapped)
    mask = slimkit.Mask.full(graph)
    mask.keep[:3] = False
    small = slimkit.remove(wrapped, graph, mask)
    later = slimkit.follow(optimizer, wrapped, wrap(small), slimkit.kept_indices(graph, mask))
    assert [len(group["params"]) for group in later.param_groups] == [2, 4]
    memory = later.state[dict(small.named_parameters())["0.weight"]]["momentum_buffer"]
    assert torch.equal(memory, optimizer.state[net[0].weight]["momentum_buffer"][3:])
