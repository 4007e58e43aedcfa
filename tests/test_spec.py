"""Settings of a run: ranges, one budget, TOML and back."""

import dataclasses
import math
from typing import get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slimkit.errors import SpecError
from slimkit.settings import (
    Budget,
    CompressSpec,
    RunSpec,
    Settings,
    TrainSpec,
    from_toml,
    make,
    parse_budget,
    read_config,
    read_pairs,
    read_words,
    to_toml,
)
from slimkit.settings.command_line import gather
from slimkit.settings.keywords import CompressKeywords, TrainKeywords
from slimkit.tasks import SEGMENTATION

BUDGETS = ("ratio", "max_macs", "max_params", "max_bytes", "max_latency", "max_energy", "max_drop")
TRAIN = {"arch": "zoo:resnet8", "data": "digits"}


def test_half_the_channels_where_nothing_is_asked():
    assert CompressSpec().ratio == 0.5
    assert CompressSpec().budget == Budget("ratio", 0.5)
    assert CompressSpec(max_macs="500M").ratio is None
    assert CompressSpec(max_macs="500M").budget == Budget("macs", 5e8, absolute=True)


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"ratio": 1.0}, "ratio is 1: it must be in [0, 1)"),
        ({"ratio": -0.1}, "ratio is -0.1"),
        ({"ratio": 50}, "for 50 % write 0.5"),
        ({"ratio": "half"}, "ratio is 'half': it must be a number in [0, 1)"),
        ({"ratio": True}, "ratio is True"),
        ({"ratio": math.nan}, "ratio is nan"),
        ({"ratio": 0.5, "max_macs": 0.5}, "ratio and max_macs are set: a run has one budget"),
        ({"max_latency": "2.5"}, "above 1 without a unit; units are us, ms, s"),
        ({"max_macs": "many"}, "max_macs is 'many': neither a share nor an amount"),
        ({"max_energy": -1}, "max_energy is -1: not above 0"),
        ({"ranking": "best"}, "ranking is 'best': it must be 'auto' or 'group-norm' or"),
        ({"int8": "yes"}, "int8 is 'yes': it must be true or false"),
        ({"cap": 1.0}, "cap is 1: it must be in (0, 1)"),
        ({"round_to": "odd"}, "round_to is 'odd': it must be a whole number, 1 or more.\n  Or 'auto'"),
        ({"round_to": 0}, "round_to is 0"),
        ({"threads": 0}, "threads is 0: it must be a whole number, 1 or more"),
        ({"epochs": -1}, "epochs is -1"),
        ({"max_drop": 1, "ratio": 0.5}, "a run has one budget"),
        ({"max_drop": 0}, "max_drop is 0"),
        ({"learning_rate": 0}, "learning_rate is 0: it must be in (0, infinity)"),
        ({"device": "gpu"}, "device is 'gpu': it must be auto, cpu, cuda, cuda:N, mps or xpu"),
        ({"arch": 18}, "arch is 18: it must be text"),
        ({"scope": "global"}, "Name what ranks them too, for example `ranking='group-norm'`"),
        ({"fixed_batch": True, "batch": 8}, "batch is 8: `fixed_batch` binds the ONNX file to one image"),
        ({"task": SEGMENTATION}, "`dataset=slimkit.data.as_dataset(..., task=...)`"),
    ],
)
def test_compress_refuses(wrong, words):
    with pytest.raises(SpecError) as error:
        CompressSpec(**wrong)
    assert words in str(error.value)


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"arch": ""}, "arch is not set: training needs it"),
        ({"data": ""}, "for example `data='fashion-mnist'`"),
        ({"method": "early"}, "method is 'early': it must be 'early-bird' or"),
        ({"epochs": 0}, "epochs is 0"),
    ],
)
def test_train_refuses(wrong, words):
    with pytest.raises(SpecError) as error:
        TrainSpec(**(TRAIN | wrong))
    assert words in str(error.value)


@pytest.mark.parametrize(
    "given, kind, expected",
    [
        ("0.5", "macs", Budget("macs", 0.5)),
        (0.5, "latency", Budget("latency", 0.5)),
        ("50%", "energy", Budget("energy", 0.5)),
        (1, "params", Budget("params", 1.0)),
        ("500M", "macs", Budget("macs", 5e8, True)),
        (4_000_000, "params", Budget("params", 4e6, True)),
        ("4MB", "bytes", Budget("bytes", 4e6, True)),
        ("4 MiB", "bytes", Budget("bytes", 4 * 2**20, True)),
        ("2.5ms", "latency", Budget("latency", 2.5, True)),
        ("800us", "latency", Budget("latency", 0.8, True)),
        ("0.03J", "energy", Budget("energy", 30.0, True)),
    ],
)
def test_budgets_are_shares_or_amounts(given, kind, expected):
    read = parse_budget(given, kind)
    assert (read.kind, read.absolute) == (expected.kind, expected.absolute)
    assert read.value == pytest.approx(expected.value, rel=1e-12)


def test_every_setting_says_what_it_means():
    for kind in (CompressSpec, TrainSpec):
        for entry in dataclasses.fields(kind):
            assert len(entry.metadata["help"]) > 10, entry.name


def texts():
    return st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)


@given(
    ratio=st.floats(0, 1, exclude_max=True),
    cap=st.floats(1e-9, 1, exclude_max=True),
    round_to=st.one_of(st.just("auto"), st.integers(1, 64)),
    arch=st.one_of(st.none(), texts()),
    int8=st.booleans(),
)
@settings(max_examples=60)
def test_compress_settings_survive_toml(ratio, cap, round_to, arch, int8):
    spec = CompressSpec(ratio=ratio, cap=cap, round_to=round_to, arch=arch, int8=int8, data="digits")
    assert from_toml(to_toml(spec, heading="made by\na test"), CompressSpec) == spec


def test_the_settings_file_is_complete():
    for spec in (CompressSpec(), TrainSpec(**TRAIN)):
        written = to_toml(spec)
        for entry in dataclasses.fields(spec):
            assert f"\n{entry.name} = " in written or f"\n# {entry.name}: not set" in written


def test_an_unknown_setting_lists_the_nearest():
    with pytest.raises(SpecError, match=r"'ration' in run.toml: there is no such setting.*\n.*ratio"):
        from_toml("ration = 0.5", CompressSpec)
    with pytest.raises(SpecError, match="Did you mean max_macs"):
        make(CompressSpec, {"max-mac": 0.5})
    with pytest.raises(SpecError, match="Known: .*ratio, max_macs"):
        make(CompressSpec, {"zzzzzz": 1})


def test_a_settings_file_that_cannot_be_read(tmp_path):
    for name, content, words in (
        ("no.toml", None, "cannot be read"),
        ("bad.toml", b"ratio 0.5", "not valid TOML"),
        ("bin.toml", b"\xff\xfe\x00", "not UTF-8"),
    ):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(SpecError, match=words):
            read_config(tmp_path / name)
    with pytest.raises(SpecError, match="cannot be read"):
        read_config(tmp_path)


def test_words_of_a_command_line():
    words = read_pairs(["ratio=0.5", "round-to = auto", "data=digits", "data_root=2024", "trust_pickle=true"])
    assert read_words(CompressSpec, words) == {
        "ratio": 0.5,
        "round_to": "auto",
        "data": "digits",
        "data_root": "2024",
        "trust_pickle": True,
    }
    assert read_words(TrainSpec, {"ratio": ".5", "cap": "-2.", "data": "1."}) == {"ratio": 0.5, "cap": -2, "data": "1."}
    assert read_words(TrainSpec, {"max_latency": "2.5ms", "ratio": "1979-05-27", "data": "a,b"}) == {
        "max_latency": "2.5ms",
        "ratio": "1979-05-27",
        "data": "a,b",
    }
    with pytest.raises(SpecError, match="must be key=value"):
        read_pairs(["ratio"])


@pytest.mark.parametrize(
    ("word", "layers"),
    [
        ("0.0", ("0.0",)),
        ("0.0,1.0", ("0.0", "1.0")),
        ("3", ("3",)),
        ("true, layer4.*", ("true", "layer4.*")),
        ('["0.0", "b"]', ("0.0", "b")),
        ('"0.0"', ("0.0",)),
    ],
)
def test_layers_may_be_called_like_numbers(word, layers):
    assert make(CompressSpec, read_words(CompressSpec, {"keep": word})).keep == layers


@pytest.mark.parametrize("kept", BUDGETS)
@pytest.mark.parametrize("given", BUDGETS)
def test_a_budget_of_the_command_line_wins_over_that_of_the_file(kept, given, tmp_path):
    """Whichever two they are; what goes with the file's budget goes too."""
    file = tmp_path / "run.toml"
    file.write_text(f"{kept} = 0.5\n" + 'minimise = "macs"\n' * (kept == "max_drop"))
    words = {"config": file, "pairs": [], "trust_config": False, given: "0.7"}
    spec = gather(CompressSpec, words)
    assert getattr(spec, given) in (0.7, "0.7")
    assert [name for name in spec.budgets() if getattr(spec, name) is not None] == [given]


def test_specs_are_frozen_values():
    spec = CompressSpec(ratio=0.3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.ratio = 0.4
    assert isinstance(spec, RunSpec) and spec == CompressSpec(ratio=0.3) != CompressSpec(ratio=0.4)


@pytest.mark.parametrize(
    "asked", [{}, {"batch_size": 128}, {"learning_rate": 0.02}, {"batch_size": 16, "learning_rate": 0.0005}]
)
def test_a_pace_that_was_asked_for_is_told_from_the_usual_one(asked):
    assert CompressSpec(**asked).pace == asked


@pytest.mark.parametrize(
    ("spec", "keywords", "not_words"),
    [
        (CompressSpec, CompressKeywords, {"ratio", "calibration", "arch", "trust_pickle", "max_memory"}),
        (TrainSpec, TrainKeywords, {"ratio", "arch", "data"}),
    ],
)
def test_keywords_are_the_settings_but_for_what_a_call_gives_otherwise(spec, keywords, not_words):
    settings = {name: kind for name, kind in get_type_hints(spec).items() if name not in not_words}
    if spec is TrainSpec:
        settings["method"] |= Settings  # also with its own settings
    assert get_type_hints(keywords) == settings
