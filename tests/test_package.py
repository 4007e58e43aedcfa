"""The package as people get it: its surface, and a wheel that works outside the checkout."""

import os
import re
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

import slimkit
from slimkit import errors

ROOT = Path(__file__).parents[1]
HOSTILE = {"model_zoo/__init__.py", "zoo.py", "zoo/__init__.py"}  # names that a user's own folder may bear


def run(*words: str | Path, cwd: Path, **environment: str) -> str:
    """Run a command that must succeed, and give what it printed."""
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(words, cwd=cwd, env=clean | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder outside the checkout, with modules of a user's own that fail when they are imported."""
    for name in HOSTILE:
        file = tmp_path / "elsewhere" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("raise RuntimeError('not yours')\n")
    return tmp_path / "elsewhere"


def test_what_there_is_is_listed_and_there() -> None:
    assert dir(slimkit) == sorted(slimkit.__all__)  # type: ignore[attr-defined]
    for name in dir(slimkit):
        assert getattr(slimkit, name) is not None


def test_what_messages_and_pages_tell_to_call_is_there_after_import_slimkit_alone(tmp_path: Path) -> None:
    files = [*(ROOT / "slimkit").rglob("*.py"), *(ROOT / "docs").rglob("*.md")]
    told = {name for file in files for name in re.findall(r"\bslimkit(?:\.\w+){2,}(?=\()", file.read_text())}
    assert len(told) > 5
    names = sorted(told, reverse=True)  # trackers first, before anything else has imported them
    run(sys.executable, "-c", "\n".join(["import slimkit", *names]), cwd=tmp_path, PYTHONPATH=str(ROOT))


def test_every_kind_of_error_is_at_the_top() -> None:
    kinds = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception)}
    assert {"SlimkitError", *kinds} <= set(dir(slimkit))


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(AttributeError, match="compres"):
        slimkit.compres  # type: ignore[attr-defined]  # noqa: B018


def test_importing_costs_nothing(tmp_path: Path) -> None:
    heavy = "import slimkit, sys; print(*({'torch', 'numpy', 'onnx', 'matplotlib'} & set(sys.modules)))"
    assert run(sys.executable, "-c", heavy, cwd=tmp_path, PYTHONPATH=str(ROOT)) == "\n"


def test_a_folder_of_the_users_own_does_not_stand_in_the_way(elsewhere: Path) -> None:
    code = "import slimkit; print(type(slimkit.load(slimkit.zoo.CHECKPOINTS['resnet8-digits'])).__name__)"
    assert run(sys.executable, "-c", code, cwd=elsewhere, PYTHONPATH=str(ROOT)) == "ResNet\n"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of a fresh environment with the wheel; the packages that it needs are those of this one."""
    folder = tmp_path_factory.mktemp("package")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    run(*pip, "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", "wheels", ROOT, cwd=folder)
    (wheel,) = (folder / "wheels").glob("slimkit-*.whl")
    venv.create(folder / "venv", with_pip=False, symlinks=True)
    binaries = folder / "venv" / "bin"
    run(*pip, "--python", binaries / "python", "install", "-q", "--no-deps", "--no-index", wheel, cwd=folder)
    (packages,) = (folder / "venv").glob("lib/python*/site-packages")
    packages.joinpath("borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")  # an editable install stays out
    return binaries


@pytest.mark.long
def test_the_wheel_works_outside_the_checkout(installed: Path, elsewhere: Path) -> None:
    code = "import slimkit; print(slimkit.__file__, slimkit.zoo.CHECKPOINTS['resnet8-digits'], sep='\\n')"
    place, checkpoint = run(installed / "python", "-c", code, cwd=elsewhere).splitlines()
    assert Path(place).is_relative_to(installed.parent)
    assert Path(checkpoint).is_relative_to(Path(place).parent)
    out = run(installed / "slimkit", "inspect", checkpoint, cwd=elsewhere)
    assert "resnet8" in out


def test_the_wheel_holds_what_is_needed_and_no_more(installed: Path) -> None:
    (packages,) = installed.parent.glob("lib/python*/site-packages")
    here = {f.relative_to(ROOT / "slimkit") for f in tracked("slimkit")}
    here |= {Path("zoo") / f.relative_to(ROOT / "model_zoo") for f in tracked("model_zoo")}
    there = {f.relative_to(packages / "slimkit") for f in (packages / "slimkit").rglob("*") if f.is_file()}
    assert {f for f in there if f.suffix != ".pyc"} == here - {Path("zoo")}
    assert {f.name for f in packages.iterdir() if not f.name.startswith("slimkit")} == {"borrowed.pth"}


def tracked(folder: str) -> list[Path]:
    names = run("git", "ls-files", "--cached", "--others", "--exclude-standard", folder, cwd=ROOT).splitlines()
    return [ROOT / name for name in names]
