"""The page of a run: whole, safe, with the numbers of the report, whatever the run has or lacks."""

import io
import json
import re
import shlex
from dataclasses import asdict, fields, replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from matplotlib.text import Text
from report_sample import bare_report, changed, compress_report, train_report
from rich.console import Console
from study_sample import arm
from torch import nn

from slimkit.cli import main
from slimkit.cli import slimkit as commands_of_slimkit
from slimkit.errors import OutputError
from slimkit.export import export_onnx
from slimkit.report import parts, rebuild, table
from slimkit.report.figures import canvas, curves, layers, tradeoff
from slimkit.report.page import comparison_page, run_page
from slimkit.report.sections import search
from slimkit.report.verdict import verdict
from slimkit.results import (
    Accuracy,
    AfterCut,
    GammaSnapshot,
    MeasuredBudget,
    Settling,
    SweepReport,
    report_file,
    study_file,
)
from slimkit.settings import REMOVE_NONE, CompressSpec, command_line

FIGURES = {
    "compress": {"channels", "macs", "times", "cut", "retraining", "gammas"},
    "bare": {"channels", "macs", "times", "cut", "gammas"},
    "train": {"channels", "macs", "times", "distance", "matrix", "training", "gammatime", "gammas", "cost"},
}
BY = Accuracy(validation=None)
MADE = {"compress": compress_report, "bare": bare_report, "train": train_report}
VOID = {"meta", "br", "link", "img", "input", "hr"}


class Page(HTMLParser):
    """Reads a page: cells with their numbers, figures, ids; checks that every element is closed."""

    def __init__(self, text):
        super().__init__()
        self.cells, self.figures, self.ids, self.open, self.outside = {}, set(), [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        if tag not in VOID:
            self.open.append(tag)
        if "data-path" in found:
            self.cells[found["data-path"]] = float(found["data-value"])
        if "id" in found:
            self.ids.append(found["id"])
            if tag == "figure":
                self.figures.add(found["id"].removeprefix("figure-"))
        self.outside += [found[key] for key in ("src", "href") if key in found and not found[key].startswith("#")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()


def at(report, path):
    value = report.to_dict()
    for key in path.split("/"):
        value = value[int(key)] if isinstance(value, list) else value[key]
    return value


def embedded(page):
    return json.loads(re.search(r'<script type="application/json"[^>]*>(.*?)</script>', page, re.S)[1])


@pytest.fixture(scope="module")
def pages():
    return {name: run_page(make()) for name, make in MADE.items()}


@pytest.mark.parametrize("kind", list(MADE))
def test_the_page_is_whole(pages, kind):
    text, report = pages[kind], MADE[kind]()
    page = Page(text)
    assert page.figures == FIGURES[kind]
    assert len(page.ids) == len(set(page.ids)), "ids are used twice"
    assert len(text.encode()) < 3e6
    assert len(page.cells) > 80
    for path, value in page.cells.items():
        assert value == at(report, path), path
    for path in ("before/macs", f"after/latency_ms/{report.after.latency_ms.clock}", "proof/slim_vs_onnx"):
        assert path in page.cells
    assert ("after/accuracy/test" in page.cells) == (kind != "bare")
    assert (
        json.loads(re.search(r'<script type="application/json"[^>]*>(.*?)</script>', text, re.S)[1]) == report.to_dict()
    )


@pytest.mark.parametrize("kind", list(MADE))
def test_the_page_needs_no_network(pages, kind):
    text = pages[kind]
    assert all(link.startswith("data:image/png;base64,") for link in Page(text).outside)
    addresses = set(re.findall(r"https?://[^\s\"'<>]+", text))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert "@import" not in text and "url(http" not in text


def test_colours_follow_the_theme(pages):
    for svg in re.findall(r"<svg.*?</svg>", pages["train"], re.S):
        assert not re.search(r"#0000f\d", svg), "a stand-in colour is left"
    text = pages["train"]
    assert "prefers-color-scheme: dark" in text and "@media print" in text


def test_hover_texts_say_layer_and_numbers(pages):
    titles = [unescape(title) for title in re.findall(r"<title>(.*?)</title>", pages["train"])]
    assert "layer1.0.conv1 (Conv2d): 16 → 8 channels, 50 % kept" in titles
    assert any(re.match(r"epochs 0\.\d+ and \d", title) for title in titles)
    assert any(title.startswith("epoch 1.") and "distance 0." in title for title in titles)


@pytest.mark.parametrize(("batch", "said"), [(1, "time an image"), (8, "time of a batch of 8")])
def test_the_time_of_a_batch_is_called_that(batch, said):
    text = run_page(changed(bare_report(), {f"{side}/latency_ms/batch": batch for side in ("before", "after")}))
    assert {one for one in ("time an image", "time of a batch of 8") if f">{one}<" in text} == {said}


@pytest.mark.parametrize("low, high", [(0.915, 1.0), (0.9, 0.992), (0.5, 0.52), (0.0, 0.9), (0.93, 0.9312)])
def test_ticks_are_exact(low, high):
    """No tick of an axis is rounded away from the value at which it stands: 97.5 % was written as 98 %."""
    report, first = train_report(), train_report().search.history[0]
    history = tuple(
        replace(first, epoch=n, validation_accuracy=low + (high - low) * n / 9, loss=n / 7) for n in range(10)
    )
    for width in (canvas.WIDE, canvas.NARROW):
        points = [tradeoff.Point("a", 1.0, low), tradeoff.Point("b", 2.0, high)]
        for drawing in (
            curves.recovery(history, None, BY, width),
            curves.training(history, {}, BY, width),
            tradeoff.accuracy_against(points, "cost", str, BY, width),
            layers.macs(report.layers, width),
        ):
            drawing.figure.draw_without_rendering()
            for axis in [axis for axes in drawing.figure.axes for axis in (axes.xaxis, axes.yaxis)]:
                ticks = [tick for tick in axis.get_major_ticks() if tick.label1.get_text()]
                places = [tick.get_loc() for tick in ticks]
                read = [number(tick.label1.get_text()) for tick in ticks]
                assert read == pytest.approx(places, abs=1e-9 * max(map(abs, places), default=0))


def number(words):
    """Read a tick: 97.5 %, 150 k."""
    value, _, unit = words.replace("−", "-").replace("\N{MINUS SIGN}", "-").partition(" ")
    return float(value) * {"": 1, "%": 0.01, "k": 1e3, "M": 1e6}[unit]


def test_what_comes_from_the_network_is_escaped():
    evil = "<script>alert(1)</script><!-- $\\frac$ {{ 7*7 }} 网"
    places = ("arch/name", "layers/0/name", "groups/0/name", "channels/kept/0/reason", "warnings", "spec/data")
    report = changed(compress_report(), {place: [evil] if place == "warnings" else evil for place in places})
    text = run_page(report)
    Page(text)
    assert "<script>alert" not in text
    assert text.count("<script") == 2 and "49" not in re.findall(r"<h1>(.*?)</h1>", text)[0]
    assert (
        json.loads(re.search(r'<script type="application/json"[^>]*>(.*?)</script>', text, re.S)[1]) == report.to_dict()
    )


@pytest.mark.parametrize("kind", ["compress", "train"])
def test_any_part_may_be_missing(kind, monkeypatch):
    """What a record may lack, a page does without."""
    monkeypatch.setattr(parts, "inline_svg", lambda *_: "<svg></svg>")
    whole = MADE[kind]().to_dict()
    for path in list(paths_that_may_be_null(whole)):
        Page(run_page(changed(MADE[kind](), {path: None})))
    lists = {path: [] for path in ("layers", "groups", "stages", "after_cut", "warnings", "channels/kept")}
    Page(run_page(changed(MADE[kind](), lists)))


def paths_that_may_be_null(report):
    yield from ("gammas", "recovery", "search", "budget", "int8", "arch/normalisation", "arch/classes")
    yield from ("cost/times", "cost/dense_training_macs", "proof/slim_vs_onnx")
    for side in ("before", "after", "int8"):
        for name, value in (report[side] or {}).items():
            if value is not None:
                yield f"{side}/{name}"
    for name in ("validation", "test", "test_images"):
        yield f"after/accuracy/{name}"
    if report["search"]:
        yield from ("search/penalty", "search/threshold", "search/drawn_epoch")


@pytest.mark.parametrize(("better", "after", "says"), [
    ("higher", 0.6, "recovered"), ("higher", 0.95, "retrained"),
    ("lower", 0.6, "retrained"), ("lower", 0.95, "recovered"),
])  # fmt: skip
def test_a_network_of_no_use_is_told_whichever_way_is_better(better, after, says):
    figures = {f"{side}/accuracy/{name}": value for side, right in (("before", 0.8), ("after", after))
               for name, value in (("better", better), ("test", right), ("metric", "share"))}  # fmt: skip
    report = compress_report()
    told = changed(report, figures | {"recovery": None})
    assert verdict(told).sentence.startswith(f"Not {says}: ")


def test_without_training_that_is_the_first_thing_said(pages):
    said = verdict(bare_report())
    assert said.sentence.startswith("Not retrained: the slim resnet8 needs ")
    assert "no weight has been trained" in said.meaning
    rest = "--ratio 0.5 --data folder:IMAGES --epochs 10"
    assert said.command == f"slimkit compress PATH/TO/resnet8-digits.safetensors {rest}"
    text = pages["bare"]
    heading = text.index("<h1>Not retrained")
    assert heading < text.index(said.command) < text.index('class="headlines"')
    with_data = changed(compress_report(), {"recovery/images": 0, "recovery/epochs": 0, "recovery/history": []})
    assert verdict(with_data).sentence.startswith("Not retrained: the slim resnet8 gets ")
    assert "--data digits" in verdict(with_data).command
    asked = CompressSpec(
        arch="my net.py:make", ratio=0.4, keep=("0.0", "layer4.*"), cap=0.6, trust_pickle=True, mean=(0.5,), std=(0.2,),
        distill=False, round_to=4, seed=3,
    )  # fmt: skip
    words = shlex.split(verdict(changed(bare_report(), {"spec": asdict(asked)})).command)
    context = commands_of_slimkit.commands["compress"].make_context("compress", words[2:])
    names = {entry.name for entry in fields(CompressSpec)} | {"pairs", "config", "engine", "trust_config"}
    given = {name: word for name, word in context.params.items() if name in names}
    assert command_line.gather(CompressSpec, given) == replace(asked, data="folder:IMAGES")
    for report in (compress_report(), train_report(), changed(bare_report(), {"channels/removed": 0})):
        assert "etrained" not in verdict(report).sentence and not verdict(report).command


@pytest.mark.parametrize("kind", list(MADE))
def test_the_proof_is_said_with_its_error_and_on_what(pages, kind):
    report = MADE[kind]()
    said = verdict(report).proof
    assert said.startswith("Proven: ") and ", ".join(report.proof.inputs) in said
    assert max(report.proof.masked_vs_slim, report.proof.slim_vs_onnx) == report.proof.error
    assert said in unescape(pages[kind]) and pages[kind].index("Proven: ") < pages[kind].index("<main>")


def test_the_verdict_has_three_numbers():
    report = changed(
        compress_report(),
        {
            "before/accuracy": {"validation": 1.0, "test": 0.98, "validation_images": 100, "test_images": 121},
            "after/accuracy": {"validation": 0.9, "test": 0.95, "validation_images": 100, "test_images": 121},
            "before/latency_ms/median": 10.0,
            "after/latency_ms/median": 3.1,
            "before/latency_ms/noisy": False,
            "after/latency_ms/noisy": False,
            "before/bytes": 1000,
            "after/bytes": 210,
        },
    )
    said = verdict(report)
    assert said.sentence == (
        "The slim resnet8 gets 95.0 % of the 121 test images right (98.0 % before), "
        "in 0.31 of the time and 0.21 of the space."
    )
    assert [line.label for line in said.headlines] == ["test accuracy", "latency", "size"]
    assert said.headlines[0].detail == "−3.0 points, from 98.0 %; 89.5 – 97.7 % with 95 % confidence"
    assert any(
        note.startswith("Half of the channels is not half of the work: MACs fell to 0.25.") for note in said.notes
    )
    slow = verdict(changed(report, {"after/latency_ms/median": 10.6}))
    assert "in 1.06 of the time" in slow.sentence
    assert any("not faster" in note for note in slow.notes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, True),
        ({"spec/ranking": "gamma"}, False),
        ({"spec/ratio": None, "spec/max_macs": 0.25}, False),
        ({"fit": None}, False),
        ({"channels/removed": 0}, False),
    ],
)
def test_that_the_same_work_could_be_shared_out_by_what_is_lost_is_said_where_it_is_so(changes, said):
    """Even widths are the default, and lose more: 96.6 % of a U-Net's answers agreed, 98.7 with less work by loss."""
    notes = verdict(changed(compress_report(), changes)).notes
    budget = "For that work --max-macs 0.25 mostly loses less"
    assert any(budget in note for note in notes) == said
    assert not any("--max-macs" in note for note in verdict(train_report()).notes)


def test_accuracy_that_guessing_reaches_is_said():
    lucky = {"validation": 0.1, "test": 0.12, "validation_images": 100, "test_images": 121}
    assert any(
        "guessing among 10 classes" in note
        for note in verdict(changed(compress_report(), {"after/accuracy": lucky})).notes
    )
    assert not any("guessing" in note for note in verdict(compress_report()).notes)


def test_accuracy_that_the_commonest_class_reaches_is_said():
    """Of 2 % positives half are no chance, and 98 % are what a network gets right that has forgotten all."""
    rare = {
        "before/accuracy": {"validation": 0.985, "test": 0.985, "test_images": 1000, "commonest": 0.98},
        "after/accuracy": {"validation": 0.98, "test": 0.98, "test_images": 1000, "commonest": 0.98},
        "arch/classes": 2,
    }
    notes = verdict(changed(compress_report(), rare)).notes
    assert any("saying nothing but the commonest class gets 98.0 % right" in note for note in notes)
    assert not any("drop" in note for note in notes)
    asked = {"drop": {"max_drop": 1.0, "minimise": "macs", "drop": 0.5, "margin": 0.3, "images": 1000, "tried": []}}
    notes = verdict(changed(compress_report(), {**rare, **asked})).notes
    assert any(note.startswith("A drop of 1 says little here") and "98.5 %" in note for note in notes)
    far = {**asked, **{f"{side}/accuracy/commonest": 0.2 for side in ("before", "after")}}
    assert not any("commonest" in note for note in verdict(changed(compress_report(), far)).notes)


def test_what_was_measured_on_validation_is_not_called_test():
    same = {"after/accuracy/tested_apart": False, "before/accuracy/tested_apart": False}
    sentence = verdict(changed(compress_report(), same)).sentence
    assert "validation images right" in sentence and "test" not in sentence
    assert "test images right" in verdict(compress_report()).sentence


def test_on_a_noisy_machine_cpu_time_is_what_is_quoted():
    times = {f"{side}/latency_ms/{name}": value for side, cpu in (("before", 30.0), ("after", 12.0)) for name, value in
             (("noisy", True), ("threads", 1), ("cpu", cpu))}  # fmt: skip
    report = changed(compress_report(), times)
    assert "in 0.40 of the time" in verdict(report).sentence
    page = Page(run_page(report))
    assert page.cells["after/latency_ms/cpu"] == 12.0 and "after/latency_ms/median" not in page.cells
    several = changed(report, {"after/latency_ms/threads": 2})
    assert "after/latency_ms/fastest" in Page(run_page(several)).cells


def test_where_nothing_was_removed_it_is_said():
    said = verdict(changed(compress_report(), {"channels/removed": 0})).notes
    assert said[0] == "No channel was removed: this is the dense network, exported and proven."
    assert not any("faster" in note for note in said)


@pytest.mark.parametrize("method", REMOVE_NONE)
def test_what_a_method_that_leaves_all_channels_delivers_is_not_called_the_dense_network(method):
    report = changed(train_report(), {"channels/removed": 0, "search/method": method})
    said = " ".join(verdict(report).notes)
    assert f"No channel was removed: {method} changes the network in another way" in said
    assert "this is the dense network" not in said


def test_a_measured_budget_is_accounted_for():
    note = "That is by the table of a phone; the latency shown beside it was measured on this machine."
    budget = MeasuredBudget(
        kind="latency", asked=0.5, original=32.2, target=16.1, reached=15.7, by_table=True, notes=(note,)
    )
    report = replace(compress_report(), budget=budget)
    assert verdict(report).notes[:2] == ("Asked for 16.1 ms, chosen with 15.7 ms: 0.49 of 32.2 ms.", note)
    here = replace(report, budget=replace(budget, by_table=False, notes=()))
    assert "measured again" in verdict(here).notes[1]
    size = MeasuredBudget(kind="bytes", asked=0.5, original=4e6, target=2e6, reached=1.98e6)
    notes = verdict(replace(report, budget=size)).notes
    assert notes[0] == "Asked for 2.00 MB, chosen with 1.98 MB: 0.49 of 4.00 MB." and "again" not in notes[1]


def test_what_training_cost_is_said_and_how_to_spend_what_was_saved():
    assert not any("Training cost" in note for note in verdict(compress_report()).notes)
    macs = {"search_macs": 17, "training_macs": 24, "dense_training_macs": 100, "train_prune_retrain_macs": 127}
    report = changed(train_report(), {f"cost/{name}": value for name, value in macs.items()} | {"spec/spend": None})
    said = "Training cost 0.41 of one dense training in MACs; train, prune, retrain costs 1.27."
    more = " With --spend 0.55 the small network trains on until 0.55 is used up."
    assert said + more in verdict(report).notes
    uniform = "did as well or better: --method scratch --spend 0.41."
    assert any(note.endswith(uniform) for note in verdict(report).notes)
    alone = changed(report, {"search/method": "scratch"})
    assert not any("uniform" in note for note in verdict(alone).notes)
    without = {name: value for name, value in report.spec.items() if name != "spend"}
    for spec in (without, report.spec | {"control": "scratch-B"}):  # where spend would be refused
        assert not any("0.55 is used up" in note for note in verdict(replace(report, spec=spec)).notes)
    spent = {"spec/spend": 0.55, "cost/search_precision": "int8-emulated", "search/precision": "int8-emulated"}
    report = changed(report, spent)
    assert said in verdict(report).notes and any("emulated INT8" in note for note in verdict(report).notes)
    assert "INT8, emulated" in run_page(report)


def test_no_time_is_given_that_was_not_measured(pages):
    assert (
        "estimated from" not in pages["train"] and "cost/times/dense_training/seconds" not in Page(pages["train"]).cells
    )
    assert "cost/times/search/seconds" in Page(pages["train"]).cells


def test_an_int8_file_is_said_with_its_accuracy_and_time(pages):
    report = compress_report()
    right = report.int8.accuracy
    note = next(note for note in verdict(report).notes if "INT8" in note)
    assert f"INT8 (model.int8.onnx): {100 * right.test:.2f} % of the {right.test_images} test images right; " in note
    assert note in unescape(pages["compress"])
    assert not any("INT8" in note for note in verdict(replace(report, int8=None)).notes)


def test_a_mask_that_was_drawn_unsettled_is_not_said_to_have_settled():
    report = train_report()
    for settled in (True, False):
        ratios = {"0.5": Settling(epoch=5.0, settled=settled)}
        page = run_page(replace(report, warnings=(), search=replace(report.search, ratios=ratios)))
        assert ("search/ratios/0.5/epoch" in Page(page).cells) == settled == ("50 % settled at 5" in page)
        assert ("not settled" in page) != settled


def test_a_large_network_and_a_tiny_one():
    report = compress_report()
    layer = report.layers[0]
    many = tuple(replace(layer, name=f"features.{index}.conv") for index in range(200))
    assert len(run_page(replace(report, layers=many))) < 3e6
    Page(run_page(replace(report, layers=(layer,))))


def test_a_single_point_is_no_chart():
    report, search = train_report(), train_report().search
    few = replace(
        search,
        matrix=((0.0,),),
        epochs=(1.0,),
        distances=search.distances[1:2],
        history=search.history[:1],
        gamma_history=search.gamma_history[:1],
    )
    page = Page(run_page(replace(report, search=few)))
    assert page.figures == {"channels", "macs", "times", "gammas", "cost"}
    assert "search/history/0/loss" in page.cells
    report = compress_report()
    recovery = replace(report.recovery, history=report.recovery.history[:1])
    cut = (AfterCut(constants="fold", batch_norm="as trained", accuracy=0.5),)
    page = Page(run_page(replace(report, recovery=recovery, after_cut=cut)))
    assert not {"cut", "retraining"} & page.figures and "after_cut/0/accuracy" in page.cells


def test_rebuilt_from_its_json_the_page_is_the_same(tmp_path, pages):
    report_file.write(compress_report(), tmp_path)
    assert rebuild.rebuild([tmp_path]) == tmp_path / "report.html"
    assert (tmp_path / "report.html").read_text() == pages["compress"]
    assert rebuild.rebuild([tmp_path / "report.json"]) == tmp_path / "report.html"


def saved(folder, **reports):
    for name, report in reports.items():
        (folder / name).mkdir(parents=True)
        report_file.write(report, folder / name)
    return [folder / name for name in reports]


def alike(**changes):
    quiet = {f"{side}/latency_ms/noisy": False for side in ("before", "after", "int8")}
    return changed(compress_report(), quiet | {name.replace("__", "/"): value for name, value in changes.items()})


def test_several_runs_on_one_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    half = alike(after__latency_ms__median=9.9, after__accuracy__test=0.9311, after__bytes=100)
    quick = alike(after__latency_ms__median=7.1, after__accuracy__test=0.921, after__bytes=90)
    quick = changed(quick, {"spec/ratio": None, "spec/max_latency": "7ms"})
    folders = saved(tmp_path, half=half, quick=quick)
    path = rebuild.rebuild(folders)
    text = unescape((tmp_path / path).read_text())
    page = Page((tmp_path / path).read_text())
    assert page.figures == {"tradeoff"}
    assert page.cells["runs/1/report/after/latency_ms/median"] == 7.1
    said = "“half” gets the most right (93.1 % of 359 test images); “quick” is the fastest (7.10 ms)"
    assert said in text and "“quick” is the smallest (90 B)" in text
    assert "no certain lead over “quick”" in text and "latency 7ms" in text
    with pytest.raises(OutputError, match="the file exists already"):
        rebuild.rebuild(folders)
    assert rebuild.rebuild(folders, force=True) == path


def test_the_fastest_run_is_the_one_with_the_least_time():
    """A share of its own original says nothing beside another's: 13.9 µs was called faster than 13.4."""
    one = alike(before__latency_ms__median=30.0, after__latency_ms__median=13.9)
    other = alike(before__latency_ms__median=20.0, after__latency_ms__median=12.4)
    runs = [("one", one), ("other", other)]
    assert "“other” is the fastest (12.4 ms)" in unescape(comparison_page(runs))
    close = unescape(comparison_page([("one", one), ("other", changed(other, {"after/latency_ms/median": 13.4}))]))
    assert "is the fastest" not in close and "measured at different times" in close
    assert "Times are good to 10 %: “other” has no certain lead over “one”" in close
    times = [replace(one.after.latency_ms, median=median) for median in (13.0, 13.4)]
    again = unescape(comparison_page(runs, times))  # what was measured side by side counts, not what the runs say
    assert "“one” is the fastest (13.0 ms)" in again and "timed again on this machine, in turns" in again
    even = unescape(comparison_page(runs, [times[1], times[1]]))
    assert "Times are good to 2 %: “one” has no certain lead over “other”" in even


def test_each_of_several_runs_says_where_time_fell_less_than_work():
    """One run said so; of several in one command none did."""
    half = {"before__latency_ms__median": 10.0, "before__macs": 1000}
    slow = alike(**half, after__latency_ms__median=5.5, after__macs=300)
    fair = alike(**half, after__latency_ms__median=5.6, after__macs=500)
    said = "Time fell less than work: {}0.55 of the latency at 0.30 of the MACs."
    stream = io.StringIO()
    Console(file=stream, width=400).print(table.sweep_table(SweepReport(names=("slow", "fair"), runs=(slow, fair))))
    lines = [line for line in stream.getvalue().splitlines() if "Time fell" in line]
    assert len(lines) == 1 and lines[0].startswith("slow: ") and said.format("") in lines[0]
    runs = [("slow", slow), ("fair", fair)]
    assert said.format("“slow” takes ") in unescape(comparison_page(runs))
    again = unescape(comparison_page(runs, [slow.after.latency_ms, fair.after.latency_ms]))
    assert "Time fell" not in again  # the dense network was not timed again
    assert "Time fell" not in unescape(comparison_page([("fair", fair), ("same", fair)]))


def test_times_of_several_threads_on_a_busy_machine_are_the_fastest():
    busy = {"before/latency_ms/fastest": 20.0, "after/latency_ms/fastest": 5.0}
    busy |= {f"{side}/latency_ms/{name}": value for side in ("before", "after")
             for name, value in (("noisy", True), ("threads", 4), ("median", 30.0))}  # fmt: skip
    report = changed(compress_report(), busy)
    page = unescape(run_page(report))
    assert "0.25 of the time" in page and "on a busy machine: fastest run" in page
    assert ("latency (fastest run)", "20.0 ms", "5.00 ms", "0.25") in table.comparison(report.before, report.after)
    assert "latency, fastest run" in unescape(comparison_page([("one", report), ("other", report)]))


@pytest.mark.parametrize("names", [["half"], ["half", "quick"], ["half/report.json"]])
@pytest.mark.parametrize("lost", ["report.json", "model.safetensors"])
def test_no_page_takes_the_place_of_another_file_of_a_run(names, lost, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    saved(tmp_path, half=alike(), quick=alike())
    Path("half/model.safetensors").write_text("weights")
    before = Path("half", lost).read_bytes()
    assert main(["report", *names, "--out", f"half/{lost}", "--force"]) == 2
    assert "it is read here, and would be lost" in capsys.readouterr().err
    assert Path("half", lost).read_bytes() == before


@pytest.mark.parametrize("names", [["half"], ["half", "quick"], ["study"]])
@pytest.mark.parametrize("other", ["", "my own words", "<!doctype html>\n<title>A page</title>\n<p>Made with slimkit."])
def test_force_replaces_pages_of_slimkit_and_no_other_file(names, other, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    saved(tmp_path, half=alike(), quick=alike())
    Path("study").mkdir()
    study_file.write(Path("study", study_file.NAME), [arm("plain", 300, seed) for seed in range(2)])
    words = ["report", *names, "--out", "page.html"]
    Path("page.html").write_text(other)
    assert main(words) == 2 and "the file exists already.\n  Give another --out, or --force" in capsys.readouterr().err
    assert main([*words, "--force"]) == 2
    assert "page.html: slimkit did not write it, so it is not replaced" in capsys.readouterr().err
    assert Path("page.html").read_text() == other
    Path("page.html").unlink()
    assert main(words) == 0
    page = Path("page.html").read_text()
    Path("page.html").write_text(page.replace("<main", "<main data-older"))
    assert main(words) == 2 and main([*words, "--force"]) == 0
    assert Path("page.html").read_text() == page


def test_force_takes_no_comparison_that_slimkit_did_not_write(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    saved(tmp_path, half=alike(), quick=alike())
    Path("comparison.html").write_text("my own words")
    assert main(["report", "half", "quick", "--force"]) == 2 and "did not write it" in capsys.readouterr().err
    assert Path("comparison.html").read_text() == "my own words"


def test_files_of_several_runs_are_timed_again_side_by_side(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folders = saved(tmp_path, half=alike(), quick=alike())
    assert main(["report", "half", "quick", "--out", "without.html"]) == 0
    assert "measured at different times" in Path("without.html").read_text()
    for folder, width in zip(folders, (8, 24), strict=True):
        network = nn.Sequential(nn.Conv2d(1, width, 3), nn.ReLU(), nn.Conv2d(width, width, 3)).eval()
        export_onnx(network, folder / "model.onnx", torch.randn(1, 1, 32, 32))
    assert main(["report", "half", "quick"]) == 0
    page = unescape(Path("comparison.html").read_text())
    assert "timed again on this machine, in turns" in page and "“half” is the fastest" in page
    (folders[0] / "model.onnx").write_bytes(b"damaged")
    assert main(["report", "half", "quick", "--force"]) == 0
    assert "measured at different times" in Path("comparison.html").read_text()


def test_networks_of_one_name_and_several_widths_share_no_axis():
    wide = changed(alike(), {"before/params": 900_000})
    text = comparison_page(
        [("a", alike()), ("b", alike(after__macs=5)), ("c", wide), ("d", changed(wide, {"after/macs": 7}))]
    )
    heading = unescape(re.findall(r"<h1>(.*?)</h1>", text)[0])
    assert (
        heading.startswith("4 runs of 2 kinds: 2 of resnet8 of ")
        and "2 of resnet8 of 900 k parameters on digits" in heading
    )


@pytest.mark.parametrize("what", ["engine", "threads", "batch", "cpu"])
def test_times_of_other_conditions_are_not_compared(what):
    value = {"engine": "openvino 1", "threads": 4, "batch": 8, "cpu": "another"}[what]
    place = "environment/cpu" if what == "cpu" else f"after/latency_ms/{what}"
    text = unescape(comparison_page([("a", alike()), ("b", changed(alike(), {place: value}))]))
    assert "so they are not compared" in text and "is the fastest" not in text


def test_other_networks_and_data_share_no_axis():
    other = changed(alike(), {"arch/name": "zoo:resnet20", "spec/data": "fashion-mnist"})
    runs = [("a", alike()), ("b", alike(after__macs=5)), ("c", other), ("d", changed(other, {"after/macs": 7}))]
    text = comparison_page(runs)
    page = Page(text)
    assert page.figures == {"tradeoff", "tradeoff1"} and len(page.ids) == len(set(page.ids))
    heading = unescape(re.findall(r"<h1>(.*?)</h1>", text)[0])
    assert heading == "4 runs of 2 kinds: 2 of resnet8 on digits; 2 of resnet20 on fashion-mnist."


def test_runs_of_the_same_name_are_told_apart(tmp_path):
    folders = saved(tmp_path / "a", run=compress_report()) + saved(tmp_path / "b", run=compress_report())
    text = rebuild.rebuild(folders, tmp_path / "page.html").read_text()
    assert all(str(folder) in text for folder in folders)


def test_comparison_without_accuracy_or_latency():
    nothing = {f"{side}/{name}": None for side in ("before", "after") for name in ("accuracy", "latency_ms", "bytes")}
    report = changed(compress_report(), nothing)
    Page(comparison_page([("a", report), ("b", report)]))


def test_the_code_to_copy_normalises_and_runs():
    import numpy as np
    import torch

    scale = {"mean": [0.5, 0.25, 0.5], "std": [0.5, 0.25, 0.25]}
    report = changed(compress_report(), {"arch/normalisation": scale, "arch/input_shape": [3, 2, 2]})
    text = run_page(report)
    codes = [unescape(code) for code in re.findall(r"<pre><code>(.*?)</code></pre>", text, re.S)]
    assert len(codes) == 2
    for code, library in zip(codes, (torch, np), strict=True):
        ready = "\n".join(line for line in code.splitlines() if not re.search(r"slimkit|session|model", line))
        names = {}
        exec(ready.replace("with torch.inference_mode():", ""), names)
        images = np.asarray(names["images"])
        assert images.shape == (1, 3, 2, 2) and images.dtype == np.float32
        assert library.__name__ in code and images[:, 1].min() >= -1 and images[:, 2].max() <= 2
    assert "Normalise them as in training" in run_page(changed(report, {"arch/normalisation": None}))


def test_masks_taken_within_an_epoch():
    report, search = train_report(), train_report().search
    epochs = (0.00475059, 0.1 / 3, 0.25)
    looks = tuple(replace(search.distances[0], epoch=epoch, distance=0.2 - epoch / 2) for epoch in epochs)
    snapshots = tuple(
        GammaSnapshot(epoch=epoch, edges=shot.edges, counts=shot.counts)
        for epoch, shot in zip(epochs, search.gamma_history, strict=False)
    )
    within = replace(
        search,
        distances=looks,
        epochs=epochs,
        matrix=((0.0, 0.1, 0.2), (0.1, 0.0, 0.1), (0.2, 0.1, 0.0)),
        gamma_history=snapshots,
        threshold=0.0316,
        drawn_epoch=0.25,
    )
    text = run_page(replace(report, search=within))
    assert ">settled below 0.0316</text>" in text and ">cut at 0.25</text>" in text
    assert "<title>epochs 0.00475 and 0.25: " in text and "<title>epoch 0.0333: distance " in text
    assert "0.00475059" not in text.partition('<script type="application/json"')[0].replace('"0.00475059"', "")
    below = replace(within, threshold=0.001)  # below every distance: no line to draw, and no complaint
    Page(run_page(replace(report, search=below)))


@pytest.mark.long
@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ([], "Inputs of one number, float32"),
        ([1], "Inputs of 1 number, float32"),
        ([100], "Inputs of 100 numbers, float32"),
        ([1, 16000], "Inputs of 1 × 16000 numbers, float32"),
        ([3, 8, 16], "Images of 8 × 16 pixels, 3 channels, float32"),
        ([3, 4, 8, 8], "Inputs of 3 × 4 × 8 × 8 numbers, float32"),
    ],
)
def test_a_page_says_what_goes_in_whatever_its_rank(shape, said):
    assert said in unescape(run_page(changed(bare_report(), {"arch/input_shape": shape})))


def test_counts_beyond_64_bits_are_drawn():
    report = bare_report()
    vast = replace(report.layers[0], macs_before=10**25, params_before=10**25, ms_before=1e25)
    Page(run_page(replace(report, layers=(vast, *report.layers[1:]))))


@pytest.mark.parametrize("names", [["0.0", "1.0", "2.0"], ["0.conv", "1.conv", "2.conv", "3"]])
def test_plots_name_single_layers_of_a_sequence_as_tables_do(names):
    entry = train_report().layers[0]
    entries = [replace(entry, name=name) for name in names]
    texts = {text.get_text() for text in layers.macs(entries, canvas.WIDE).figure.findobj(Text)}
    assert set(names) <= texts


def test_what_ranked_the_masks_is_said_and_what_ranked_the_cut_where_it_is_another():
    asked = {"spec/ranking": "taylor", "search/watched": "gamma"}
    for changes, words in (
        (asked, "are ranked by gamma; those that went were ranked by taylor, which needs data."),
        (asked | {"spec/ranking": "gamma"}, "are ranked by gamma."),
    ):
        section = search.draw(changed(train_report(), changes))
        assert section.about.endswith(f" Channels of these masks {words}")
