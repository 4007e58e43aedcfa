"""The stages of `slimkit train` between a fresh network and its files: train, draw, shrink, train on."""

from slimkit.searching.agreeing import agreed
from slimkit.searching.beginning import build, claimed, joined, redrawn, short_name, store
from slimkit.searching.figures import cost, measure
from slimkit.searching.job import Job, Searched, example, recipe
from slimkit.searching.policies import search
from slimkit.searching.remembering import remembered

__all__ = [
    "Job",
    "Searched",
    "agreed",
    "build",
    "claimed",
    "cost",
    "example",
    "joined",
    "measure",
    "recipe",
    "redrawn",
    "remembered",
    "search",
    "short_name",
    "store",
]
