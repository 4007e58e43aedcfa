"""Networks of whole numbers alone are proven on others than the example's, and on sequences of other lengths."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import slimkit
from slimkit.example import tensors
from slimkit.surgery import proof
from slimkit.surgery.evidence import evidence
from slimkit.surgery.trials import trials
from slimkit.surgery.whole_numbers import rows

VOCABULARY, LONGEST, WIDTH = 50, 24, 16
Looks = Callable[[nn.Embedding, Tensor], Tensor]
LOOKS: dict[str, Looks] = {  # ways of looking rows up
    "a layer": lambda table, ids: table(ids),
    "a function": lambda table, ids: nn.functional.embedding(ids, table.weight),
    "an index": lambda table, ids: table.weight[ids],
    "index_select": lambda table, ids: table.weight.index_select(0, ids.flatten()).unflatten(0, ids.shape),
    "of another type": lambda table, ids: table(ids.int()),
}


class Sequences(nn.Module):
    """Tokens -> features -> scores; for some inputs alone it takes a way that holds the width of its features."""

    def __init__(self, look: Looks, elsewhere: Callable[[Tensor], bool]) -> None:
        super().__init__()
        self.table, self.places = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(LONGEST, WIDTH)
        self.body, self.out = nn.Conv1d(WIDTH, 2 * WIDTH, 3, padding=1), nn.Conv1d(2 * WIDTH, 5, 1)
        self.look, self.elsewhere = look, elsewhere

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        x = self.look(self.table, ids) + self.places(torch.arange(ids.shape[1]))
        y = self.body(x.transpose(1, 2)).relu()
        if self.elsewhere(ids):
            y = y.unflatten(1, (2, WIDTH)).flip(1).flatten(1, 2)
        if mask is not None:
            y = y * mask[:, None]
        found: Tensor = self.out(y).mean(2)
        return found


WAYS: dict[str, Callable[[Tensor], bool]] = {  # when the way is taken: never on the example
    "other numbers": lambda ids: bool((ids > 20).any()),
    "longer": lambda ids: ids.shape[1] > 8,
    "shorter": lambda ids: ids.shape[1] < 8,
}
EXAMPLES: dict[str, Any] = {
    "a tensor": torch.randint(0, 20, (1, 8)),
    "all zeros": torch.zeros(1, 8, dtype=torch.int64),
    "by name": {"ids": torch.randint(0, 20, (1, 8)), "mask": torch.ones(1, 8, dtype=torch.int64)},
    "by place": (torch.randint(0, 20, (2, 8)), torch.ones(2, 8)),
}


def network(look: str = "a layer", way: Callable[[Tensor], bool] = lambda ids: False) -> Sequences:
    torch.manual_seed(0)
    return Sequences(LOOKS[look], way).eval()


@pytest.mark.long
@pytest.mark.parametrize("given", EXAMPLES)
@pytest.mark.parametrize("way", WAYS)
def test_a_way_that_other_sequences_take_is_proven_too(given: str, way: str) -> None:
    net, example = network(way=WAYS[way]), EXAMPLES[given]
    result = slimkit.compress(net, example, 0.5, round_to=1, epochs=0)
    assert result.report.proof.kept_after_failing == ("body",)
    for length in (4, 8, 12):
        assert result.model(torch.randint(0, VOCABULARY, (3, length))).isfinite().all()


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("given", EXAMPLES)
def test_a_row_or_a_place_that_the_example_does_not_read_is_held_against_the_other_networks(
    look: str, given: str
) -> None:
    net, example = network(look), EXAMPLES[given]
    counts = rows(net, example)
    assert counts == [VOCABULARY if tensor is tensors(example)[0] else None for tensor in tensors(example)]
    inputs = trials(example, counts)
    for table in ("table", "places"):
        other = network(look)
        getattr(other, table).weight.data[20 if table == "table" else 8 :] *= 2
        found = evidence(net, other, inputs)
        assert not found.proven
        assert {shown.kind for shown in found.shown if shown.error and shown.error > proof.TOLERANCE} >= (
            {"other numbers", "more numbers"} if table == "table" else {"longer"}
        )


def test_words_that_a_network_refuses_are_no_evidence() -> None:
    """What it raises on is told; the words of the example, in another order, are proven."""

    class Picky(Sequences):
        def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
            if bool((ids > 20).any()):
                raise RuntimeError("there is no such word")
            return super().forward(ids, mask)

    torch.manual_seed(0)
    net, example = Picky(LOOKS["a layer"], lambda ids: False).eval(), EXAMPLES["a tensor"]
    refused = {shown.kind: shown.note for shown in evidence(net, net, trials(example, rows(net, example))).shown}
    assert refused["other numbers"] == "the network does not run on it: RuntimeError: there is no such word"
    result = slimkit.compress(net, example, 0.5, round_to=1, epochs=0)
    assert result.report.channels.removed > 0 and result.report.proof.inputs[:3] == ("random", "longer", "shorter")
