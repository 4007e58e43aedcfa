"""The page of a run: whole, safe, with the numbers of the report, whatever the run has or lacks."""

import copy
import json
import re
from html import unescape
from html.parser import HTMLParser

import pytest
from report_sample import compress_report, train_report

from slimkit.errors import OutputError
from slimkit.report import parts, rebuild
from slimkit.report.page import comparison_page, run_page
from slimkit.report.verdict import verdict
from slimkit.results import json_file

FIGURES = {
    "compress": {"channels", "macs", "times", "cut", "retraining", "tradeoff", "gammas", "cost"},
    "train": {
        "channels",
        "macs",
        "times",
        "distance",
        "matrix",
        "training",
        "gammatime",
        "tradeoff",
        "gammas",
        "cost",
    },
}
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
    value = report
    for key in path.split("/"):
        value = value[int(key)] if isinstance(value, list) else value[key]
    return value


@pytest.fixture(scope="module")
def pages():
    return {"compress": run_page(compress_report()), "train": run_page(train_report())}


@pytest.mark.parametrize("kind", ["compress", "train"])
def test_the_page_is_whole(pages, kind):
    text = pages[kind]
    page = Page(text)
    assert page.figures == FIGURES[kind]
    assert len(page.ids) == len(set(page.ids)), "ids are used twice"
    assert len(text.encode()) < 3e6
    report = compress_report() if kind == "compress" else train_report()
    assert len(page.cells) > 100
    for path, value in page.cells.items():
        assert value == at(report, path), path
    for path in (
        "before/macs",
        "after/latency_ms/median",
        "after/accuracy/test",
        "proof/slim_vs_onnx",
        "stages/3/seconds",
    ):
        assert path in page.cells
    assert json.loads(re.search(r'<script type="application/json"[^>]*>(.*?)</script>', text, re.S)[1]) == report


@pytest.mark.parametrize("kind", ["compress", "train"])
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
    layer = train_report()["layers"][3]
    assert f"layer1.1.conv1 (Conv2d): 64 → {layer['channels_after']} channels, 62 % kept" in titles
    assert any(title.startswith("epochs 2 and 5: 0.") for title in titles)
    assert any(title.startswith("epoch 5: distance 0.") for title in titles)


def test_what_comes_from_the_network_is_escaped():
    report = compress_report()
    evil = "<script>alert(1)</script><!-- $\\frac$ {{ 7*7 }} 网"
    report["arch"]["name"] = evil
    report["layers"][0]["name"] = evil
    report["groups"][0]["name"] = evil
    report["channels"]["kept"][0]["reason"] = evil
    report["warnings"] = [evil]
    text = run_page(report)
    Page(text)
    assert "<script>alert" not in text
    assert text.count("<script") == 2 and "49" not in re.findall(r"<h1>(.*?)</h1>", text)[0]
    assert json.loads(re.search(r'<script type="application/json"[^>]*>(.*?)</script>', text, re.S)[1]) == report


@pytest.mark.parametrize("kind", [compress_report, train_report])
def test_any_part_may_be_missing(kind, monkeypatch):
    monkeypatch.setattr(parts, "inline_svg", lambda *_: "<svg></svg>")
    whole = kind()
    for key in whole:
        for value in (None, "absent"):
            part = copy.copy(whole)
            part[key] = value
            if value == "absent":
                del part[key]
            Page(run_page(part))
    Page(run_page({"schema": json_file.SCHEMA}))


def test_without_data_the_page_says_so():
    report = compress_report()
    for side in ("before", "after"):
        del report[side]["accuracy"]
    report |= {"recovery": None, "alternatives": []}
    for entry in report["after_cut"]:
        entry["accuracy"] = None
    page = Page(run_page(report))
    assert {"tradeoff", "retraining"} & page.figures == set() and "cut" in page.figures
    assert "Accuracy was not measured: the run had no data." in verdict(report).notes


def test_the_verdict_has_three_numbers():
    said = verdict(compress_report())
    assert said.sentence == (
        "The slim resnet18 gets 93.1 % of the test images right (93.7 % before), "
        "in 0.31 of the time and 0.21 of the space."
    )
    assert [line.label for line in said.headlines] == ["test accuracy", "latency", "size"]
    assert "Half of the channels is not half of the work: MACs fell to 0.32." in said.notes


def test_the_verdict_admits_what_is_slower():
    report = compress_report()
    report["after"]["latency_ms"]["median"] = 33.3
    said = verdict(report)
    assert "in 1.06 of the time" in said.sentence
    assert any("not faster" in note for note in said.notes)
    assert "× 1.06" in run_page(report)


def test_on_a_noisy_machine_cpu_time_is_what_is_quoted():
    report = compress_report()
    for side, cpu in (("before", 30.0), ("after", 12.0)):
        report[side]["latency_ms"] |= {"noisy": True, "threads": 1, "cpu": cpu}
    assert "in 0.40 of the time" in verdict(report).sentence
    page = Page(run_page(report))
    assert page.cells["after/latency_ms/cpu"] == 12.0 and "after/latency_ms/median" not in page.cells
    report["after"]["latency_ms"]["threads"] = 2
    assert "after/latency_ms/median" in Page(run_page(report)).cells


def test_where_nothing_was_removed_it_is_said():
    report = compress_report()
    report["channels"] |= {"removed": 0, "share_removed": 0.0}
    said = verdict(report).notes
    assert said[0] == "No channel was removed: this is the dense network, exported and proven."
    assert not any("faster" in note for note in said)


def test_a_measured_budget_is_accounted_for():
    report = compress_report()
    said = "That is by the table of a phone; the latency shown beside it was measured on this machine."
    report["budget"] = {"kind": "latency", "original": 32.2, "target": 16.1, "reached": 15.7, "notes": [said]}
    assert verdict(report).notes[:2] == ("Asked for 16.1 ms, chosen with 15.7 ms: 0.49 of 32.2 ms.", said)
    report["budget"] = {"kind": "bytes", "original": 4e6, "target": 2e6, "reached": 1.98e6}
    assert verdict(report).notes[0] == "Asked for 2.00 MB, chosen with 1.98 MB: 0.49 of 4.00 MB."


def test_what_training_cost_is_said_and_how_to_spend_what_was_saved():
    assert not any("Training cost" in note for note in verdict(compress_report()).notes)
    report = train_report()
    said = "Training cost 0.41 of one dense training; train, prune, retrain costs 1.27."
    more = " With --spend 0.55 the small network trains on until 0.55 is used up."
    assert said + more in verdict(report).notes
    report["spec"] |= {"spend": 0.55, "search_precision": "int8-emulated"}
    assert said in verdict(report).notes and any("emulated INT8" in note for note in verdict(report).notes)
    report["search"]["precision"] = "int8-emulated"
    assert "INT8, emulated" in run_page(report)


def test_an_int8_file_is_said_with_its_accuracy_and_time():
    report = compress_report()
    assert not any("INT8" in note for note in verdict(report).notes)
    report["int8"] = {"accuracy": {"validation": 0.93, "test": 0.9281}, "latency_ms": {"median": 7.855}}
    note = "INT8 (model.int8.onnx): 92.81 % of the test images right; 7.86 ms, 0.25 of the original’s time."
    assert verdict(report).notes[-1] == note
    assert note in unescape(run_page(report))


def test_a_mask_that_was_drawn_unsettled_is_not_said_to_have_settled():
    report = train_report()
    for settled in (True, False):
        ratio = report["search"]["ratios"]["0.5"] | {"settled": settled}
        report["search"] |= {"ratios": {"0.5": ratio}}
        page = run_page(report)
        assert ("search/ratios/0.5/epoch" in Page(page).cells) == settled == ("50 % settled at 5" in page)
        assert ("not settled" in page) != settled


def test_a_large_network_and_a_tiny_one():
    report = compress_report()
    layer = report["layers"][0]
    report["layers"] = [layer | {"name": f"features.{index}.conv"} for index in range(200)]
    assert len(run_page(report)) < 3e6
    report["layers"] = [layer]
    report["gammas"] = {"edges": [0.0, 1.0], "before": [0], "after": [0]}
    Page(run_page(report))
    search = train_report()
    search["search"] |= {
        "matrix": [[0.0]],
        "epochs": [1],
        "distances": [{"epoch": 1, "distance": 0.0}],
        "history": [{"epoch": 1, "loss": None, "accuracy": 0.5}],
        "gamma_history": search["search"]["gamma_history"][:1],
    }
    Page(run_page(search))


def test_rebuilt_from_its_json_the_page_is_the_same(tmp_path, pages):
    json_file.write(compress_report(), tmp_path)
    assert rebuild.rebuild([tmp_path]) == tmp_path / "report.html"
    assert (tmp_path / "report.html").read_text() == pages["compress"]
    assert rebuild.rebuild([tmp_path / "report.json"]) == tmp_path / "report.html"


def test_several_runs_on_one_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = compress_report()
    small["after"]["latency_ms"]["median"], small["after"]["accuracy"]["test"] = 7.1, 0.921
    small["spec"] |= {"ratio": None, "max_latency": "7ms"}
    for name, report in (("half", compress_report()), ("quick", small)):
        (tmp_path / name).mkdir()
        json_file.write(report, tmp_path / name)
    path = rebuild.rebuild([tmp_path / "half", tmp_path / "quick"])
    text = (tmp_path / path).read_text()
    page = Page(text)
    assert page.figures == {"tradeoff"}
    assert page.cells["runs/1/report/after/latency_ms/median"] == 7.1
    assert "“half” gets the most right (93.1 %); “quick” is the fastest (× 0.23)" in text
    assert "latency 7ms" in text
    with pytest.raises(OutputError, match="it exists already"):
        rebuild.rebuild([tmp_path / "half", tmp_path / "quick"])
    assert rebuild.rebuild([tmp_path / "half", tmp_path / "quick"], force=True) == path


def test_runs_of_the_same_name_are_told_apart(tmp_path):
    for parent in ("a", "b"):
        (tmp_path / parent / "run").mkdir(parents=True)
        json_file.write(compress_report(), tmp_path / parent / "run")
    folders = [tmp_path / parent / "run" for parent in ("a", "b")]
    text = rebuild.rebuild(folders, tmp_path / "page.html").read_text()
    assert all(str(folder) in text for folder in folders)


@pytest.mark.parametrize(
    "content, words",
    [
        (None, "no report can be read"),
        ("{", "not valid JSON"),
        ('{"schema": "x/9"}', "schema is 'x/9'"),
        ("[]", "schema"),
    ],
)
def test_a_report_that_cannot_be_read(tmp_path, content, words):
    if content is not None:
        (tmp_path / "report.json").write_text(content)
    with pytest.raises(OutputError, match=words):
        rebuild.rebuild([tmp_path])
    assert not (tmp_path / "report.html").exists()


def test_comparison_without_accuracy_or_latency():
    report = {"schema": json_file.SCHEMA, "before": {"macs": 10}, "after": {"macs": 5}}
    Page(comparison_page([("a", report), ("b", report)]))


def test_json_holds_numbers_only(tmp_path):
    import numpy as np

    report = {"after": {"macs": np.int64(5), "x": float("nan")}, "rows": (np.float32(0.5), np.array([1, 2]))}
    path = json_file.write(report, tmp_path)
    assert json.loads(path.read_text()) == {
        "schema": json_file.SCHEMA,
        "after": {"macs": 5, "x": None},
        "rows": [0.5, [1, 2]],
    }
    assert path.read_text().startswith('{\n "schema"')


def test_the_code_to_copy_normalises_and_runs():
    import numpy as np
    import torch

    report = compress_report()
    report["arch"] |= {
        "normalisation": {"mean": [0.5, 0.25, 0.5], "std": [0.5, 0.25, 0.25]},
        "input_shape": [3, 2, 2],
    }
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
    assert "Normalise them as in training" in run_page(compress_report())


def test_masks_taken_within_an_epoch():
    report = train_report()
    search = report["search"]
    for entry in search["distances"]:
        entry["epoch"] /= 10
    search |= {"epochs": [epoch / 10 for epoch in search["epochs"]], "threshold": 0.0316, "drawn_epoch": 0.8}
    search["ratios"] = {"0.5": {"epoch": None, "distance_to_final": None}}
    text = run_page(report)
    assert ">settled below 0.0316</text>" in text and ">cut at 0.8</text>" in text
    assert "<title>epochs 0.2 and 0.5: " in text and "<title>epoch 0.3: distance " in text
    assert "not settled" in text
    search["threshold"] = 0.001  # below every distance: no line to draw, and no complaint
    Page(run_page(report))
