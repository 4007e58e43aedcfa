"""Which small network to train, and when to know. One published method a file."""

from slimkit.methods import (
    early_bird,
    edge_popup,
    factorised,
    lottery_ticket,
    network_slimming,
    progressive,
    scratch,
    weight_agnostic,
    weight_ticket,
)
from slimkit.methods.job import Job, Selection
from slimkit.methods.method import Found, Method
from slimkit.methods.observer import Draw, EarlyBird
from slimkit.methods.settled import Rule

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        early_bird.METHOD,
        progressive.METHOD,
        network_slimming.METHOD,
        lottery_ticket.METHOD,
        weight_ticket.METHOD,
        edge_popup.METHOD,
        factorised.METHOD,
        weight_agnostic.METHOD,
        scratch.METHOD,
    )
}

__all__ = [
    "METHODS",
    "Draw",
    "EarlyBird",
    "Found",
    "Job",
    "Method",
    "Rule",
    "Selection",
]
