"""Batches of somebody's own loader, in which some tensors have no entry for each input: cut anew, or refused."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from slimkit.data.batch_split import BatchSplit
from slimkit.errors import DataError

Batches = list[tuple[dict[str, Tensor], Tensor]]


def weighted(sizes: list[int], gain: Callable[[int], Tensor], first: str = "x") -> Batches:
    """Batches of numbered inputs beside a gain, of so many inputs each."""
    found = []
    for number, rows in enumerate(torch.arange(sum(sizes)).split(sizes)):
        inputs = {"x": rows.float().view(-1, 1), "gain": gain(number)}
        found.append(({key: inputs[key] for key in sorted(inputs, key=lambda key: key != first)}, rows))
    return found


@given(
    st.lists(st.integers(1, 6), min_size=2, max_size=6), st.integers(1, 9), st.sampled_from([(), (3,), (7, 2), (20,)])
)
@settings(max_examples=150)
def test_what_is_for_all_inputs_is_cut_nowhere(sizes: list[int], size: int, shape: tuple[int, ...]) -> None:
    """Where no batch at all tells that it is of another length it may be one number an input."""
    gain = torch.rand(shape)
    batches = weighted([*sizes, 8 if shape == (7, 2) else 2], lambda number: gain)
    if shape and {shape[0]} >= set(sizes[:2]):  # two alike do not tell
        batches = batches[::-1]
    split = BatchSplit(batches, "own", sum(len(y) for _, y in batches))
    found = list(split.batches(size))
    torch.testing.assert_close(torch.cat([x["x"][:, 0] for x, _ in found]), torch.cat([y for _, y in found]).float())
    assert torch.equal(torch.cat([y for _, y in found]), torch.cat([y for _, y in batches]))
    assert all(torch.equal(x["gain"], gain) for x, _ in found)
    for rank in range(2):
        for (x, y), (whole, _) in zip(split.batches(4, rank=rank, ranks=2), split.batches(4), strict=True):
            assert torch.equal(x["x"], whole["x"][rank::2]) and len(x["x"]) == len(y)


@pytest.mark.parametrize(
    ("batches", "size", "said"),
    [
        (weighted([7, 7, 7], lambda number: torch.full((3,), number)), 5, r"inputs of shape \[3\]"),
        (weighted([8, 8], lambda number: torch.full((3,), number)), 4, r"inputs of shape \[3\]"),
        (weighted([7, 7, 7], lambda number: torch.tensor(number)), 5, r"inputs of shape \[\]"),
        (weighted([7, 7], lambda number: torch.ones(1), "gain"), 5, r"inputs of shape \[7, 1\]"),
        ([(torch.rand(8, 1), torch.rand(8 + number, 6)) for number in range(3)], 5, r"targets of shape \[[89], 6\]"),
    ],
)
def test_what_differs_and_is_not_one_an_input_is_refused_where_batches_are_cut(
    batches: Any, size: int, said: str
) -> None:
    with pytest.raises(DataError, match=f"(?s)own: .*{said} are not one entry an input.*Give one entry an input"):
        list(BatchSplit(batches, "own", 100).batches(size))


def test_batches_that_are_not_cut_hold_what_they_like() -> None:
    batches = weighted([7, 7, 7], lambda number: torch.full((3,), number))
    found = list(BatchSplit(batches, "own", 21).batches(7))
    assert [x["gain"].tolist() for x, _ in found] == [[0] * 3, [1] * 3, [2] * 3]


def test_what_all_share_may_be_no_number() -> None:
    batches = weighted([3, 4, 4], lambda number: torch.tensor([1.0, torch.nan, 2.0]))
    assert all(len(x["gain"]) == 3 for x, _ in BatchSplit(batches, "own", 11).batches(2))
