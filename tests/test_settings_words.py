"""Messages of the library name arguments; the command names flags."""

import pytest

from slimkit.settings.words import as_flags


@pytest.mark.parametrize(
    ("library", "command"),
    [
        ("Add `data='digits'`, or leave `int8` out", "Add --data digits, or leave --int8 out"),
        ("Give `round_to=1` or `cap=0.98`", "Give --round-to 1 or --cap 0.98"),
        ("Give `data_root=DIR`", "Give --data-root DIR"),
        ("Give `trust_pickle=True` or `distill=False`", "Give --trust-pickle or --no-distill"),
        ("`Two Words` and `torch.nn` stay", "`Two Words` and `torch.nn` stay"),
    ],
)
def test_arguments_become_flags(library: str, command: str) -> None:
    assert as_flags(library) == command
