"""Methods as a registry: a name is listed in every place or in none, and settings are said once."""

import dataclasses
from pathlib import Path

import pytest

from slimkit import methods
from slimkit.methods import METHODS
from slimkit.runs.plan import plan
from slimkit.settings import METHODS as NAMES
from slimkit.settings import TrainSpec, from_toml, to_toml

FOLDER = Path(methods.__file__).parent


def test_the_names_of_the_help_are_those_of_the_methods():
    assert tuple(METHODS) == NAMES
    assert all(name == method.name for name, method in METHODS.items())


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


def test_settings_of_one_name_are_of_one_kind_in_all_methods():
    kinds: dict[str, set[object]] = {}
    for method in METHODS.values():
        for entry in dataclasses.fields(method.config):
            kinds.setdefault(entry.name, set()).add(entry.type)
    assert not {name: kind for name, kind in kinds.items() if len(kind) > 1}
