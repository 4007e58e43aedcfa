"""The house: imports point down its floors (import-linter; pyproject.toml has them), files stay small, names own."""

import ast
import importlib
import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "slimkit"
DRAWERS = {"util", "utils", "common", "base", "core", "helper", "helpers", "misc"}
NOUNS = {"training"}  # of the field, though they end like a gerund


def test_imports_keep_to_the_contracts() -> None:
    # a process of its own: import-linter switches off every logger that is there when it starts
    check = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))"
    command = [sys.executable, "-c", check]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr


def test_files_stay_small() -> None:
    sizes = {f.name: len(f.read_text().splitlines()) for f in PACKAGE.rglob("*.py")}
    assert max(sizes.values()) <= 400, f"split these: {[n for n in sizes if sizes[n] > 400]}"


def test_no_drawers() -> None:
    assert not {f.stem for f in PACKAGE.rglob("*")} & DRAWERS


def test_rooms_are_named_for_what_they_own() -> None:
    gerunds = {f.stem for f in PACKAGE.iterdir() if f.stem.endswith("ing")}
    assert gerunds == NOUNS


def test_no_two_classes_bear_one_name() -> None:
    places: dict[str, list[str]] = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(str(file.relative_to(PACKAGE)))
    assert {name: files for name, files in places.items() if len(files) > 1} == {}


def test_tools_ask_for_names_that_exist() -> None:
    """Nothing else runs most of them, so a name that moves would leave them behind."""
    missing = []
    for tool in sorted((ROOT / "tools").glob("*.py")):
        for node in ast.walk(ast.parse(tool.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "slimkit":
                module = importlib.import_module(node.module)
                missing += [f"{tool.name}: {node.module}.{name.name}" for name in node.names if not there(module, name)]
    assert missing == []


def there(module: ModuleType, name: ast.alias) -> bool:
    return hasattr(module, name.name) or importlib.util.find_spec(f"{module.__name__}.{name.name}") is not None


def test_tests_start_without_what_is_optional() -> None:
    """`pip install .[test]` is what the README names; a file that imports more is an error there, not a skip."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"] | {"": project["dependencies"]}
    given = set(re.findall(r"slimkit\[(.*)\]", " ".join(extras["test"]))[0].split(",")) | {"test", ""}
    named = {name: {re.split(r"[\[<>=]", line)[0].replace("-", "_") for line in extras[name]} for name in extras}
    absent = set().union(*named.values()) - set().union(*(named[name] for name in given))
    assert {"timm", "ultralytics", "lightning"} <= absent
    missing = [
        f"{file.name}: {name}"
        for file in sorted((ROOT / "tests").glob("*.py"))
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
        if name.split(".")[0] in absent
    ]
    assert missing == []
