"""Sums over rows for least squares: as in double precision, wherever the rows lie."""

import pytest
import torch

from slimkit.recovery.equations import Moments


@pytest.mark.parametrize("offset", [0.0, 30.0, 3000.0])
@pytest.mark.parametrize("rows", [5, 400], ids=["fewer rows than values", "more"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_how_rows_vary_is_told_wherever_they_lie(offset: float, rows: int, dtype: torch.dtype) -> None:
    draw = torch.Generator().manual_seed(0)
    parts = [torch.randn(2, rows, 9 + 3, generator=draw) for _ in range(3)]
    parts = [(part + offset * torch.linspace(-1, 1, 12)).to(dtype) for part in parts]
    found = Moments.zero(2, 9, 3, torch.device("cpu"))
    for part in parts:
        found.add_(part[..., :9], part[..., 9:])
    whole = torch.cat(parts, 1).double()
    x, y = whole[..., :9], whole[..., 9:]
    assert found.rows == 3 * rows
    centred = found.xx - found.x[:, :, None] * found.x[:, None] / found.rows
    beside = found.xy - found.x[:, :, None] * found.y[:, None] / found.rows
    spread = found.yy - found.y.square() / found.rows
    x, y = x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True)
    for one, wanted in ((centred, x.mT @ x), (beside, x.mT @ y), (spread, y.square().sum(1))):
        torch.testing.assert_close(one, wanted, rtol=1e-4, atol=1e-5 * 3 * rows)


def test_no_rows_add_nothing() -> None:
    found = Moments.zero(1, 0, 3, torch.device("cpu"))
    found.add_(torch.ones(1, 0, 0), torch.ones(1, 0, 3))
    assert not found.y.any() and not found.yy.any()


@pytest.mark.parametrize("rows", [5, 400])
def test_nothing_may_be_made(rows: int) -> None:
    found = Moments.zero(1, 9, 0, torch.device("cpu"))
    found.add_(torch.ones(1, rows, 9), torch.ones(1, rows, 0))
    torch.testing.assert_close(found.xx, torch.full((1, 9, 9), float(rows), dtype=torch.float64))
