"""Which small network to train, and when to know. One published method a file.

The settings of a method are an object of its config class, such as `EarlyBirdConfig(deadline=0.2)`, which
`slimkit.train` takes as `method`.
"""

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
from slimkit.methods.early_bird import EarlyBirdConfig
from slimkit.methods.edge_popup import EdgePopupConfig
from slimkit.methods.factorised import FactorisedConfig
from slimkit.methods.job import Job, Selection
from slimkit.methods.lottery_ticket import LotteryTicketConfig
from slimkit.methods.method import Found, Method
from slimkit.methods.network_slimming import NetworkSlimmingConfig
from slimkit.methods.observer import Draw, EarlyBird
from slimkit.methods.progressive import ProgressiveConfig
from slimkit.methods.scratch import ScratchConfig
from slimkit.methods.settled import Rule
from slimkit.methods.weight_agnostic import WeightAgnosticConfig
from slimkit.methods.weight_ticket import WeightTicketConfig

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
    "EarlyBirdConfig",
    "EdgePopupConfig",
    "FactorisedConfig",
    "Found",
    "Job",
    "LotteryTicketConfig",
    "Method",
    "NetworkSlimmingConfig",
    "ProgressiveConfig",
    "Rule",
    "ScratchConfig",
    "Selection",
    "WeightAgnosticConfig",
    "WeightTicketConfig",
]
