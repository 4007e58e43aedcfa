"""States of recurrent cells of somebody's own begin as zeros of a width that an attribute holds: it follows."""

import pytest
import torch
from torch import Tensor, nn

import slimkit


class ConvLSTM(nn.Module):
    """Cells in a stack; the outer module makes their states, by their number."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.hidden_dim = hidden
        self.conv = nn.Conv2d(inputs + hidden, 4 * hidden, 3, padding=1)

    def init_hidden(self, x: Tensor) -> tuple[Tensor, Tensor]:
        shape = (len(x), self.hidden_dim, *x.shape[-2:])
        return torch.zeros(shape), torch.zeros(*shape)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        i, f, g, o = self.conv(torch.cat([x, h], 1)).chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c


class Stacked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.ModuleList([ConvLSTM(2, 16), ConvLSTM(16, 16)])
        self.head = nn.Conv2d(16, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        states = [cell.init_hidden(x[:, 0]) for cell in self.cells]
        for t in range(x.shape[1]):
            y = x[:, t]
            for number, cell in enumerate(self.cells):
                states[number] = cell(y, *states[number])
                y = states[number][0]
        return self.head(y)


BEGIN = {
    "zeros": lambda x, n: torch.zeros(len(x), n, *x.shape[-2:]),
    "new zeros": lambda x, n: x.new_zeros(len(x), n, *x.shape[-2:]),
    "new zeros of a tuple": lambda x, n: x.new_zeros((len(x), n, *x.shape[-2:])),
    "ones": lambda x, n: torch.ones(len(x), n, *x.shape[-2:]),
    "full": lambda x, n: torch.full((len(x), n, *x.shape[-2:]), 0.5),
}


class ConvGRU(nn.Module):
    """One cell that makes its own state."""

    def __init__(self, begin: str) -> None:
        super().__init__()
        self.width, self.begin = 16, BEGIN[begin]
        self.gates, self.new = nn.Conv2d(18, 32, 3, padding=1), nn.Conv2d(18, 16, 3, padding=1)
        self.head = nn.Conv2d(16, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.begin(x[:, 0], self.width)
        for t in range(x.shape[1]):
            r, z = self.gates(torch.cat([x[:, t], h], 1)).sigmoid().split(self.width, 1)
            h = (1 - z) * h + z * self.new(torch.cat([x[:, t], r * h], 1)).tanh()
        return self.head(h)


X = torch.randn(2, 3, 2, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("begin", BEGIN)
def test_a_cell_that_makes_its_own_state_is_cut(begin: str) -> None:
    torch.manual_seed(0)
    found = slimkit.compress(ConvGRU(begin).eval(), X, 0.5, round_to=1, onnx=False)
    assert found.model.width == 8 and found.report.proof.masked_vs_slim < 1e-4


def test_cells_whose_states_are_made_outside_are_cut() -> None:
    torch.manual_seed(0)
    found = slimkit.compress(Stacked().eval(), X, 0.5, round_to=1, onnx=False)
    assert [cell.hidden_dim for cell in found.model.cells] == [8, 8]
    assert found.report.proof.masked_vs_slim < 1e-4


class Written(nn.Module):
    """The width of the state is a number in the code: it stays."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(18, 16, 3, padding=1), nn.Conv2d(16, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros(len(x), 16, *x.shape[-2:])
        for t in range(x.shape[1]):
            h = self.conv(torch.cat([x[:, t], h], 1)).tanh()
        return self.head(h)


def test_a_width_that_is_written_in_the_code_stays() -> None:
    assert slimkit.trace(Written().eval(), X).units == 0
