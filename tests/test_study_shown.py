"""How a study is shown: numbers whole at every width of a terminal, ticks where they say, a label for every dot."""

import io
import re
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from rich.console import Console

from slimkit.report.figures.labels import Box, beside
from slimkit.report.page import study_page
from slimkit.report.sections.arms import rows, span
from slimkit.report.study_table import study_table
from slimkit.results import Arm, Spending
from slimkit.results.comparison import differences, opponents
from tests.study_sample import CLOCK, arm

NAMES = ("network-slimming", "network slimming, fast rate", "lottery-ticket", "uniform", "random-channels", "dense")


def several(count: int, timed: bool = False, cost: float = 1.4) -> list[Arm]:
    """Arms of so many names, two seeds each, the last one at this cost."""
    clock = replace(CLOCK, latency_ms=0.123 if timed else None, cpu_seconds=1.0)
    found = []
    for place in range(count):
        name = NAMES[place] if place < len(NAMES) else f"early-bird, {place}"
        spent = Spending(macs=100, dense_trainings=cost * (place + 1) / count, search=0.1)
        found += [arm(name, 700 + 5 * place + 9 * seed, seed, clock=clock, spent=spent) for seed in (0, 1)]
    return found


def shown(arms: Sequence[Arm], width: int) -> list[str]:
    """Return the lines of a terminal."""
    terminal = Console(width=width, file=io.StringIO(), record=True)
    terminal.print(study_table(arms))
    return terminal.export_text().splitlines()


@pytest.mark.parametrize("timed", [False, True])
@pytest.mark.parametrize("width", [60, 80, 120])
def test_numbers_do_not_break_and_names_do_at_hyphens_alone(width: int, timed: bool) -> None:
    """At 80 columns "13.65 %" stood on two lines, and "network-slim/ming"."""
    arms = several(6, timed)
    lines = shown(arms, width)
    assert max(map(len, lines)) <= width
    whole = [f"{100 * row.test.value:.2f} %" for row in rows(arms)]
    whole += [str(span(one.mean, "share")) for one in differences(arms, opponents(arms))]
    assert [number for number in whole if not any(number in line for line in lines)] == []
    known = {piece for name in NAMES for piece in re.split(r"(?<=-)|\s", name)}
    first, last = (
        next(place for place, line in enumerate(lines) if line.startswith(mark)) for mark in ("──", "Differ")
    )
    table = " ".join(lines[first:last])
    assert known <= set(re.split(r"(?<=-)|[\s,]+", table)) | {"slimming,"}
    assert "ratio 0.5" in table and not any(line.endswith(("ratio", " %,")) for line in lines)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_column_that_says_nothing_is_left_out(width: int) -> None:
    assert not any("latency" in line for line in shown(several(6), width))
    assert any("latency" in line for line in shown(several(6, timed=True), width)) or width == 60


@pytest.mark.parametrize("timed", [False, True])
def test_a_column_that_says_nothing_is_left_out_of_the_page(timed: bool) -> None:
    heads = re.findall(r"<th[^>]*>([^<]*)", study_page(several(3, timed)))
    assert heads.count("latency") == (2 if timed else 0)
    assert heads.count("parameters") == 2


@pytest.mark.parametrize("cost", [0.7, 1.25, 1.36, 2.2, 3.1, 14.0])
def test_ticks_say_where_they_are(cost: float) -> None:
    """A tick at 1.25 said 1.2."""
    page = study_page(several(6, cost=cost))
    found = re.findall(r'<g id="cost-wide-xtick_\d+">.*?<text [^>]*?x="([\d.]+)"[^>]*>([\d.]+)', page, re.S)
    ticks = [(float(x), float(number)) for x, number in found]
    assert len(ticks) > 2
    (start, first), (end, last) = ticks[0], ticks[-1]
    for x, number in ticks:
        assert (x - start) / (end - start) == pytest.approx((number - first) / (last - first), abs=0.003)


@pytest.mark.parametrize("count", [5, 13, 40])
def test_labels_lie_on_no_dot_and_on_no_label(count: int) -> None:
    """Names of 13 arms lay on each other, and dots on them."""
    random = torch.Generator().manual_seed(count)
    places = (200 + 40 * torch.randn(count, 2, generator=random)).tolist()
    dots = [Box(x, y, 11, 11) for x, y in [*places[1:], places[-1]]]  # two on one place
    found = beside(dots, [(16, 13)] * count, [], Box(200, 200, 400, 400))
    boxes = [*dots, *found]
    for place, one in enumerate(found, count):
        for other in (*boxes[:count], *boxes[place + 1 :]):
            apart = abs(one.x - other.x) >= (one.width + other.width) / 2 - 1e-9
            assert apart or abs(one.y - other.y) >= (one.height + other.height) / 2 - 1e-9


@pytest.mark.parametrize("count", [5, 13, 40])
def test_every_arm_has_its_number_in_the_drawing_and_in_the_table(count: int) -> None:
    page = study_page(several(count))
    for kind in ("wide", "narrow"):
        drawing = re.search(rf'<svg[^>]*class="{kind}".*?</svg>', page, re.S)
        assert drawing
        labels = re.findall(r"<text [^>]*>(\d+)</text>", drawing[0])
        assert set(map(str, range(1, count + 1))) <= set(labels)
    assert page.index('id="means"') < page.index('id="by-cost"')
