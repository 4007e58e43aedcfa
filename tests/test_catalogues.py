"""What can be chosen by name stands in two lists: one that settings read without torch, and one of what it is.

And what is a file of its kind stands in the list of that kind, or it would never be used.
"""

import importlib
import pkgutil
from types import ModuleType

import pytest

from slimkit import data, methods
from slimkit.channels.operators import OPERATORS
from slimkit.errors import DataError
from slimkit.measure.engines import ENGINES
from slimkit.report import page, sections
from slimkit.results import Report
from slimkit.selection import ranking
from slimkit.settings import METHODS, RunSpec
from slimkit.settings.command_line import ENGINES as BY_FLAG
from slimkit.settings.data import DATA_SETS
from slimkit.settings.run import RANKINGS, RUNTIMES, TRACERS


@pytest.mark.parametrize(
    ("named", "there"),
    [
        (RANKINGS, ranking.CRITERIA),
        (RUNTIMES, ENGINES),
        (METHODS, methods.METHODS),
        (DATA_SETS, data.NAMES),
        ((*TRACERS, *RUNTIMES), BY_FLAG),
    ],
    ids=["rankings", "engines", "methods", "data sets", "flags"],
)
def test_what_settings_name_is_there_and_the_other_way_round(named: tuple[str, ...], there: dict[str, object]) -> None:
    assert sorted(named) == sorted(there)


def modules(package: ModuleType) -> list[ModuleType]:
    return [
        importlib.import_module(f"{package.__name__}.{found.name}") for found in pkgutil.iter_modules(package.__path__)
    ]


def test_every_ranking_that_has_a_file_is_in_the_catalogue() -> None:
    files = {found for found in modules(ranking) if hasattr(found, "scores")}
    assert {criterion.scores for criterion in ranking.CRITERIA.values()} == {found.scores for found in files}


def test_every_method_that_has_a_file_is_in_the_catalogue() -> None:
    files = [found.METHOD for found in modules(methods) if hasattr(found, "METHOD")]
    assert sorted(method.name for method in files) == sorted(methods.METHODS)


def test_every_section_of_a_run_is_on_its_page() -> None:
    of_a_run = {
        part
        for found in modules(sections)
        for name, part in vars(found).items()
        if callable(part)
        and not name.startswith("_")
        and getattr(part, "__module__", "") == found.__name__
        and getattr(part, "__annotations__", {}).get("report") is Report
        and list(getattr(part, "__annotations__", {})) == ["report", "return"]
    }
    assert of_a_run == set(page.SECTIONS)


def test_every_named_data_set_opens_or_says_what_is_missing(tmp_path) -> None:  # type: ignore[no-untyped-def]
    for name in data.NAMES:
        try:
            opened = data.open(name, root=tmp_path)
        except DataError as error:
            assert str(tmp_path) in str(error) and "\n  " in str(error)
        else:
            assert opened.name == name


def test_every_operator_rule_is_a_function_of_an_operator() -> None:
    assert OPERATORS and all(callable(rule) for rule in OPERATORS.values())


def test_the_default_of_every_choice_is_one_of_it() -> None:
    assert RunSpec().ranking in RANKINGS and RunSpec().runtime in RUNTIMES and RunSpec().tracer in TRACERS
