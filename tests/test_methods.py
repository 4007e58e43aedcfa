"""Methods as a registry: a name is listed in every place or in none, and settings are said once."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import slimkit
from slimkit import methods, provenance, zoo
from slimkit.errors import MaskError, SlimkitError, SpecError
from slimkit.methods import METHODS, EarlyBirdConfig
from slimkit.methods.scratch import CONTROLS
from slimkit.models import load_slim
from slimkit.runs.plan import plan
from slimkit.runs.train import train_network
from slimkit.settings import METHODS as NAMES
from slimkit.settings import REMOVE_NONE, CompressSpec, TrainSpec, from_toml, to_toml
from slimkit.settings.output import OutputOptions

CUTTING = [control for control in CONTROLS if control != "dense"]
FOLDER = Path(methods.__file__).parent


def test_the_names_of_the_help_are_those_of_the_methods():
    assert tuple(METHODS) == NAMES
    assert all(name == method.name for name, method in METHODS.items())


def test_methods_that_leave_all_channels_are_known_where_there_is_no_torch():
    assert {name for name, method in METHODS.items() if not method.removes} == set(REMOVE_NONE)


def test_every_file_that_holds_a_method_is_listed():
    holding = {path.stem.replace("_", "-") for path in FOLDER.glob("*.py") if "\nMETHOD = " in path.read_text()}
    assert holding == set(METHODS)


def test_the_tutorial_has_a_row_for_every_method():
    page = (Path(__file__).parents[1] / "docs/tutorials/train.md").read_text()
    assert [name for name in METHODS if f"| `{name}`" not in page] == []


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_settings_of_a_method_are_its_own_complete_and_written_down(method):
    entries = dataclasses.fields(method.config)
    shared = {entry.name for entry in dataclasses.fields(TrainSpec)}
    assert not shared & {entry.name for entry in entries}
    assert all(len(entry.metadata["help"]) > 10 for entry in entries)
    config = method.config()
    assert from_toml(to_toml(config), method.config) == config
    asked = plan({"arch": "zoo:resnet8", "data": "digits", "method": method.name})
    assert asked.config == config and asked.settings()["ranking"] == method.ranking


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_settings_given_as_an_object_are_those_given_as_words(method):
    words = {"arch": "zoo:resnet8", "data": "digits", "epochs": 3}
    assert plan({**words, "method": method.config()}) == plan({**words, "method": method.name})
    assert getattr(methods, method.config.__name__) is method.config and method.config.__name__ in methods.__all__


def test_an_object_of_settings_is_planned_as_it_is():
    asked = plan({"arch": "zoo:resnet8", "data": "digits", "method": EarlyBirdConfig(deadline=0.2), "epochs": 3})
    assert (asked.config, asked.spec.epochs) == (EarlyBirdConfig(deadline=0.2), 3)
    assert (asked.settings()["method"], asked.settings()["deadline"]) == ("early-bird", 0.2)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"deadline": 0.02},
            r"deadline is 0\.02, and method is EarlyBirdConfig\(\.\.\.\), where it is 0\.2: both .*\(deadline=0\.02\)",
        ),
        ({"deadline": 0.2}, "both say it"),
        ({"at": 2}, r"at is 2, .* is None: both say it.*Write EarlyBirdConfig\(at=2\)"),
        ({"passes": 2}, "'passes' .*'early-bird' has no such.*It is one of network-slimming"),
        ({"tresh": 0.2}, "Did you mean threshold"),
        ({"epoch": 2}, "Did you mean epochs"),
        ({"draw": "end"}, r"draw is 'end', and method is EarlyBirdConfig\(.*both say how"),
        (
            {"method": EarlyBirdConfig},
            "method is the class EarlyBirdConfig: .* or an object.*there are EarlyBirdConfig,",
        ),
        ({"method": CompressSpec()}, "method is a CompressSpec: .* or an object of the settings of a method"),
        ({"method": None}, "method is None: it must be 'early-bird' or"),
    ],
)
def test_what_contradicts_an_object_of_settings_is_refused(settings, words):
    given = {"arch": "zoo:resnet8", "data": "digits", "method": EarlyBirdConfig(deadline=0.2)}
    with pytest.raises(SpecError, match=f"(?s){words}"):
        plan(given | settings)


def test_settings_of_one_name_are_of_one_kind_in_all_methods():
    kinds: dict[str, set[object]] = {}
    for method in METHODS.values():
        for entry in dataclasses.fields(method.config):
            kinds.setdefault(entry.name, set()).add(entry.type)
    assert not {name: kind for name, kind in kinds.items() if len(kind) > 1}


@pytest.mark.long
@pytest.mark.parametrize(
    ("method", "settings", "edit"),
    [
        ("factorised", {"rank_share": 0.3}, "Factorised"),
        ("edge-popup", {}, "Masked"),
        ("weight-ticket", {"deliver": "ticket"}, "Masked"),
    ],
)
def test_methods_that_remove_no_channel_end_with_a_file_that_says_what_was_done(method, settings, edit, tmp_path):
    asked = plan({"arch": "zoo:resnet8", "data": "digits", "method": method, "epochs": 1, **settings})
    done = train_network(asked, OutputOptions(out=tmp_path / "out"))
    again = load_slim(tmp_path / "out" / "model.safetensors")
    [made] = provenance.of(again).edits
    assert type(made).__name__ == edit
    assert (edit == "Masked") == any("no faster" in warning for warning in done.report.warnings)


@pytest.mark.parametrize("settings", [{"ratio": 0.3}, {"max_macs": 0.5}, {"ranking": "gamma"}, {"keep": ("fc",)}])
@pytest.mark.parametrize("method", [m.name for m in METHODS.values() if not m.removes])
def test_what_a_method_has_no_use_for_is_refused(method: str, settings: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=f"{next(iter(settings))} is .*the method '{method}' removes no channels"):
        plan({"arch": "zoo:resnet8", "data": "digits", "method": method, **settings})


@pytest.mark.parametrize("name", ["ratio", "scope"])
@pytest.mark.parametrize("method", [m.name for m in METHODS.values() if not m.removes])
def test_what_is_of_no_use_is_refused_where_it_was_written_though_it_is_as_usual(method: str, name: str) -> None:
    usual = {"ratio": 0.5, "scope": "group"}
    file = {"arch": "zoo:resnet8", "data": "digits", "method": method, **usual}  # run.toml holds all of them
    assert plan(file).spec == plan(file, {"epochs": "30"}).spec
    with pytest.raises(SpecError, match=f"^{name} is .*removes no channels"):
        plan(file, {name: str(usual[name])})
    with pytest.raises(SpecError, match=f"^{name} is .*removes no channels"):
        plan(file, named={name})


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        *[({"method": m, "rewind_step": 7}, "rewind_step") for m in ("early-bird", "progressive", "network-slimming")],
        ({"method": "early-bird", "init": "fresh", "rewind_step": 7}, "rewind_step"),
        ({"method": "lottery-ticket", "weights": "fresh", "rewind_step": 7}, "rewind_step"),
        *[
            ({"method": m, "l1": 0.1, "penalty_total": 9.0}, "penalty_total")
            for m in ("early-bird", "progressive", "network-slimming")
        ],
        *[
            ({"control": "dense", name: value}, name)
            for name, value in [
                ("ratio", 0.7), ("max_macs", 0.5), ("max_params", "1M"), ("keep", ("conv1",)), ("round_to", 8),
                ("ranking", "random"), ("spend", 2.0), ("kept", (1, 2)), ("like", "x"), ("weights", "initial"),
            ]
        ],
        ({"kept": (4, 4), "ratio": 0.7}, "ratio"),
        ({"like": "nowhere", "max_macs": 0.3}, "max_macs"),
        ({"kept": (4, 4), "control": "scratch-E", "keep": ("conv1",)}, "keep"),
        ({"like": "nowhere", "control": "fine-tune", "round_to": 8}, "round_to"),
        *[
            ({**settings, name: value}, name)
            for name, value in [("ranking", "gamma"), ("scope", "global")]
            for settings in [
                {"max_macs": 0.5}, {"max_params": 0.5}, {"max_bytes": 0.5}, {"max_latency": 0.5}, {"max_energy": 0.5},
                {"control": "uniform-params", "max_params": 0.5}, {"kept": (4, 4)},
                {"kept": (4, 4), "control": "scratch-B"}, {"kept": (4, 4), "control": "random-channels"},
            ]
        ],
        *[
            ({**settings, "constants": "zero"}, "constants")
            for settings in [
                {}, {"control": "scratch-B"}, {"control": "permuted"}, {"method": "lottery-ticket"},
                {"method": "lottery-ticket", "weights": "fresh"},
                *[
                    {"method": method, "init": init}
                    for method in ("early-bird", "progressive", "network-slimming") for init in ("rewind", "fresh")
                ],
            ]
        ],
    ],
)  # fmt: skip
def test_what_other_settings_leave_without_effect_is_refused(settings: dict[str, Any], name: str) -> None:
    with pytest.raises(SpecError, match=f"(?s)^{name} is .*[Ll]eave"):
        plan({"arch": "zoo:resnet8", "data": "digits", **settings})


@pytest.mark.parametrize(
    "settings",
    [
        *[{"control": control, "max_macs": 0.5, "ranking": "gamma", "scope": "global"} for control in CUTTING[1:]],
        {"ratio": 0.3, "ranking": "gamma", "scope": "global"},  # at the MACs of what these leave
        {"control": "fine-tune", "kept": (4, 4), "ranking": "gamma", "scope": "global", "constants": "zero"},
        {"control": "random-channels", "constants": "zero"},
        {"weights": "initial", "constants": "zero"},
        *[
            {"method": method, "ranking": "random", "scope": "global", "constants": "zero"}
            for method in ("early-bird", "progressive", "network-slimming")
        ],
        {"method": "lottery-ticket", "ranking": "random", "scope": "global"},
    ],
)
def test_what_a_method_has_a_use_for_is_taken(settings: dict[str, Any]) -> None:
    spec = plan({"arch": "zoo:resnet8", "data": "digits", **settings}).spec
    assert all(getattr(spec, name) == value for name, value in settings.items() if hasattr(spec, name))


def test_arms_of_a_study_may_share_what_one_of_them_has_no_use_for() -> None:
    shared = {"arch": "zoo:resnet8", "data": "digits", "ratio": 0.3, "keep": ("conv1",), "round_to": 8}
    for control in ({"control": "dense"}, {"control": "scratch-E", "kept": (4, 4)}):
        with pytest.raises(SpecError, match="ratio is 0.3"):
            plan({**shared, **control})
        assert plan({**shared, **control}, ignoring=shared).spec.keep == ("conv1",)


@pytest.mark.parametrize(
    "method",
    [{"method": "network-slimming", "passes": 2, "penalty_total": 0}, {"method": "lottery-ticket", "rounds": 2}],
)
def test_the_cap_is_of_the_whole_run_in_rounds_too(method: dict[str, Any]) -> None:
    model = zoo.resnet8(num_classes=10, in_channels=1, width=8)
    with torch.no_grad():  # all that would go is in one layer
        model.get_parameter("layer3.0.bn1.weight").mul_(1e-3)
    settings = {**method, "ranking": "gamma", "scope": "global", "round_to": 1, "epochs": 1, "learning_rate": 1e-3}
    done = slimkit.train(model, "digits", 0.25, cap=0.5, onnx=False, **settings)
    shares = [1 - group.after / group.before for group in done.report.groups]
    assert max(shares) == 0.5


@pytest.mark.long
@pytest.mark.parametrize("ratio", [0.3, 0.5])
@pytest.mark.parametrize(
    "method", [{"method": "network-slimming", "passes": 6}, {"method": "lottery-ticket", "rounds": 10}]
)
def test_rounds_remove_what_was_asked_for_however_many_they_are(method: dict[str, Any], ratio: float) -> None:
    model = zoo.resnet8(num_classes=10, in_channels=1, width=4)
    settings = {**method, "round_to": 1, "epochs": 1, "batch_size": 1024}
    groups = slimkit.train(model, "digits", ratio, onnx=False, **settings).report.groups
    units = sum(group.before for group in groups)
    assert sum(group.before - group.after for group in groups) == round(ratio * units)


@pytest.mark.long
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"method": "lottery-ticket", "rounds": 18, "ratio": 0.3, "round_to": 1},
            "^rounds is 18: .* 0.3, that is 17 channels",
        ),
        (
            {"method": "network-slimming", "passes": 40, "ratio": 0.3, "round_to": 1},
            "^passes is 40: .*Give fewer passes",
        ),
        ({"method": "lottery-ticket", "rounds": 5, "ratio": 0.3, "round_to": 4}, "^rounds is 5: .*round_to=1"),
        ({"method": "lottery-ticket", "rounds": 2, "max_macs": 0.5}, "^rounds is 2: rounds share out a ratio"),
        ({"method": "lottery-ticket", "ratio": 0.001}, "^ratio is 0.001: nothing would be removed"),
        ({"method": "network-slimming", "ratio": 0.97}, "^ratio is 0.97: .* 0.857 is the most"),
        ({"method": "factorised", "rank_share": 0.01}, "^51 params were asked for"),
        ({"method": "factorised", "rank_share": 0.01, "chosen_by": "macs"}, "^495 macs were asked for"),
        ({"method": "factorised", "rank_share": 1.0}, "^no layer is cheaper as two thin ones"),
        *(
            ({"method": "scratch", "control": control, **settings}, said)
            for control in ("fine-tune", "random-channels")
            for settings, said in [
                ({"ratio": 0.97}, "^ratio is 0.97"),
                ({"max_macs": 0.001}, "^max_macs is 49.57"),
                ({"kept": (1, 2)}, r"^kept is \[1, 2\]"),
                ({"like": "nowhere"}, "^nowhere: no report"),
            ]
        ),
    ],
)
def test_what_no_weights_can_mend_is_refused_before_training(settings: dict[str, Any], said: str) -> None:
    steps: list[int] = []
    model = zoo.resnet8(num_classes=10, in_channels=1, width=4)
    with pytest.raises(SlimkitError, match=f"(?s){said}"):
        slimkit.train(model, "digits", epochs=1, watchers=[lambda now: steps.append(now.step)], **settings)
    assert not steps


class Small(nn.Module):
    """Two convolutions, the first one made by the test, and logits that come in a nest."""

    def __init__(self, first: nn.Module, nest: Any = lambda logits, extra: logits) -> None:
        super().__init__()
        self.first, self.norm, self.second = first, nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, padding=1)
        self.norm2, self.head, self.extra, self.nest = nn.BatchNorm2d(8), nn.Linear(8, 10), nn.Linear(8, 10), nest

    def forward(self, images: torch.Tensor) -> Any:
        rows = self.norm2(self.second(self.norm(self.first(images)).relu())).relu().mean((2, 3))
        return self.nest(self.head(rows), self.extra(rows))


COMPUTED = {
    "early-bird": {"ratio": 0.5, "deadline": 0.5},
    "progressive": {"ratio": 0.5},
    "factorised": {"rank_share": 0.95},
    **dict.fromkeys(("edge-popup", "weight-agnostic", "weight-ticket")),
}


@pytest.mark.long
@pytest.mark.parametrize(("method", "settings"), COMPUTED.items())
@pytest.mark.parametrize("normed", [nn.utils.parametrizations.weight_norm, nn.utils.weight_norm])
@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_layers_that_compute_their_weight_are_trained_or_refused_before(
    method: str, settings: Any, normed: Any
) -> None:
    steps: list[int] = []
    given: Any = {"method": method, "epochs": 1, "batch_size": 512, "watchers": [lambda now: steps.append(now.step)]}
    model = Small(normed(nn.Conv2d(1, 8, 3, padding=1)))
    if settings is not None:
        assert slimkit.train(model, "digits", **given, **settings).report.after.params
        return
    with pytest.raises(MaskError, match="^first computes its weight .* makes the weight a plain one"):
        slimkit.train(model, "digits", **given)
    assert not steps


@pytest.mark.parametrize("method", [m.name for m in METHODS.values() if not m.removes])
@pytest.mark.parametrize(
    "nest", [lambda logits, extra: (logits, extra), lambda logits, extra: {"out": logits, "aux": extra}]
)
def test_logits_may_come_in_a_nest(method: str, nest: Any) -> None:
    model = Small(nn.Conv2d(1, 8, 3, padding=1), nest)
    settings: Any = {"rank_share": 0.95} if method == "factorised" else {}
    result = slimkit.train(model, "digits", method=method, epochs=1, batch_size=512, onnx=False, **settings)
    assert set(result.model(torch.zeros(2, 1, 8, 8))) and result.report.after.accuracy


@pytest.mark.long
@pytest.mark.parametrize("method", [{"method": "early-bird", "at": 1}, {"method": "network-slimming"}])
@pytest.mark.parametrize(
    ("asked", "ran"),
    [
        ({"precision": "bf16"}, "bf16"),
        ({"precision": "fp32"}, "fp32"),
        ({"precision": "fp32", "search_precision": "bf16"}, "bf16"),
        ({"precision": "bf16", "search_precision": "fp32"}, "fp32"),
        ({"precision": "bf16", "search_precision": "auto"}, "bf16"),
    ],
)
def test_the_report_says_what_a_search_ran_in(method: dict[str, Any], asked: dict[str, str], ran: str) -> None:
    model = zoo.resnet8(num_classes=10, in_channels=1, width=4)
    report = slimkit.train(model, "digits", 0.5, epochs=1, batch_size=512, onnx=False, **method, **asked).report
    assert report.cost.search_precision == report.search.precision == ran


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("search", ["auto", "fp32", "bf16"])
def test_a_search_computes_in_the_precision_that_it_is_given(precision: str, search: str) -> None:
    made: list[torch.dtype] = []

    class Told(nn.Conv2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = super().forward(x)
            if self.training:
                made.append(y.dtype)
            return y

    model = nn.Sequential(
        Told(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)
    )
    settings: Any = {"precision": precision, "search_precision": search, "onnx": False}
    method: Any = {"method": "early-bird", "at": 1}
    slimkit.train(model, "digits", 0.5, epochs=1, batch_size=512, round_to=1, **method, **settings)
    ran = torch.bfloat16 if (precision if search == "auto" else search) == "bf16" else torch.float32
    assert made[-2:] == [ran, ran]  # the steps of the search; before them it was tried whether it can be trained


LEAST = {"early-bird": {"at": 1, "ratio": 0.5}, "factorised": {"rank_share": 0.95}}


@pytest.mark.parametrize("method", METHODS)
def test_every_training_of_a_method_computes_in_the_precision_of_the_run(method: str) -> None:
    made: list[torch.dtype] = []

    class Told(nn.Conv2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = super().forward(x)
            if self.training and torch.is_grad_enabled():
                made.append(y.dtype)
            return y

    model = Small(Told(1, 8, 3, padding=1))
    settings: Any = LEAST.get(method, {"ratio": 0.5} if METHODS[method].removes else {})
    settings = {"round_to": 1, **settings} if METHODS[method].removes else settings
    settings = {"method": method, "epochs": 2, "batch_size": 512, "precision": "bf16", "onnx": False, **settings}
    run = slimkit.train(model, "digits", **settings)
    assert set(made[1:]) == {torch.bfloat16}  # the first is the step that is done on a copy, before anything else
    assert run.report.cost.precision == "bf16" and run.report.search.precision in (None, "bf16")
