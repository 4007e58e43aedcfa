"""Functions of the user's own, by name: `package.module:function` or `path/to/file.py:function`."""

import contextlib
import functools
import importlib
import importlib.util
import inspect
import re
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from slimkit.errors import SlimkitError

_OURS = str(Path(__file__).parent)
_NETWORK = str(Path("torch", "nn", "modules", "module.py"))
_LIBRARY = sysconfig.get_paths()["stdlib"]
_INSTALLED = {"site-packages", "dist-packages"}  # folders
_folders: set[str] = set()  # that functions were looked for in


def find(name: str, given: str, error: type[SlimkitError]) -> Callable[..., Any]:
    """Import a function, without calling it; its module is imported, so it runs.

    Args:
        name: `package.module:function`, looked for in the current folder too, or `file.py:function`.
        given: how messages begin, such as "task 'x.py:make'".
        error: what is raised.

    Raises:
        SlimkitError: of the kind `error`: module, file or function is not there, or fails to import.
    """
    refuse_url(name, given, error)
    place, _, attribute = name.rpartition(":")
    in_file = place.endswith(".py")
    folder = str(Path(place).resolve().parent) if in_file else str(Path.cwd())
    _folders.add(folder)
    with on_path(folder):
        found: Any = _run_file(place, given, error) if in_file else _import(place, given, error)
    for part in attribute.split("."):
        if not hasattr(found, part):
            offered = [key for key, value in vars(found).items() if callable(value) and not key.startswith("_")]
            raise error(
                f"{given}: {place} has no {part!r}.\n"
                f"  It offers: {', '.join(offered[:12]) or 'nothing that can be called'}."
            )
        found = getattr(found, part)
    if not callable(found):
        raise error(f"{given}: is {type(found).__name__}, not a function.\n  Wrap it: def make(): return {attribute}")
    function: Callable[..., Any] = found
    if not inspect.isroutine(found):  # a class, or an object that can be called, is looked at as what it is
        return function

    @functools.wraps(function)
    def beside(*given: Any, **named: Any) -> Any:
        with on_path(folder):  # it may import what lies beside it only now
            return function(*given, **named)

    return beside


@contextlib.contextmanager
def called(given: str, error: type[SlimkitError]) -> Iterator[None]:
    """Say what a function of the user's own raises in the block that calls it; that it exits is no end of ours.

    Args:
        given: how the message begins.
        error: what is raised.
    """
    try:
        yield
    except SlimkitError:
        raise
    except (Exception, SystemExit) as problem:
        where = place(problem)
        there = f" ({where})" if where else ""
        raise error(f"{given}: calling it failed with {described(problem)}{there}.\n  Mend the function") from problem


def failure(problem: BaseException) -> str | None:
    """Say where code of the user's own raised an exception, and what; None where it was ours."""
    where = place(problem)
    return where and f"{where}: your own code failed with {described(problem)}.\n  Mend it there"


def described(problem: BaseException) -> str:
    """Return the kind of an exception and its message, of several lines the last: what workers of loaders pass on."""
    lines = str(problem).strip().splitlines()
    if _of_worker(problem):
        return lines[-1]
    return f"{type(problem).__name__}: {lines[0] if lines else 'no message'}"


def place(problem: BaseException) -> str | None:
    """Return the innermost line of code of the user's own in which an exception was raised, None where it was ours.

    So it may be in a network: what it is given, and its weights, are ours.
    """
    found, within = None, False
    frames = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(problem.__traceback__)]
    frames += re.findall(r'File "(.+?)", line (\d+)', str(problem)) if _of_worker(problem) else []
    for file, line in frames:
        if file.startswith(_OURS):
            found, within = None, False
        elif file.endswith(_NETWORK):
            within = True
        elif not within and _is_own(file):
            found = f"{file}, line {line}"
    return found


def _is_own(file: str) -> bool:
    """Tell whether a file lies where functions were found, and is no library's."""
    installed = file.startswith(_LIBRARY) or not _INSTALLED.isdisjoint(Path(file).parts)
    return not installed and any(Path(file).is_relative_to(folder) for folder in _folders)


def _of_worker(problem: BaseException) -> bool:
    """Tell whether a worker process of a PyTorch loader raised it: its traceback is in the message."""
    return "in DataLoader worker process" in str(problem)


def is_url(name: str) -> bool:
    """Tell whether a name is a URL; a path makes one slash of its two."""
    return re.match(r"(file|https?|ftp|s3|gs|hf):/", name) is not None


def refuse_url(name: str, given: str, error: type[SlimkitError]) -> None:
    """Refuse what is named by a URL; the arguments and the error are those of `find`."""
    if is_url(name):
        raise error(f"{given}: is a URL, and nothing is fetched from there.\n  Give a path on this machine")


def _import(place: str, given: str, error: type[SlimkitError]) -> Any:
    try:
        return importlib.import_module(place)
    except (Exception, SystemExit) as problem:
        raise error(
            f"{given}: importing {place} failed with {type(problem).__name__}: {problem}.\n"
            "  Check the name, and that it is installed or lies in the current folder."
        ) from problem


def _run_file(place: str, given: str, error: type[SlimkitError]) -> Any:
    path = Path(place).expanduser()
    if not path.is_file():
        raise error(f"{given}: there is no file {place}.\n  Check the path.")
    module_name = f"slimkit_own_{re.sub(r'[^A-Za-z0-9]', '_', str(path.resolve()))}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses and pickle look their module up
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as problem:
        del sys.modules[module_name]
        raise error(
            f"{given}: running {place} failed with {type(problem).__name__}: {problem}.\n  Mend the file."
        ) from problem
    return module


@contextlib.contextmanager
def on_path(folder: str) -> Iterator[None]:
    """Look in a folder first."""
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(folder)
