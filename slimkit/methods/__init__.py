"""Which small network to train, and when to know. One published method a file."""

from slimkit.methods.agree import agreed
from slimkit.methods.early_bird import Draw, EarlyBird
from slimkit.methods.figures import cost, measure
from slimkit.methods.job import Job, Searched, example, recipe
from slimkit.methods.policies import search
from slimkit.methods.remember import remembered
from slimkit.methods.settled import Rule

__all__ = [
    "Draw",
    "EarlyBird",
    "Job",
    "Rule",
    "Searched",
    "agreed",
    "cost",
    "example",
    "measure",
    "recipe",
    "remembered",
    "search",
]
