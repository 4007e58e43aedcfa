"""Terminal tables: what they say, at any width."""

import io
import re
import shutil
from dataclasses import asdict, replace
from html import unescape

import pytest
import torch
from report_sample import bare_report, changed, compress_report
from rich.console import Console

from slimkit import models, zoo
from slimkit.cli import main
from slimkit.report.card import card
from slimkit.report.next_command import next_command
from slimkit.report.numbers import (
    amount,
    digits,
    duration,
    interval,
    milliseconds,
    moment,
    points,
    quartiles,
    ratio,
    short,
)
from slimkit.report.page import run_page
from slimkit.report.table import bench_table, inspect_tables, run_table
from slimkit.results import (
    Architecture,
    Benched,
    Benchmark,
    Channels,
    Fit,
    Gammas,
    InspectedGroup,
    Inspection,
    KeptEntry,
    LatencyEntry,
)
from slimkit.runs.figures import architecture


def printed(table, width=100):
    stream = io.StringIO()
    Console(file=stream, width=width).print(table, crop=False)
    return stream.getvalue()


def test_a_run_before_and_after():
    report = changed(
        compress_report(),
        {
            "after/accuracy": {"validation": 0.9, "test": 0.931, "validation_images": 100, "test_images": 6149},
            "after/macs": 1_810_000_000,
            "after/latency_ms/median": 31.42,
            "after/latency_ms/noisy": False,
            "warnings": ["latency: the spread was above 5 % in one of 5 rounds"],
            "arch/assumptions": ["pictures are read as 3x224x224, with crop 0.875 (resize 256)"],
        },
    )
    said = printed(run_table(report))
    for words in ("accuracy (6149 test)", "93.10 %", "92.4 – 93.7 %", "31.4 ms", "1.81 G", "points"):
        assert words in said
    assert "Warning: latency: the spread was above 5 %" in said
    assert "Assumed: pictures are read as 3x224x224, with crop 0.875 (resize 256)" in said
    assert said.startswith("The slim resnet8 gets 93.1 % of the 6149 test images right")
    assert said.index("Proven: ") < said.index("MACs an image")


def test_a_run_without_training_says_so_first():
    said = " ".join(printed(run_table(bare_report()), width=80).split())
    assert said.startswith("Not retrained: the slim resnet8 needs")
    command = "Next: slimkit compress PATH/TO/resnet8-digits.safetensors --ratio 0.5 --data folder:IMAGES"
    assert said.index("no weight has been trained") < said.index(command) < said.index("before")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"arch/file": "my nets/a.pt"}, "slimkit compress 'my nets/a.pt' --ratio 0.5 --data folder:IMAGES"),
        ({"arch/file": ""}, "slimkit compress CHECKPOINT --ratio"),  # a live network, and reports of earlier versions
        ({"arch/file": "-a.pt"}, "slimkit compress CHECKPOINT --ratio"),
        ({"spec/arch": "nets.py:make"}, "--arch nets.py:make --data folder:IMAGES"),
        ({"spec/task": "segmentation"}, "--task segmentation --ratio 0.5 --data folder:IMAGES_AND_MASKS"),
        ({"arch/input_shape": [2, 256], "spec/input_shape": "2,256"}, "--ratio 0.5 --data FILE.py:FUNCTION --epochs"),
        ({"arch/input_shape": [5, 8, 8]}, "--data FILE.py:FUNCTION"),  # no picture has five channels
        ({"arch/input_shape": None, "spec/input_shape": "a=3,8,8 b=5"}, "--ratio 0.5 --data FILE.py:FUNCTION"),
        ({"spec/input_shape": "1,8,8"}, "--input-shape 1,8,8 --ratio 0.5 --data folder:IMAGES"),
        ({"arch/name": "ultralytics:yolo11n", "arch/classes": None}, "--ratio 0.5 --data DATA.yaml --epochs 10"),
        ({"arch/name": "ultralytics:yolo11n-cls"}, "--ratio 0.5 --data FOLDER --epochs 10"),
        ({"arch/input_shape": [20], "spec/data": "own.py:rows"}, "--ratio 0.5 --data own.py:rows"),
    ],
)
def test_the_next_command_can_be_followed(changes, said):
    """Of signals a folder of images had been asked for."""
    assert said in next_command(changed(bare_report(), changes))


@pytest.mark.parametrize("name", ["nets/a.safetensors", "a\n.safetensors"])
def test_a_report_names_the_file_of_the_network_and_no_place_of_a_machine(name, tmp_path, monkeypatch):
    (tmp_path / "nets").mkdir()
    shutil.copy(zoo.CHECKPOINTS["resnet8-digits"], tmp_path / name)
    monkeypatch.chdir(tmp_path)
    image = torch.zeros(1, 1, 8, 8)
    relative, absolute = (architecture(models.load(path), image).file for path in (name, tmp_path / name))
    assert (relative, absolute) == ((name, "PATH/TO/a.safetensors") if name.isprintable() else ("", ""))


def test_the_terminal_shows_the_path_as_it_was_given_and_the_page_a_placeholder(tmp_path, capsys):
    """Of an absolute path the name alone stood in both, which no shell finds."""
    path = tmp_path / ("long" * 20) / "my net.safetensors"
    path.parent.mkdir()
    shutil.copy(zoo.CHECKPOINTS["resnet8-digits"], path)
    assert main(["compress", str(path), "--ratio", "0.5", "--no-recover", "--out", str(tmp_path / "out")]) == 0
    rest = "--ratio 0.5 --no-recover --data folder:IMAGES --epochs 10"
    assert f"Next: slimkit compress '{path}' {rest}\n" in capsys.readouterr().out
    page = unescape((tmp_path / "out" / "report.html").read_text())
    assert f"slimkit compress 'PATH/TO/my net.safetensors' {rest}" in page and str(tmp_path) not in page


@pytest.mark.parametrize(
    ("name", "title"), [("accuracy", "Accuracy"), ("mAP50-95", "mAP50-95"), ("mean IoU", "Mean IoU")]
)
def test_the_page_leaves_names_that_have_a_case_of_their_own(name, title):
    """It told the MAP50-95."""
    page = run_page(changed(compress_report(), {f"{side}/accuracy/metric": name for side in ("before", "after")}))
    gains = page[page.index('id="gains"') :]
    gains = gains[: gains.index("</section>")]
    assert title in gains


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"gammas": None}, "made by the statistics of BatchNorms, and the network has none"),
        ({}, "they are to meet the statistics of BatchNorms, and none did"),
        ({"arch/input_shape": None}, "the network takes no image alone"),
    ],
)
def test_it_is_told_why_nothing_was_there_to_recover_on(changes, said):
    """A network of GroupNorms was left as cut, and neither the reason nor what to give was said."""
    rows = [{"constants": "fold", "batch_norm": "as trained", "output_error": 0.5}]
    settings = {"spec/recover": True, "spec/constants": "fit", "fit": None, "after_cut": rows}
    report = changed(bare_report(), settings | changes)
    text = " ".join(printed(run_table(report)).split())
    advice = "FILE.py:FUNCTION" if "arch/input_shape" in changes else "folder:PHOTOS"
    assert f"{said}. Some unlabelled inputs do instead: --calibration {advice}." in text
    assert "No images could be made" not in printed(run_table(changed(report, {"spec/recover": False})))


def test_a_retraining_in_vain_is_not_what_comes_next():
    """It was advised to retrain by as many epochs as it just had been."""
    said = " ".join(printed(run_table(changed(compress_report(), {"recovery/delivered": False})), width=80).split())
    assert said.startswith("Not retrained: the slim resnet8")
    assert "A retraining made it no better" in said and "Next:" not in said and "has been trained" not in said


@pytest.mark.parametrize("made", [True, False])
def test_on_images_made_from_noise_agreement_is_told_as_a_guess(made):
    """98 % of such images had been told as 92 to 100 %, where of real ones it was 75."""
    on = "256 images made from noise" if made else "256 inputs of photos"
    fit = Fit(on=on, made=made, before=0.2, after=0.1, left=0, held=64, agreement=63 / 64)
    report = changed(bare_report(), {"fit": asdict(fit), "verdict": ""})
    texts = [printed(run_table(report)), re.sub("<[^>]*>", "", unescape(run_page(report))), card(report, "me/net")]
    for text in (" ".join(text.split()) for text in texts):
        assert "agrees with the original on 98.4 %" in text
        assert ("98.4 % (92 % to 100 %)" in text) == (not made)
        assert ("on 64 mixtures of images made from noise it agrees" in text) == made
        assert (
            "98.4 %, a guess for real inputs, too low or too high; how much it still gets right was not measured"
            in text
        ) == made
        assert ("not measured: give --calibration or --data." in text) == made
        assert "how much it still gets right was not measured" in text


def test_what_inspect_found():
    found = Inspection(
        slimkit="1",
        arch=Architecture(
            name="zoo:resnet8", arguments={}, source="file", input_shape=(1, 8, 8), assumptions=("images of 8 x 8",)
        ),
        channels=Channels(
            total=40, removable=30, removed=0, asked=None, kept=(KeptEntry(layer="fc", channels=10, reason="[output]"),)
        ),
        groups=(InspectedGroup(name="conv1", layers=("a", "b", "c", "d"), channels=30, batch_norm=True, macs=157_000),),
        gammas=Gammas(edges=(0.0, 0.5, 1.0), before=(0, 9), after=(0, 9)),
        macs=157_000,
        params=100,
    )
    said = " ".join(printed(inspect_tables(found)).split())
    assert "zoo:resnet8: 30 of 40 channels can be removed (75.0 %)" in said
    assert "conv1 a, b, c and 1 more 30 157 k" in said
    assert "fc 10 [output]" in said and "images of 8 x 8" in said
    assert "|gamma| 0" in said and "█ 1" in said


def test_models_side_by_side():
    how = {"fastest": 0.3, "engine": "onnxruntime 1.30", "threads": 1, "batch": 4, "repeats": 60, "noisy": False}
    slow = LatencyEntry(median=2.0, q25=1.9, q75=2.2, cpu=2.0, **how)
    quick = LatencyEntry(median=0.5, q25=0.4, q75=0.6, cpu=0.5, **how)
    rows = (
        Benched(name="a.onnx", share=1.0, bytes=4_000_000, latency_ms=slow),
        Benched(name="b.onnx", share=0.25, bytes=1_000_000, latency_ms=quick),
    )
    said = " ".join(printed(bench_table(Benchmark(models=rows))).split())
    assert "b.onnx 1.00 MB 0.500 ms 0.400 – 0.600 ms 0.500 ms 0.25" in said
    assert said.startswith("onnxruntime 1.30 model") and "batch 4, 1 thread, 60 runs" in said and "Warning" not in said
    assert "with its weights in the caches" in said
    bound = replace(rows[1], latency_ms=replace(quick, batch=1))
    said = " ".join(printed(bench_table(Benchmark(models=(rows[0], bound)))).split())
    assert "a.onnx 4.00 MB 4 2.00 ms" in said and "b.onnx 1.00 MB 1 0.500 ms" in said
    assert "times of a batch, compared an image, 1 thread" in said and "batch 4" not in said
    other = replace(rows[1], latency_ms=replace(quick, noisy=True, engine="openvino 2", repeats=90))
    said = " ".join(printed(bench_table(Benchmark(models=(rows[0], other)))).split())
    assert "openvino 2 model" in said and said.index("openvino 2") < said.index("b.onnx 1.00 MB")
    assert "batch 4, 1 thread, 60 to 90 runs" in said
    assert "too noisy for wall times; compared by CPU time of the process" in said


@pytest.mark.parametrize(
    "said, expected",
    [
        (interval((0.895, 0.9771)), "89.5 – 97.7 %"),
        (interval(None), ""),
        (moment(0.00475059), "0.00475"),
        (moment(12.0), "12"),
        (moment(103.456), "103.5"),
        (digits(None), "–"),
        (digits(0.0), "0"),
        (digits(2.1e-6, 2), "2.1 × 10⁻⁶"),
        (digits(123456.0), "123000"),
        (digits(0.9996), "1.00"),
        (amount(999.6), "1.00 k"),
        (amount(11_689_512), "11.7 M"),
        (amount(512, "B"), "512 B"),
        (milliseconds(0.0259), "25.9 µs"),
        (milliseconds(1500.0), "1.50 s"),
        (quartiles(0.0195, 0.0198), "19.5 – 19.8 µs"),
        (quartiles(0.095, 0.11), "95.0 µs – 0.110 ms"),
        (duration(0.5), "0.50 s"),
        (duration(59.7), "1 min 00 s"),
        (duration(7500.0), "2 h 05 min"),
        (points(-0.0001), "±0.0 points"),
        (points(-0.012), "−1.2 points"),
        (ratio(1.0, 0), "–"),
        (ratio(0.012, 1.0), "0.012"),
        (short("0.600 ms"), "0.6 ms"),
        (short("80.0 M"), "80 M"),
        (short("0 ms"), "0"),
        (short("100 %"), "100 %"),
    ],
)
def test_numbers_as_people_read_them(said, expected):
    assert said == expected
