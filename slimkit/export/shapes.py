"""Operators of the direct road that move or pool values: views, slices, padding, pooling, resizing."""

from __future__ import annotations

from typing import Any

import torch

from slimkit.export.operators import Rule, _operand, _settings, _shape, _spread, plain_args
from slimkit.export.record import Batch, Call, Unsupported, Value, plain
from slimkit.export.writer import Writer

_END = 2**63 - 1
