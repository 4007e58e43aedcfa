"""The report of a run as frozen records: `to_dict`, a checked `from_dict`, and a published JSON Schema."""

from slimkit.results.codec import Record
from slimkit.results.costs import Cost, Spent, Stage, Times
from slimkit.results.figures import Accuracy, Energy, Figures, Latency, Measured, Proof, wilson
from slimkit.results.network import Architecture, Channels, Gammas, Group, Kept, Layer, Normalisation
from slimkit.results.report import (
    Benched,
    Benchmark,
    Budget,
    Catalogue,
    Entry,
    InspectedGroup,
    Inspection,
    Report,
    Round,
    TableSummary,
)
from slimkit.results.training import (
    AfterCut,
    Epoch,
    GammaSnapshot,
    Look,
    Penalty,
    Recovery,
    Search,
    Settling,
)

__all__ = [
    "Accuracy",
    "AfterCut",
    "Architecture",
    "Benched",
    "Benchmark",
    "Budget",
    "Catalogue",
    "Channels",
    "Cost",
    "Energy",
    "Entry",
    "Epoch",
    "Figures",
    "GammaSnapshot",
    "Gammas",
    "Group",
    "InspectedGroup",
    "Inspection",
    "Kept",
    "Latency",
    "Layer",
    "Look",
    "Measured",
    "Normalisation",
    "Penalty",
    "Proof",
    "Record",
    "Recovery",
    "Report",
    "Round",
    "Search",
    "Settling",
    "Spent",
    "Stage",
    "TableSummary",
    "Times",
    "wilson",
]
