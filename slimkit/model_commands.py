"""Commands on a finished network: how good it is, and what other engines need."""

from pathlib import Path
from typing import Any

import click

from slimkit.flags import SettingsCommand, settings_of, show, working
from slimkit.settings import EvaluateSpec, ExportSpec
from slimkit.settings.command_line import gather

EVALUATE = ("data", "task", "arch", "input_shape", "trust_pickle", "seed")
EXPORT = ("to", "fp16", "arch", "input_shape", "embed_normalisation", "free_size", "trust_pickle")


@click.command(cls=SettingsCommand)
@click.argument("model", type=Path)
@settings_of(EvaluateSpec, EVALUATE, config=False)
@click.option("--json", "as_json", is_flag=True, help="Print what was measured as JSON, and nothing else.")
def evaluate(model: Path, as_json: bool, **words: Any) -> None:
    """Measure how good a network is: a slim file, a checkpoint or an ONNX file.

    \b
    slimkit evaluate slim/model.onnx --data digits
    """
    spec = gather(EvaluateSpec, words)
    with working() as progress:
        from slimkit.runs.evaluate import evaluate_model

        found = evaluate_model(model, spec, progress)
    from slimkit.report import table

    show(found, as_json, table.evaluation_table)


@click.command(cls=SettingsCommand)
@click.argument("model", type=Path)
@settings_of(ExportSpec, EXPORT, config=False)
@click.option("--out", type=Path, metavar="DIR", help="Folder to write; default: NAME-export.")
@click.option("--force", is_flag=True, help="Replace the output folder of an earlier run.")
@click.option("--json", "as_json", is_flag=True, help="Print what was written as JSON, and nothing else.")
def export(model: Path, out: Path | None, force: bool, as_json: bool, **words: Any) -> None:
    """Write a slim file or a checkpoint in other formats, and check that each computes the same.

    \b
    slimkit export slim/model.safetensors --to onnx,openvino,torchscript --fp16
    """
    spec = gather(ExportSpec, words)
    with working() as progress:
        from slimkit.runs.export import export_model

        found = export_model(model, spec, out, force, progress)
    from slimkit.report import table

    show(found, as_json, table.exports_table)
