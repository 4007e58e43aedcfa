"""Scores and a budget to a mask: exact counts, allowed widths, limits that are met."""

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import slimkit
from slimkit.channels import Graph, trace
from slimkit.channels.graph import Axis, Group, Kept, Work
from slimkit.errors import BudgetError, MaskError, OutOfReachError
from slimkit.selection.budget import Widths, amount, blocks, to_limit, to_ratio, within_reach
from slimkit.selection.mask import Mask
from slimkit.selection.scope import by_scope, fill_unranked
from tests.clock import least_seconds

ANY = Widths(1)


def chain(widths: list[int], per_unit: int = 1) -> Graph:
    """Return the graph of 3x3 convolutions in a row, 3 channels in, 10 out, at 4 x 4 pixels."""
    ends = torch.tensor([0, *widths]).cumsum(0).tolist()
    groups = tuple(
        Group(f"conv{i}", (f"conv{i}",), (f"norm{i}.weight",), torch.arange(ends[i], ends[i + 1]), per_unit, per_unit)
        for i in range(len(widths))
    )
    sides = [torch.full((3,), -1), *(group.members for group in groups), torch.full((10,), -1)]
    works, axes, shapes = [], [], {}
    for i in range(len(widths) + 1):
        weight = f"conv{i}.weight"
        works.append(Work(f"conv{i}", weight, (sides[i + 1], sides[i]), 9.0 * 16))
        axes += [Axis(weight, 0, sides[i + 1], False), Axis(weight, 1, sides[i], True)]
        shapes[weight] = (len(sides[i + 1]), len(sides[i]), 3, 3)
    kept = (Kept("conv_last", 10, "reaches the output"),)
    silent = torch.zeros(ends[-1], dtype=torch.bool)
    return Graph(
        ends[-1],
        tuple(axes),
        groups,
        kept,
        (),
        tuple(works),
        shapes,
        sinks={},
        shared=frozenset(),
        loud=silent,
        statistics=silent,
        products=silent,
        cuts=silent,
    )


def some_scores(graph: Graph, seed: int = 0) -> Tensor:
    return torch.rand(graph.units, generator=torch.Generator().manual_seed(seed))


def removed(mask: Mask) -> list[int]:
    return (~mask.keep).nonzero().flatten().tolist()


GRAPHS = st.lists(st.integers(1, 70), min_size=1, max_size=6).map(chain)
STEPS = st.sampled_from([1, 2, 4, 8, 16, 5])
LIMITED = settings(max_examples=60)


def test_the_lowest_scores_go_and_exactly_as_many_as_asked() -> None:
    graph = chain([6, 4])
    mask = to_ratio(graph, torch.tensor([5.0, 1, 6, 2, 9, 8, 7, 0, 3, 4]), 0.4, ANY)
    assert removed(mask) == [1, 3, 7, 8]


def test_ties_are_cut_by_index_and_every_group_loses_the_same_share() -> None:
    assert removed(to_ratio(chain([4, 8]), torch.ones(12), 0.5, ANY)) == [0, 1, 4, 5, 6, 7]


def test_a_cap_caps_and_what_it_takes_away_is_made_up() -> None:
    graph = chain([20, 20])
    scores = torch.cat([torch.full((20,), 1e-9), torch.ones(20)])  # a whole layer near zero
    mask = to_ratio(graph, scores, 0.6, ANY)
    assert mask.counts(graph) == [2, 14]
    assert to_ratio(graph, scores, 0.6, Widths(1, cap=0.7)).counts(graph) == [6, 10]


def test_a_group_keeps_at_least_one_step() -> None:
    graph = chain([64, 64])
    scores = torch.cat([torch.zeros(64), torch.ones(64)])
    assert to_ratio(graph, scores, 0.5, Widths(16, cap=0.99)).counts(graph) == [16, 48]
    assert to_ratio(graph, scores, 0.5, Widths(1, cap=0.999)).counts(graph) == [1, 63]


def test_counts_are_multiples_of_the_step_and_narrow_groups_stay_whole() -> None:
    wide, odd, less, narrow, tiny = chain([100, 40, 24, 16, 10]).groups
    assert Widths(16).of(wide) == [100, 96, 80, 64, 48, 32, 16]
    assert Widths(16).of(odd) == [40, 32, 16]
    assert Widths(16).of(less) == [24, 16]
    assert Widths(16).of(narrow) == [16]
    assert Widths(16).of(tiny) == [10]


def test_units_tied_across_convolution_groups_use_a_smaller_step_only_below_the_fast_kernel() -> None:
    slow, at_it, fast = chain([8, 16, 32], per_unit=32).groups
    assert Widths(16).of(slow) == [8, 4]
    assert Widths(16).of(at_it) == [16]
    assert Widths(16).of(fast) == [32, 16]


def test_a_step_that_was_asked_for_counts_channels_also_where_convolution_groups_tie_them() -> None:
    pairs, sixteens, of_48 = (chain([n], per_unit=k).groups[0] for n, k in ((24, 2), (5, 16), (48, 1)))
    assert Widths(16, adapt=False).of(pairs) == [24, 16, 8]  # of 2 channels each
    assert Widths(16, adapt=False).of(sixteens) == [5, 4, 3, 2, 1]
    assert Widths(16, adapt=False).of(of_48) == [48, 32, 16]


def test_of_two_widths_as_near_the_wider_is_taken() -> None:
    graph = chain([48])
    assert to_ratio(graph, some_scores(graph), 0.5, Widths(16, adapt=False)).counts(graph) == [32]


def test_a_narrow_network_gets_a_smaller_step() -> None:
    assert Widths(16).fitted(chain([16, 16, 512])).step == 16
    assert Widths(16).fitted(chain([16, 32, 64])).step == 8
    assert Widths(16).fitted(chain([6, 16])).step == 2
    assert Widths(16, adapt=False).fitted(chain([6, 16])).step == 16
    tied = chain([8, 8, 8], per_unit=4)  # these adapt by themselves
    assert Widths(16).fitted(tied).step == 16
    graph = chain([16, 32, 64])
    assert to_ratio(graph, some_scores(graph), 0.5, Widths(16)).removed == 56


def test_what_a_step_would_overshoot_is_made_up_by_smaller_blocks_further_up() -> None:
    graph = chain([12, 9])
    scores = torch.cat([torch.zeros(12), torch.ones(9)])
    assert to_ratio(graph, scores, 5 / 21, Widths(4)).counts(graph) == [8, 8]
    assert to_ratio(graph, scores, 7 / 21, Widths(4)).counts(graph) == [4, 9]  # 8 is nearer than 5


def test_a_block_competes_with_the_mean_of_its_scores() -> None:
    graph = chain([4, 4])
    found = blocks(graph, torch.tensor([1.0, 1, 4, 4, 2, 2, 3, 5]), Widths(2))
    assert [(g, c) for g, c in zip(found.groups, found.costs, strict=True)] == [(0, 1.0), (1, 2.0)]
    assert found.of(1).tolist() == [4, 5] and found.size(1) == 2


@given(GRAPHS, STEPS, st.booleans(), st.floats(0.05, 0.95), st.sampled_from([0.5, 0.9]), st.integers(0, 9))
@LIMITED
def test_ratio_lands_within_half_a_step_a_group_or_is_refused(
    graph: Graph, step: int, adapt: bool, ratio: float, cap: float, seed: int
) -> None:
    widths = Widths(step, adapt, cap).fitted(graph)
    possible = sum(widths.of(group)[0] - widths.of(group)[-1] for group in graph.groups)
    slack = sum(widths.of_step(group) for group in graph.groups) / 2
    goal = round(ratio * graph.units)
    try:
        mask = to_ratio(graph, some_scores(graph, seed), ratio, widths)
    except (MaskError, BudgetError):
        assert not possible or possible < goal or goal <= slack
        return
    assert abs(mask.removed - goal) <= slack
    assert mask.removed == goal or step > 1
    for group, count in zip(graph.groups, mask.counts(graph), strict=True):
        assert count in widths.of(group) and 1 <= count <= len(group.members)


@given(GRAPHS, st.integers(0, 9))
@LIMITED
def test_within_a_group_nothing_that_stays_scores_below_what_goes(graph: Graph, seed: int) -> None:
    scores = some_scores(graph, seed)
    mask = Mask(torch.ones(graph.units, dtype=torch.bool))
    try:
        mask = to_ratio(graph, scores, 0.4, Widths(4))
    except (MaskError, BudgetError):
        return
    for group in graph.groups:
        keep, own = mask.keep[group.members], scores[group.members]
        if not bool(keep.all()):
            assert own[~keep].max() <= own[keep].min()


@given(GRAPHS, STEPS, st.floats(0.02, 0.99), st.sampled_from(["macs", "params"]), st.integers(0, 9))
@LIMITED
def test_a_limit_is_met_with_nothing_left_to_put_back_or_refused_with_the_best(
    graph: Graph, step: int, share: float, what: str, seed: int
) -> None:
    measure = {"macs": graph.macs, "params": graph.params}[what]
    scores, widths = some_scores(graph, seed), Widths(step).fitted(graph)
    limit = share * measure(Mask.full(graph).keep)
    least = Mask.full(graph).keep
    for group in graph.groups:
        least[group.members[scores[group.members].argsort(stable=True)[: -widths.of(group)[-1]]]] = False
    try:
        mask = to_limit(graph, scores, measure, limit, widths, what)
    except BudgetError as error:
        assert measure(least) > limit
        assert amount(measure(least), what) in str(error)
        return
    except MaskError:
        assert bool(least.all())
        return
    assert measure(mask.keep) <= limit
    for group, count in zip(graph.groups, mask.counts(graph), strict=True):
        allowed = widths.of(group)
        if count < allowed[0]:
            wider = mask.keep.clone()
            order = group.members[scores[group.members].argsort(stable=True, descending=False)]
            wider[order[len(order) - allowed[allowed.index(count) - 1] :]] = True
            assert measure(wider) > limit


def with_heads(score: float) -> tuple[Graph, Tensor]:
    """Return a graph whose two heads, of 16 channels each, hold most of the work, and scores: one is the lowest."""
    graph = chain([2, 2, 40])
    heads = replace(graph.groups[0], per_unit=16)
    whole = graph.macs(Mask.full(graph).keep)
    works = (*graph.works, Work("", None, (heads.members,), whole / 2))
    scores = torch.cat([torch.tensor([score, 1.0, 1.0, 1.0]), torch.full((40,), 0.5)])
    return replace(graph, groups=(heads, *graph.groups[1:]), works=works), scores


def test_where_a_head_takes_much_more_than_is_asked_for_others_go_in_its_place() -> None:
    graph, scores = with_heads(0.4)
    whole = graph.macs(Mask.full(graph).keep)
    found = to_limit(graph, scores, graph.macs, 0.9 * whole, ANY, "macs")
    assert bool(found.keep[0]) and 0.85 * whole <= graph.macs(found.keep) <= 0.9 * whole


def test_a_dead_head_goes_first_whatever_it_takes() -> None:
    graph, scores = with_heads(1e-8)
    found = to_limit(graph, scores, graph.macs, 0.9 * graph.macs(Mask.full(graph).keep), ANY, "macs")
    assert removed(found) == [0]


def test_a_dead_step_of_channels_goes_first_whatever_it_takes() -> None:
    graph = chain([32, 32])
    scores = torch.ones(64).index_fill_(0, torch.arange(32, 48), 1e-8)
    found = to_limit(graph, scores, graph.macs, 0.9 * graph.macs(Mask.full(graph).keep), Widths(16, False), "macs")
    assert removed(found) == list(range(32, 48))


WIDE = st.lists(st.integers(1, 4), min_size=2, max_size=4).map(lambda steps: chain([16 * n for n in steps]))


@given(WIDE, st.sampled_from([4, 8, 16]), st.floats(0.5, 0.95), st.sampled_from(["macs", "params"]), st.integers(0, 9))
@LIMITED
def test_nothing_else_goes_than_the_cheapest_where_that_loses_more(
    graph: Graph, step: int, share: float, what: str, seed: int
) -> None:
    measure = {"macs": graph.macs, "params": graph.params}[what]
    scores, widths = some_scores(graph, seed), Widths(step, adapt=False)
    limit = share * measure(Mask.full(graph).keep)
    try:
        mask = to_limit(graph, scores, measure, limit, widths, what)
    except (BudgetError, MaskError):
        return
    found, keep, gone = blocks(graph, scores, widths), Mask.full(graph).keep, 0
    while measure(keep) > limit:
        keep[found.of(gone)] = False
        gone += 1
    closed = set()
    for block in reversed(range(gone)):
        wider = keep.index_fill(0, found.of(block), True)
        if found.groups[block] not in closed and measure(wider) <= limit:
            keep = wider
        else:
            closed.add(found.groups[block])
    assert measure(mask.keep) >= measure(keep)
    assert bool((mask.keep == keep).all()) or scores[~mask.keep].sum() < scores[~keep].sum()


def test_what_is_fixed_stays_and_is_not_counted() -> None:
    graph = chain([10, 10])
    fixed = torch.zeros(20, dtype=torch.bool)
    fixed[3] = True
    mask = to_ratio(graph, torch.arange(20.0), 0.13, ANY, fixed)
    assert mask.counts(graph) == [10, 8]  # 0.13 of the 19 that are not fixed, none of the first group


@pytest.mark.parametrize(
    ("ratio", "widths", "error", "words"),
    [
        (0.95, ANY, OutOfReachError, "ratio is 0.95: with at most 90% of a group removed, 0.900 is the most"),
        (0.9, Widths(16, False), OutOfReachError, "counts in steps of 16, 0.600 is the most"),
        (0.01, ANY, MaskError, "ratio is 0.01: nothing would be removed"),
        (0.5, Widths(64, False), MaskError, "no group has a smaller count that is a multiple of 64"),
    ],
)
def test_a_ratio_that_cannot_be_is_refused(ratio: float, widths: Widths, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=re.escape(words)):
        to_ratio(chain([40]), torch.rand(40), ratio, widths)


def test_a_step_that_an_engine_likes_gives_way_to_the_budget_and_one_that_was_asked_for_does_not() -> None:
    graph, scores = chain([40]), torch.arange(40.0)
    for goal, left in ((0.5, 16), (0.84, 8), (0.95, 4)):
        mask = within_reach(
            graph, Widths(16, cap=0.97), lambda widths, goal=goal: to_ratio(graph, scores, goal, widths)
        )
        assert mask.counts(graph) == [left]
    with pytest.raises(OutOfReachError, match="0.900 is the most"):  # of steps of 1
        within_reach(graph, Widths(16), lambda widths: to_ratio(graph, scores, 0.98, widths))
    with pytest.raises(OutOfReachError, match="counts in steps of 16, 0.600 is the most"):
        within_reach(graph, Widths(16, False), lambda widths: to_ratio(graph, scores, 0.9, widths))


def test_of_steps_that_do_not_reach_a_time_the_one_that_came_nearest_is_told() -> None:
    """A MobileNetV2 was at 0.40 of its latency in steps of 16, and the message had the 0.49 that steps of 1 take."""

    def attempt(widths: Widths) -> Mask:
        share = {16: 0.40, 8: 0.45}.get(widths.step, 0.49)
        raise OutOfReachError(f"steps of {widths.step}", share)

    with pytest.raises(OutOfReachError, match="^steps of 16$"):
        within_reach(chain([64]), Widths(16), attempt)


def test_a_step_that_an_engine_likes_gives_way_where_nothing_at_all_could_go() -> None:
    graph, scores = chain([40]), torch.arange(40.0)
    mask = within_reach(graph, Widths(16), lambda widths: to_ratio(graph, scores, 0.05, widths))
    assert removed(mask) == [0, 1, 2, 3]
    fixed = torch.ones(40, dtype=torch.bool)
    with pytest.raises(MaskError, match="no group has a smaller count, or those that have are kept on request"):
        within_reach(graph, Widths(16), lambda widths: to_ratio(graph, scores, 0.5, widths, fixed))


BUDGETS: dict[str, dict[str, Any]] = {
    "ratio": {"ratio": 0.5},
    "macs": {"max_macs": 0.4},
    "macs by losses": {"max_macs": 0.4, "calibration": torch.randn(16, 3, 8, 8)},
    "bytes": {"max_bytes": 0.7},
}


@pytest.mark.parametrize("budget", BUDGETS.values(), ids=BUDGETS)
def test_convolution_groups_as_wide_as_the_step_are_narrowed_by_less(
    budget: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slimkit.runs.start.preferred_step", lambda: 16)
    grouped = nn.Conv2d(48, 48, 3, padding=1, groups=3)
    net = nn.Sequential(nn.Conv2d(3, 48, 1), nn.BatchNorm2d(48), nn.ReLU(), grouped, nn.BatchNorm2d(48), nn.ReLU())
    net = nn.Sequential(net, nn.Conv2d(48, 4, 1)).eval()
    small = slimkit.compress(net, torch.randn(1, 3, 8, 8), **budget)
    assert min(group.after for group in small.report.groups) < 16  # of each convolution group
    assert any("multiples of 16, which this engine likes" in note for note in small.report.warnings)
    with pytest.raises(MaskError, match="nothing can be removed"):
        slimkit.compress(net, torch.randn(1, 3, 8, 8), **budget, round_to=48)


def test_a_network_without_removable_channels_says_what_holds_them() -> None:
    graph = chain([])
    with pytest.raises(MaskError, match="10 channels: reaches the output"):
        to_ratio(graph, torch.zeros(0), 0.5, ANY)


def test_a_limit_out_of_reach_names_the_best_and_who_holds_it() -> None:
    graph = chain([40, 10])
    with pytest.raises(BudgetError, match="max_macs is .*smallest that the allowed widths reach") as raised:
        to_limit(graph, torch.rand(50), graph.macs, 100.0, ANY, "macs")
    assert "held by conv0, conv1" in str(raised.value) and "Raise the budget" in str(raised.value)


def test_a_limit_that_kept_layers_put_out_of_reach_names_them_and_why() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.cell = nn.Conv2d(1, 12, 3, padding=1), nn.Conv2d(12 + 16, 16, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            x, state = self.first(x), x.new_zeros(1, 16, 8, 8)
            for _ in range(4):
                state = torch.tanh(self.cell(torch.cat([x, state], 1)))
            return state.mean((2, 3))

    graph = slimkit.trace(Recurrent(), torch.randn(1, 1, 8, 8))
    with pytest.raises(BudgetError, match="held by what must stay: .*cell"):
        to_limit(graph, torch.rand(graph.units), graph.macs, 100.0, ANY, "macs")


def test_a_limit_above_the_original_is_refused() -> None:
    graph = chain([40])
    with pytest.raises(BudgetError, match="already needs no more than 74.88k"):
        to_limit(graph, torch.rand(40), graph.macs, 1e9, ANY, "macs")


def test_amounts_read_as_people_write_them() -> None:
    assert [
        amount(1.814e9, "macs"),
        amount(4.2e6, "bytes"),
        amount(999, "params"),
        amount(2.5, "latency"),
    ] == [
        "1.814G",
        "4.2MB",
        "999",
        "2.5 ms",
    ]


def test_macs_and_params_follow_a_mask() -> None:
    graph = chain([6, 4])
    keep = torch.tensor([1, 1, 1, 0, 0, 0, 1, 0, 0, 1], dtype=torch.bool)
    assert graph.macs(keep) == 9 * 16 * (3 * 3 + 3 * 2 + 2 * 10)
    assert graph.params(keep) == 9 * (3 * 3 + 3 * 2 + 2 * 10)


def test_what_cannot_be_ranked_gets_the_quantile_of_the_fallback() -> None:
    scores = torch.tensor([10.0, 20, 30, 40, float("nan"), float("nan")])
    filled = fill_unranked(scores, torch.tensor([0.0, 0, 0, 0, 7, 5]))
    assert filled.tolist() == [10, 20, 30, 40, 40, 20]
    assert fill_unranked(scores[:4], torch.zeros(4)).tolist() == [10, 20, 30, 40]
    assert fill_unranked(scores[4:], torch.tensor([3.0, 1])).tolist() == [0.75, 0.25]


def test_scopes_turn_scores_into_quantiles_of_their_pool() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4),
        nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1),
    )  # fmt: skip
    graph = trace(net, torch.randn(1, 3, 9, 9))
    scores = torch.tensor([4.0, 3, 2, 1, 50, 60, 70, 80, 7, 6, 5, 9])
    assert torch.equal(by_scope(graph, scores, "global"), scores)
    eighths = [0.875, 0.625, 0.375, 0.125]
    assert by_scope(graph, scores, "group").tolist() == [*eighths, *eighths[::-1], 0.625, 0.375, 0.125, 0.875]
    # between two 3x3 convolutions, twice; the last group feeds a 1x1
    pooled = by_scope(graph, scores, "isomorphic")
    assert pooled[:8].tolist() == [0.4375, 0.3125, 0.1875, 0.0625, 0.5625, 0.6875, 0.8125, 0.9375]
    assert pooled[8:].tolist() == [0.625, 0.375, 0.125, 0.875]


def test_many_channels_are_solved_quickly() -> None:
    graph = chain([1000] * 60)
    whole = graph.macs(Mask.full(graph).keep)

    def solve() -> None:
        mask = to_limit(graph, some_scores(graph), graph.macs, 0.5 * whole, ANY, "macs")
        assert 0.4999 < graph.macs(mask.keep) / whole <= 0.5

    assert least_seconds(solve, 3) < 3  # 0.3 on an idle core
