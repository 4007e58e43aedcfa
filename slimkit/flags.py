"""Options made of settings, and what all commands share: progress while they work, JSON or tables at the end."""

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import Field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_origin

import click

from slimkit.errors import SpecError
from slimkit.record import Record
from slimkit.settings import Settings
from slimkit.settings.command_line import ENGINES
from slimkit.settings.words import printable

if TYPE_CHECKING:
    from slimkit.report.progress import Screen

Shown = TypeVar("Shown", bound=Record)
Function = TypeVar("Function", bound=Callable[..., Any])


def _flag(entry: Field[Any]) -> str:
    flag = f"--{entry.name.replace('_', '-')}"
    return f"{flag}/--no-{flag[2:]}" if entry.type is bool and entry.default else flag


def _look(entry: Field[Any], hidden: bool) -> dict[str, Any]:
    default = "" if entry.default in (None, "", ()) or entry.type is bool else f" [{entry.default}]"
    look = {"default": None, "hidden": hidden, "help": entry.metadata["help"] + default}
    if get_origin(entry.type) is tuple:
        look |= {"multiple": True, "callback": lambda context, option, words: ",".join(words) or None}
    elif entry.name == "input_shape":  # of each input
        look |= {"multiple": True, "callback": lambda context, option, words: " ".join(words) or None}
    return look | ({"is_flag": True} if entry.type is bool else {"metavar": "VALUE"})


class SettingsCommand(click.Command):
    """A command whose help lists, after its options, the settings that are not among them."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_options(ctx, formatter)
        rest = [option for option in self.params if isinstance(option, click.Option) and option.hidden]
        listed = [(option.opts[-1][2:], option.help) for option in rest if option.help]
        if listed:
            with formatter.section("More, each as --NAME VALUE, --set NAME=VALUE or in the settings file"):
                formatter.write_dl(listed)


def settings_of(
    kind: type[Settings], shown: Sequence[str], rest: bool = True, config: bool = True
) -> Callable[[Function], Function]:
    """Make an option of every setting of a spec; those not in `shown` are listed after the options.

    Without `rest` only those in `shown` become options; without `config` the settings file is none of them.
    """

    def add(command: Function) -> Function:
        by_name = {entry.name: entry for entry in fields(kind) if get_origin(entry.type) is not Mapping}  # no tables
        engines = "tracer or runtime by its name: " + ", ".join(ENGINES)
        if config:
            click.option("--engine", multiple=True, metavar="NAME", hidden=True, help=engines)(command)
        click.option("--set", "pairs", multiple=True, metavar="NAME=VALUE", help="Any setting, by name.")(command)
        trust = "Let the settings file name code to run: arch, data, trust_pickle."
        click.option("--trust-config", is_flag=True, hidden=True, help=trust)(command)
        if config:
            click.option("--config", type=Path, metavar="FILE", help="Settings from a file such as run.toml.")(command)
        for name in reversed([*shown, *(name for name in by_name if rest and name not in shown)]):
            click.option(_flag(by_name[name]), name, **_look(by_name[name], hidden=name not in shown))(command)
        return command

    return add


def input_shapes(ctx: click.Context, option: click.Parameter, words: tuple[str, ...]) -> Any:
    """Read C,H,W, or name=C,H,W of each of several inputs."""
    from slimkit.settings.data import DataSpec

    try:
        return DataSpec(input_shape=" ".join(words) or None).shapes
    except SpecError as error:
        raise click.BadParameter(str(error)) from error


@contextmanager
def working() -> Iterator["Screen"]:
    """Show progress on stderr; keep stdout free of what libraries print."""
    from slimkit.report import progress

    with redirect_stdout(sys.stderr), progress.shown(first_of_several()) as show_progress:
        yield show_progress


def show(found: Shown, as_json: bool, table: Callable[[Shown], Any]) -> None:
    """Print what a command found as JSON, or as tables."""
    if as_json:
        from slimkit.results import report_file

        click.echo(printable(report_file.to_json(found.to_dict())), nl=False)
        return
    from rich.console import Console

    # Not cropped: a command that is to be copied stays one line, however long.
    Console().print(table(type(found).from_dict(printable(found.to_dict()))), crop=False)


def first_of_several() -> bool:
    """Tell whether this process speaks for the run: the only one, or rank 0 of a distributed run."""
    return os.environ.get("RANK", "0") == "0"
