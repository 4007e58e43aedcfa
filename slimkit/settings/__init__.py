"""The settings of a run, from flags or a TOML file; no torch."""

from slimkit.settings.budget import Budget, parse_budget
from slimkit.settings.compress import CompressSpec
from slimkit.settings.evaluate import EvaluateSpec
from slimkit.settings.export import ExportSpec
from slimkit.settings.run import RUNTIMES, SCOPE, RunSpec
from slimkit.settings.setting import Settings, setting
from slimkit.settings.study import StudySpec, study_spec
from slimkit.settings.toml_file import from_toml, make, read_config, read_pairs, read_words, to_toml
from slimkit.settings.train import METHODS, REMOVE_NONE, TrainSpec, new_words

__all__ = [
    "RUNTIMES",
    "METHODS",
    "REMOVE_NONE",
    "SCOPE",
    "Budget",
    "CompressSpec",
    "EvaluateSpec",
    "ExportSpec",
    "RunSpec",
    "Settings",
    "StudySpec",
    "TrainSpec",
    "from_toml",
    "make",
    "new_words",
    "parse_budget",
    "read_pairs",
    "read_config",
    "read_words",
    "setting",
    "study_spec",
    "to_toml",
]
