"""The layout of slimkit: imports point down the levels, files stay small, no drawer for odds and ends."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "slimkit"
LAYERS = (
    "errors provenance _version modules",
    "settings",
    "channels models data",
    "results",
    "export measure training",
    "selection",
    "surgery",
    "recovery",
    "report",
    "methods runs",
    "cli",
)
LEVEL = {part: level for level, parts in enumerate(LAYERS) for part in parts.split()}
DRAWERS = {"util", "utils", "common", "base", "core", "helper", "helpers", "misc"}


def imported_parts(source: str) -> set[str]:
    """First name under `slimkit.` of everything a file imports from the package; `__version__` is no part."""
    nodes = list(ast.walk(ast.parse(source)))
    names = {f"{n.module}.{a.name}" for n in nodes if isinstance(n, ast.ImportFrom) for a in n.names}
    names |= {a.name for n in nodes if isinstance(n, ast.Import) for a in n.names}
    parts = {name.split(".")[1] for name in names if name.startswith("slimkit.")}
    return {part for part in parts if not part.startswith("__")}


def wrong_imports(part: str, source: str) -> set[str]:
    """What a file of a part imports that is not below the part."""
    return {p for p in imported_parts(source) - {part} if LEVEL[p] >= LEVEL[part]}


def test_imports_point_down() -> None:
    for file in PACKAGE.rglob("*.py"):
        part = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if not part.startswith("__"):
            wrong = wrong_imports(part, file.read_text())
            assert not wrong, f"{file.name}: {part} imports {wrong}, which are not below it in LAYERS"


@pytest.mark.parametrize(
    "source",
    [
        "import slimkit.cli",
        "from slimkit.cli import main",
        "from slimkit import cli",
        "def f():\n  import slimkit.cli",
    ],
)
def test_an_upward_import_is_seen_in_every_form(source: str) -> None:
    assert wrong_imports("channels", source) == {"cli"}
    assert wrong_imports("cli", "from slimkit import errors, __version__") == set()


def test_every_part_has_a_level() -> None:
    parts = {f.relative_to(PACKAGE).parts[0].removesuffix(".py") for f in PACKAGE.rglob("*.py")}
    assert {p for p in parts if not p.startswith("__")} <= LEVEL.keys()


def test_files_stay_small() -> None:
    sizes = {f.name: len(f.read_text().splitlines()) for f in PACKAGE.rglob("*.py")}
    assert max(sizes.values()) <= 400, f"split these: {[n for n in sizes if sizes[n] > 400]}"


def test_no_drawers() -> None:
    assert not {f.stem for f in PACKAGE.rglob("*")} & DRAWERS
