"""The `slimkit` command: flags in, one library call, text out.

Nothing heavy is imported before a command runs, so that every help text is there at once.
"""

import errno
import functools
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from slimkit import launcher, model_commands, out_of_memory, own_code
from slimkit._version import __version__
from slimkit.errors import SlimkitError
from slimkit.flags import Function, SettingsCommand, first_of_several, input_shapes, settings_of, show, working
from slimkit.results import study_file
from slimkit.settings import RUNTIMES, CompressSpec, StudySpec, TrainSpec, command_line
from slimkit.settings.output import OutputOptions
from slimkit.settings.words import as_flags, printable

if TYPE_CHECKING:
    from slimkit.runs.result import CommandOutcome

# The settings that most runs vary are shown as options; the others are listed after them.
COMPRESS = ("ratio", "max_macs", "max_latency", "data", "epochs", "arch", "input_shape", "trust_pickle")
TRAIN = ("arch", "data", "method", "ratio", "max_macs", "epochs", "seed")
INSPECT = ("arch", "input_shape", "trust_pickle", "max_memory", "without_bn", "tracer")
_OF_PATHS = (errno.ENAMETOOLONG, errno.ELOOP, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)
STUDY = ("arch", "data", "methods", "ratio", "seeds", "images", "pixels")


def output_options(command: Function) -> Function:
    """Add what every command that writes a folder takes; it comes as one argument, `options`."""

    @functools.wraps(command)
    def gathered(*words: Any, out: Path | None, force: bool, resume: bool, track: Sequence[str], **rest: Any) -> Any:
        return command(*words, options=OutputOptions(out=out, force=force, resume=resume, track=track), **rest)

    click.option("--json", "as_json", is_flag=True, help="Print the report as JSON, and nothing else.")(gathered)
    again = "Go on with the interrupted run of the same settings; say so where it is complete."
    where = "Also log the training to tensorboard (files beside the output) or wandb; may be given twice."
    click.option("--track", multiple=True, metavar="NAME", hidden=True, help=where)(gathered)
    click.option("--resume", is_flag=True, help=again)(gathered)
    click.option("--force", is_flag=True, help="Replace the output folder of an earlier run.")(gathered)
    click.option("--out", type=Path, metavar="DIR", help="Folder to write; default: NAME-slim.")(gathered)
    return cast(Function, gathered)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="slimkit")
def slimkit() -> None:
    """Make convolutional networks narrower for real, with proof and measurements."""


@slimkit.command(cls=SettingsCommand)
@click.argument("checkpoint", type=Path)
@settings_of(CompressSpec, COMPRESS)
@output_options
def compress(checkpoint: Path, options: OutputOptions, as_json: bool, **words: Any) -> None:
    """Shrink a trained network; write ONNX, weights and a report.

    \b
    slimkit compress resnet18.pt --ratio 0.5
    slimkit compress model.pt --max-latency 0.5 --data folder:images --epochs 20
    slimkit compress model.pt --max-latency 0.3,0.5,0.8    # a folder each, and a page with the curve
    """
    specs = command_line.gather_each(CompressSpec, words)
    with working() as progress:
        if len(specs) == 1:
            from slimkit.runs.compress import compress_checkpoint

            outcome = compress_checkpoint(checkpoint, specs[0], options, progress, [progress.watch])
        else:
            from slimkit.runs.sweep import sweep_checkpoint

            found = sweep_checkpoint(checkpoint, specs, options, progress, [progress.watch])
    if len(specs) == 1:
        show_run(outcome, as_json, str(checkpoint))
    else:
        from slimkit.report import table

        show(found.report, as_json, table.sweep_table)
        click.echo(f"Page: {found.folder / 'comparison.html'}", err=as_json)


@slimkit.command(cls=SettingsCommand, context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@settings_of(TrainSpec, TRAIN)
@output_options
@click.pass_context
def train(ctx: click.Context, /, options: OutputOptions, as_json: bool, **words: Any) -> None:
    """Train a network, and make it smaller as a method says; its settings are options too: slimkit methods NAME.

    \b
    slimkit train --arch zoo:resnet20 --data fashion-mnist --ratio 0.5
    slimkit train --arch zoo:resnet20 --data fashion-mnist --method network-slimming --passes 2
    """
    settings, given = command_line.settings_and_words(words)
    given = command_line.together(given, command_line.method_words(ctx.args))
    with working() as progress:
        from slimkit.runs.plan import plan
        from slimkit.runs.train import train_network

        outcome = train_network(plan(settings, given), options, progress, [progress.watch])
    show_run(outcome, as_json)


@slimkit.command(
    cls=SettingsCommand,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    options_metavar="[STUDY.toml] [OPTIONS]",
)
@settings_of(StudySpec, STUDY, config=False)
@click.option("--workers", default="1", metavar="N", help="Processes, 0: none but this; ray or ray://HOST:PORT. [1]")
@click.option("--out", type=Path, metavar="DIR", help="Folder to write; default: FILE or ARCH, and -study.")
@click.option("--resume", is_flag=True, help="Go on with the study in that folder: train what it lacks.")
@click.option("--json", "as_json", is_flag=True, help="Print the arms as lines of JSON, and nothing else.")
@click.pass_context
def study(ctx: click.Context, /, workers: str, out: Path | None, resume: bool, as_json: bool, **words: Any) -> None:
    """Train methods and controls side by side, several seeds each, and say which differences are more than chance.

    \b
    slimkit study study.toml --workers 2
    slimkit study --arch zoo:resnet20 --data fashion-mnist --methods early-bird,scratch --ratio 0.3,0.5 --seeds 3
    """
    file, extra = command_line.file_among(ctx.args)
    spec = command_line.study_of({"config": file, **words}, extra)
    with working() as progress:
        from slimkit.runs import study as studying

        target = out or (Path(f"{file.stem}-study") if file else None)
        found = studying.study(spec, target, resume=resume, workers=workers, progress=progress)
    if as_json:
        click.echo(printable("".join(map(study_file.line, found.arms))), nl=False)
        return
    from rich.console import Console

    from slimkit.report.study_table import study_table

    Console().print(study_table(found.arms, found.notes))
    click.echo(f"Study: {found.folder / studying.PAGE}")


@slimkit.command()
@click.argument("name", required=False)
def methods(name: str | None) -> None:
    """List the methods of train, or the settings of one.

    \b
    slimkit methods early-bird
    """
    with working():
        from slimkit.report import table
        from slimkit.results import Catalogue
        from slimkit.runs.plan import described

        found = Catalogue.from_dict(described(name))
    show(found, False, table.methods_table)


@slimkit.command(cls=SettingsCommand)
@click.argument("checkpoint", type=Path)
@settings_of(CompressSpec, INSPECT, rest=False)
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON, and nothing else.")
def inspect(checkpoint: Path, as_json: bool, **words: Any) -> None:
    """Show which channels can be removed, and why others cannot."""
    spec = command_line.gather(CompressSpec, words, INSPECT)
    with working() as progress:
        from slimkit.runs.inspect import inspect_checkpoint

        found = inspect_checkpoint(checkpoint, spec, progress)
    from slimkit.report import table

    show(found, as_json, table.inspect_tables)


@slimkit.command()
@click.argument("models", type=Path, nargs=-1, required=True, metavar="MODEL.onnx...")
@click.option(
    "--engine", "--runtime", "engines", multiple=True, default=("onnxruntime",), metavar="NAME",
    help=f"{', '.join(RUNTIMES)}; may be given several times.",
)  # fmt: skip
@click.option("--threads", default=1, type=click.IntRange(1), metavar="N", help="Threads of the engine.")
@click.option("--batch", default=1, type=click.IntRange(1), metavar="N", help="Images at once.")
@click.option(
    "--input-shape", multiple=True, callback=input_shapes, metavar="C,H,W",
    help="Of one input, if a file leaves it free; of several name=C,H,W, given several times.",
)  # fmt: skip
@click.option(
    "--table", "file", type=Path, metavar="FILE",
    help="Also time the layers of the one model, and write what they cost here, for compress --latency-table.",
)  # fmt: skip
@click.option("--force", is_flag=True, help="Replace an earlier table.")
@click.option("--json", "as_json", is_flag=True, help="Print the measurements as JSON, and nothing else.")
def bench(
    models: tuple[Path, ...], engines: tuple[str, ...], file: Path | None, force: bool, as_json: bool, **words: Any
) -> None:
    """Measure ONNX models side by side, or write a latency table of one.

    \b
    slimkit bench model.onnx slim.onnx --engine onnxruntime --engine openvino
    slimkit bench model.onnx --table phone.json    # there; here:
    slimkit compress model.pt --max-latency 0.5 --latency-table phone.json
    """
    with working() as progress:
        from slimkit.results import Benchmark
        from slimkit.runs import bench as benching

        if file is None:
            found = Benchmark(models=tuple(benching.bench(models, engines, **words, progress=progress)))
        else:
            path, engine = benching.one_model(models, engines)
            rows, made = benching.make_table(path, file, engine, **words, force=force, progress=progress)
            found = Benchmark(models=tuple(rows), table=made.summary(file))
    from slimkit.report import table

    show(found, as_json, table.bench_table)


@slimkit.command()
@click.argument("folders", type=Path, nargs=-1, required=True, metavar="DIR...")
@click.option(
    "--out",
    type=Path,
    metavar="FILE",
    help="Page to write; default: report.html or study.html in DIR, comparison.html.",
)
@click.option("--force", is_flag=True, help="Replace an earlier page.")
def report(folders: tuple[Path, ...], out: Path | None, force: bool) -> None:
    """Write the page of a run again, or one that compares several runs."""
    with working() as progress:
        from slimkit.runs.pages import rebuilt

        path = rebuilt(folders, out, force, progress)
    click.echo(path)


def show_run(outcome: "CommandOutcome", as_json: bool, checkpoint: str = "") -> None:
    """Print how a run ended, and where its report lies; `checkpoint`: path of its network, as it was given."""
    if outcome.report is None or not first_of_several():
        return
    from slimkit.report import table

    if outcome.before:
        click.echo(
            f"slimkit: {printable(str(outcome.folder))}: this run is complete, nothing was left to do.", err=True
        )
    show(outcome.report, as_json, functools.partial(table.run_table, checkpoint=checkpoint))
    if not as_json:
        click.echo(f"Report: {outcome.folder / 'report.html'}")


for finished in (model_commands.evaluate, model_commands.export):
    slimkit.add_command(finished)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and give its exit status.

    0: done; 2: the user can mend it (one message on stderr); 130: interrupted; 143: terminated. Anything else
    is a bug of ours and leaves as an exception, which Python ends with a traceback and 1.
    """
    words = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    if argv is None:  # of this process's own: those that it starts take no file in the current folder for a library
        os.environ["PYTHONSAFEPATH"] = "1"
    with streams():
        return run(words)


def run(words: Sequence[str]) -> int:
    """Run the command with streams that can be written to; see `main`."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # of characters that an ASCII terminal lacks
    try:
        with terminable():
            slimkit.main(list(words), prog_name="slimkit", standalone_mode=False)
        sys.stdout.flush()
    except OSError as error:
        if error.filename is not None and error.errno in _OF_PATHS:
            return refuse(f"{error.filename}: {error.strerror}.\n  Give another path, or mend this one")
        if error.filename is not None or error.errno not in (errno.ENOSPC, errno.EPIPE):
            return failed(error)
        return unprinted(error)
    except SlimkitError as error:
        return refuse(as_flags(str(error)))
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "slimkit"
        return refuse(f"{error.format_message()}\n  See {path} --help")
    except click.ClickException as error:
        return refuse(error.format_message())
    except click.Abort:
        click.echo("slimkit: interrupted", err=True)
        return 130
    except Terminated:
        click.echo(f"slimkit: terminated{as_flags(launcher.why_terminated())}", err=True)
        return 128 + signal.SIGTERM
    except (Exception, SystemExit) as error:
        return failed(error)
    return 0


def failed(error: BaseException) -> int:
    """Say that memory ran out, or what code of the user's own raised; where it was ours the exception goes on."""
    if found := out_of_memory.of(error):
        return refuse(as_flags(str(found)))
    own = own_code.failure(error)
    if own is None:
        raise error
    return refuse(own)


class Terminated(BaseException):
    """Ends a command as SIGTERM asks for; no SystemExit, which code of the user's own may raise."""


@contextmanager
def streams() -> Iterator[None]:
    """Write to the null device where there is no stdout or stderr, as under cron and in daemons.

    Else the first file that is opened would take their numbers, and be written into by whatever prints there.
    """
    while (null := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(null, True)
    os.close(null)
    with (
        open(os.devnull, "w") as nowhere,
        redirect_stdout(sys.stdout or nowhere),
        redirect_stderr(sys.stderr or nowhere),
    ):
        yield


def unprinted(error: OSError) -> int:
    """Say that standard output takes no more; whoever closed it, as `head` does, need not be told."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python tries once more at its end
    if error.errno == errno.EPIPE:
        return 1  # as click does where it meets it
    return refuse(f"the result cannot be printed ({error.strerror}).\n  Files that a run wrote are complete")


def refuse(message: str) -> int:
    """Print what the user can mend."""
    click.echo(f"slimkit: {printable(message)}", err=True)
    return 2


@contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM end the block as an exception, so that what was begun is cleaned up."""

    def stop(signum: int, frame: object) -> None:
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
