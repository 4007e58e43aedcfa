"""Every code block of README.md and docs/ is run, in the order of its page, in a folder like a checkout.

A comment before a block says more: <!-- slow --> puts it into the slow lane, <!-- shown: WHY --> leaves it out,
<!-- needs: PACKAGE --> leaves it out where that package is not installed.
"""

import json
import os
import pkgutil
import re
import shlex
import subprocess
import sys
import tomllib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt

from slimkit import cli
from slimkit.channels.operators import OPERATORS
from slimkit.methods import METHODS
from slimkit.selection.ranking import CRITERIA

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]
MARK = re.compile(r"<!-- (slow|shown|needs)(?:: (.+?))? -->")


@dataclass(frozen=True)
class Block:
    """A code block of a page: its language, its text, the page's line it begins on, its mark, what that says."""

    language: str
    text: str
    line: int
    mark: str | None
    words: str | None = None

    @property
    def foreign(self) -> bool:
        """Whether it is about another library."""
        return self.mark == "needs"


def blocks(page: Path) -> Iterator[Block]:
    before = ""
    for token in MarkdownIt().parse(page.read_text()):
        if token.type == "fence":
            assert token.map is not None
            mark = MARK.fullmatch(before.strip())
            yield Block(token.info, token.content, token.map[0] + 1, *((mark[1], mark[2]) if mark else (None,)))
        before = token.content if token.type == "html_block" else ""


def run_python(block: Block, page: Path, names: dict[str, Any]) -> None:
    exec(compile("\n" * block.line + block.text, str(page), "exec"), names)


def run_shell(text: str) -> None:
    """Run a line after another; one that calls slimkit and nothing else is run here, which saves its imports."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["slimkit"] and not {"|", "||", ">", "&&", ";"} & set(words):
            assert cli.main(words[1:]) == 0, line
        elif words:
            path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
            done = subprocess.run(["bash", "-euo", "pipefail", "-c", line], env=os.environ | {"PATH": path})
            assert done.returncode == 0, line


def run(block: Block, page: Path, names: dict[str, Any]) -> None:
    match block.language:
        case "python":
            run_python(block, page, names)
        case "sh":
            run_shell(block.text)
        case "console":  # with what the command printed
            run_shell("\n".join(line[2:] for line in block.text.splitlines() if line.startswith("$ ")))
        case "toml":
            tomllib.loads(block.text)
        case "json":
            json.loads(block.text)
        case "text":
            pass
        case language:
            pytest.fail(f"{page.name}, line {block.line}: no way to run a block of {language!r}")


def lanes() -> Iterator[Any]:
    """List the pages that have blocks; one with slow blocks is run in both lanes, in the slow one with them."""
    for page in PAGES:
        found = [block for block in blocks(page) if block.mark != "shown"]
        found = [block for block in found if not block.foreign or find_spec(str(block.words))]
        name = str(page.relative_to(ROOT))
        if any(block.mark != "slow" for block in found):
            yield pytest.param(page, [b for b in found if b.mark != "slow"], id=name)
        if any(block.mark == "slow" for block in found):
            yield pytest.param(page, found, id=f"{name}, all", marks=pytest.mark.slow)


@pytest.fixture
def tables_restored() -> Iterator[None]:
    """Take out again what a page adds to the tables of slimkit."""
    tables: list[dict[Any, Any]] = [OPERATORS, CRITERIA, METHODS]
    before = [dict(table) for table in tables]
    yield
    for table, entries in zip(tables, before, strict=True):
        table.clear()
        table.update(entries)


@pytest.mark.usefixtures("tables_restored")
@pytest.mark.parametrize(("page", "found"), list(lanes()))
def test_every_block_runs(page: Path, found: list[Block], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("model_zoo", "tools", "docs", "tests"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr("slimkit.runs.cut.drop._QUICK", 2)
    monkeypatch.setattr("slimkit.runs.cut.drop._LOOKS", 1)
    names: dict[str, Any] = {"__name__": page.stem}
    for block in found:
        with warnings.catch_warnings():
            if block.foreign:  # what another library warns of is its own
                warnings.simplefilter("ignore")
            run(block, page, names)


def test_a_mark_stands_before_a_block() -> None:
    for page in PAGES:
        marked = [block for block in blocks(page) if block.mark]
        assert len(marked) == len(MARK.findall(page.read_text())), f"{page.name}: a mark that marks nothing"


def test_what_is_only_shown_says_why_and_is_an_installation() -> None:
    for page in PAGES:
        reasons = re.findall(r"<!-- shown: (.*?) -->", page.read_text())
        shown = [block for block in blocks(page) if block.mark == "shown"]
        assert len(reasons) == len(shown)


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_tables_are_those_of_their_rows() -> None:
    check = [sys.executable, ROOT / "tools" / "results.py", "--check"]
    done = subprocess.run(check, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_the_reference_describes_is_there() -> None:
    for name in re.findall(r"^::: (\S+)$", (ROOT / "docs/reference/api.md").read_text(), re.M):
        assert pkgutil.resolve_name(name) is not None
