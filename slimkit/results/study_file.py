"""`study.jsonl`: finished arms, a line each, as they come."""

import json
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from slimkit.errors import RecordError
from slimkit.results.study import Arm, Outcome
from slimkit.whole_file import whole

NAME = "study.jsonl"
_LARGEST = 100_000_000  # bytes


def line(arm: Arm) -> str:
    """Write an arm as a line."""
    return json.dumps(arm.to_dict(), ensure_ascii=False, allow_nan=False) + "\n"


def append(path: Path, arm: Arm) -> None:
    """Add an arm to the file, which is made where there is none."""
    with path.open("a", encoding="utf-8") as file:
        file.write(line(arm))


def write(path: Path, arms: Iterable[Arm]) -> None:
    """Replace the file by these arms, in this order; it is never half there."""
    with whole(path) as part:
        part.write_text("".join(map(line, arms)), encoding="utf-8")


def read(path: Path) -> tuple[list[Arm], str]:
    """Read the arms of a study from its folder, or from the file itself.

    Returns:
        The arms, and what was dropped: a last line that was being written when the study was killed; "" where none
        was.

    Raises:
        RecordError: there is no such file, a line before the last is no arm, or an arm is there twice.
    """
    file = path / NAME if path.is_dir() else path
    try:
        if file.stat().st_size > _LARGEST:
            raise RecordError(f"{file}: it is too large for a study.\n  Give the folder of a study")
        whole, _, rest = file.read_text(encoding="utf-8", errors="replace").rpartition("\n")
    except OSError as error:
        raise RecordError(f"{file}: no study can be read there ({error.strerror}).\n  Give its folder") from None
    arms = [_arm(file, number, text) for number, text in enumerate(whole.split("\n"), 1) if text.strip()]
    twice = [key for key, count in Counter(arm.key for arm in arms).items() if count > 1]
    if twice:
        name = " ".join(map(str, twice[0]))
        raise RecordError(f"{file}: {name} is there twice, and would count as two seeds.\n  Move one of the lines away")
    try:
        return ([*arms, _arm(file, len(arms) + 1, rest)] if rest.strip() else arms), ""
    except RecordError:
        return arms, f"{file.name}: the last line was only half written, and was dropped: its arm is trained again"


def _arm(file: Path, number: int, text: str) -> Arm:
    try:
        arm = Arm.from_dict(json.loads(text))
        return replace(arm, validation=_counted(arm.validation), test=_counted(arm.test))
    except (ValueError, RecursionError) as error:
        wrong = f"it is not valid JSON ({error})"
    except RecordError as error:
        wrong = str(error)
    raise RecordError(f"{file}, line {number}: {wrong}\n  Move the line, or the file, away")


def _counted(found: Outcome) -> Outcome:
    """Leave out a count that is none: earlier versions made one of any share, as of mean IoU."""
    if found.right is None or math.isclose(found.right, found.value * found.images, rel_tol=1e-9, abs_tol=1e-6):
        return found
    return replace(found, right=None)
