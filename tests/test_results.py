"""Records: to JSON and back, the published schemas, and damage of every kind in every field."""

import copy
import json
import math
from pathlib import Path

import jsonschema
import pytest

from slimkit.errors import RecordError
from slimkit.intervals import wilson
from slimkit.results import (
    Accuracy,
    Arm,
    Benchmark,
    Evaluation,
    Exports,
    Figures,
    Inspection,
    Report,
    SweepReport,
    report_file,
)
from slimkit.usage import Usage

EARLIER = Path(__file__).parent / "reports"  # written by real runs of the version that had slimkit.report/1
SCHEMAS = Path(report_file.__file__).parent / "schemas"
WRONG = (None, True, -1, 10**40, math.nan, "\ud800", [None], {"x": 1})


@pytest.fixture(scope="module", params=["compress", "train"])
def report(request):
    return report_file.read(EARLIER / f"{request.param}-1.json")


PUBLISHED = {
    "report": Report, "sweep": SweepReport, "study": Arm, "inspection": Inspection, "bench": Benchmark,
    "evaluation": Evaluation, "exports": Exports,
}  # fmt: skip


def test_every_format_is_published():
    assert {path.stem for path in SCHEMAS.glob("*.json")} == PUBLISHED.keys()


@pytest.mark.parametrize(("name", "record"), PUBLISHED.items(), ids=PUBLISHED)
def test_the_published_schema_is_that_of_the_records(name, record):
    schema = json.loads((SCHEMAS / f"{name}.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema == record.json_schema(), "run tools/write_schemas.py"


def test_a_report_comes_back_as_it_was(report, tmp_path):
    path = report_file.write(report, tmp_path)
    assert report_file.read(tmp_path) == report_file.read(path) == report
    assert path.read_text().startswith('{\n "schema": "slimkit.report/3"')
    jsonschema.validate(json.loads(path.read_text()), Report.json_schema())


def test_reports_of_the_first_version_are_read():
    old = json.loads((EARLIER / "train-1.json").read_text())
    report = report_file.read(EARLIER / "train-1.json")
    assert report.after.accuracy.test == old["after"]["accuracy"]["test"]
    assert report.after.accuracy.test_images == old["after"]["accuracy"]["images"]
    assert report.search.penalty.strength == old["search"]["penalty"]["lambda"]
    assert report.search.history[-1].validation_accuracy == old["search"]["history"][-1]["accuracy"]
    assert report.proof.inputs == (old["proof"]["inputs"],)
    assert report.channels.share_removed == old["channels"]["share_removed"]
    assert report_file.read(EARLIER / "compress-1.json").int8.accuracy.quoted is not None


def test_reports_of_the_second_version_are_read():
    """There accuracy was that of classification only, and other tasks had a quality."""
    old = json.loads((EARLIER / "segmentation-2.json").read_text())
    report = report_file.read(EARLIER / "segmentation-2.json")
    found, was = report.after.accuracy, old["after"]["quality"]
    assert (found.task, found.metric, found.test) == ("segmentation", "mean IoU", was["test"]["value"])
    assert (found.test_images, list(found.interval)) == (20, was["test"]["interval"])
    assert report.after_cut[0].accuracy == old["after_cut"][0]["quality"] is not None
    assert report.recovery.history[-1].validation_accuracy == old["recovery"]["history"][-1]["validation_quality"]


@pytest.mark.parametrize("name", ["compress-1", "train-1", "segmentation-2"])
def test_a_damaged_report_of_an_earlier_version_is_refused_too(tmp_path, name):
    whole = thinned(json.loads((EARLIER / f"{name}.json").read_text()))
    for damaged, _ in damages(whole, wrong=([None], {"x": 1})):
        (tmp_path / "report.json").write_text(json.dumps(damaged))
        try:
            report_file.read(tmp_path)
        except RecordError as error:
            assert str(error).count("\n") == 1


def test_damage_is_told_with_the_path_of_the_field(report):
    whole = thinned(report.to_dict())
    validator = jsonschema.Draft202012Validator(Report.json_schema())
    assert Report.from_dict(whole).to_dict() == whole
    refused = 0
    for damaged, path in damages(whole):
        try:
            Report.from_dict(damaged)
        except RecordError as error:
            refused += 1
            said = str(error).partition(":")[0]
            assert said == "the report" or path.startswith(said) or said.startswith(path), (path, str(error))
            assert "\n" not in str(error) and len(str(error)) < 250
        else:
            assert validator.is_valid(damaged), (path, "the schema refuses what is read")
    assert refused > 900


def test_damage_of_how_a_network_is_used_is_told_too():
    """Its fields may hold one of several kinds; the old report has none of it."""
    kinds = {"resize": 64, "batch": None, "task": None, "colour_order": "RGB", "value_range": None, "mean": [0.5]}
    whole = kinds | {"std": None, "crop": 0.9, "inputs": [], "outputs": ["scores"], "class_names": []}
    assert Usage.from_dict(whole).resize == 64 and Usage.from_dict(whole | {"resize": "squash"}).resize == "squash"
    for damaged, path in damages(whole, (*WRONG, 0)):
        try:
            Usage.from_dict(damaged)
        except RecordError as error:
            assert str(error).startswith((path.split("/")[0], "the report"))
    with pytest.raises(RecordError, match="resize: it is 0, but must be a whole number or text"):
        Usage.from_dict(whole | {"resize": 0})


def thinned(value, most=2):
    """Leave a few entries of every list: one field of a kind is enough."""
    if isinstance(value, dict):
        kept = {name: thinned(one, most) for name, one in value.items()}
        for name in {"spec", "environment"} & set(kept):  # any names
            kept[name] = dict(list(kept[name].items())[:most])
        for name in {"edges"} & set(kept):
            kept[name] = value[name][: most + 1]
        return kept
    return [thinned(one, most) for one in value[:most]] if isinstance(value, list) else value


def damages(whole, wrong=WRONG):
    """Give copies of a report with one field wrong, missing or unknown, and its path."""
    for path in paths(whole):
        for value in wrong:
            yield changed(whole, path, value), "/".join(map(str, path))
        if isinstance(path[-1], str):
            yield changed(whole, path, missing=True), "/".join(map(str, path))
            yield changed(whole, (*path[:-1], "unk\nown"), 1), "/".join(map(str, path[:-1]))


def paths(value, path=()):
    for key, one in value.items() if isinstance(value, dict) else list(enumerate(value))[:1]:
        yield (*path, key)
        if isinstance(one, (dict, list)):
            yield from paths(one, (*path, key))


def changed(whole, path, value=None, missing=False):
    new = copy.copy(whole)
    if len(path) == 1:
        if missing:
            del new[path[0]]
        elif isinstance(new, dict) or path[0] < len(new):
            new[path[0]] = value
    else:
        new[path[0]] = changed(new[path[0]], path[1:], value, missing)
    return new


@pytest.mark.parametrize(
    "content, words",
    [
        (None, "no report can be read"),
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ('{"schema": "x/9"}', "schema is 'x/9'"),
        ('{"schema": "slimkit.report/3"}', "slimkit: it is missing"),
        ("[]", "schema"),
        ("1" * 5000, "not valid JSON"),
        (b"\xff", "not valid JSON"),
    ],
)
def test_a_file_that_is_no_report(tmp_path, content, words):
    if content is not None:
        (tmp_path / "report.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(RecordError, match=words) as caught:
        report_file.read(tmp_path)
    assert len(str(caught.value)) < 400


def test_numbers_that_json_lacks_become_null():
    figures = Figures(macs=5, accuracy=Accuracy(validation=math.nan))
    assert figures.to_dict()["accuracy"]["validation"] is None
    assert Figures.from_dict(figures.to_dict()).accuracy.validation is None


def test_plain_values_are_bounded_in_depth(report):
    deep = 1
    for _ in range(100):
        deep = [deep]
    with pytest.raises(RecordError, match="nested too deeply"):
        Report.from_dict(report.to_dict() | {"spec": {"deep": deep}})


@pytest.mark.parametrize("right, count", [(0, 10), (1, 3), (5, 10), (10, 10), (121, 121), (950, 1000)])
def test_the_interval_of_an_accuracy_is_wilsons(right, count):
    """Its ends are the true shares from which what was counted is just 1.96 standard errors away."""
    share = right / count
    low, high = wilson(share, count)
    assert 0 <= low <= share <= high <= 1
    for end in (low, high):
        if end not in (0, 1):
            assert abs(share - end) / math.sqrt(end * (1 - end) / count) == pytest.approx(1.959964, rel=1e-5)
    assert (low, high) == Accuracy(validation=None, test=share, test_images=count).quoted.interval
    assert Accuracy(validation=share).quoted.interval is None
