"""Reports of earlier versions, brought up to today's fields; what is wrong in them is left for the reader to find."""

from collections.abc import Callable
from typing import Any

from slimkit.results.report import REPORT_SCHEMA

_PENALTY = {"lambda": "strength", "S": "pull", "S_of_schedule": "pull_of_schedule"}


def upgraded(report: Any) -> Any:
    """Return a report of any version that has been as one of today's; anything else as it is."""
    while isinstance(report, dict) and isinstance(report.get("schema"), str) and report["schema"] in EARLIER:
        report = EARLIER[report["schema"]](report)
    return report


def _from_1(report: dict[str, Any]) -> dict[str, Any]:
    new = {name: value for name, value in report.items() if name not in ("seed", "alternatives")}
    new |= {"schema": "slimkit.report/2"}
    _each(new, "channels", lambda channels: channels.pop("share_removed", None))
    for side in ("before", "after", "int8"):
        _each(new, side, lambda figures: _each(figures, "accuracy", _accuracy))
    _each(new, "proof", _proof)
    _each(new, "search", _search)
    _each(new, "cost", lambda cost: _each(cost, "times", _times))
    return new


def _from_2(report: dict[str, Any]) -> dict[str, Any]:
    """Accuracy was that of classification, and stood beside the quality of any task."""
    new = report | {"schema": REPORT_SCHEMA}
    for side in ("before", "after", "int8"):
        _each(new, side, _judged)
    _rows(new, "after_cut", "quality", "accuracy")
    for part in ("recovery", "search"):
        _each(new, part, lambda record: _rows(record, "history", "validation_quality", "validation_accuracy"))
    return new


def _each(record: dict[str, Any], name: str, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a copy of an object within an object, where it is one."""
    if isinstance(record.get(name), dict):
        record[name] = dict(record[name])
        change(record[name])


def _rows(record: dict[str, Any], name: str, old: str, new: str) -> None:
    """Give a field of every row of a list another name, where it holds anything."""
    if isinstance(record.get(name), list):
        record[name] = [_renamed(row, old, new) if isinstance(row, dict) else row for row in record[name]]


def _renamed(row: dict[str, Any], old: str, new: str) -> dict[str, Any]:
    rest = {name: value for name, value in row.items() if name != old}
    return rest if row.get(old) is None else rest | {new: row[old]}


def _accuracy(accuracy: dict[str, Any]) -> None:
    if "images" in accuracy:
        accuracy["test_images"] = accuracy.pop("images")


def _judged(figures: dict[str, Any]) -> None:
    quality = figures.pop("quality", None)
    if not isinstance(quality, dict):
        return
    found = {name: quality[name] for name in ("task", "metric", "unit", "better") if name in quality}
    for split in ("validation", "test"):
        if isinstance(sample := quality.get(split), dict):
            found |= {split: sample.get("value"), f"{split}_images": sample.get("images")}
            found |= {"interval": sample.get("interval")} if split == "test" else {}
    figures["accuracy"] = found | {"metrics": quality.get("others", {})}


def _proof(proof: dict[str, Any]) -> None:
    if isinstance(proof.get("inputs"), str):
        proof["inputs"] = [proof["inputs"]]


def _search(search: dict[str, Any]) -> None:
    policy = search.pop("draw_policy", None)
    if policy is not None:
        search.setdefault("method", policy)
    if isinstance(search.get("history"), list):
        search["history"] = [
            {name: value for name, value in epoch.items() if name != "accuracy"} if isinstance(epoch, dict) else epoch
            for epoch in search["history"]
        ]
    _each(search, "penalty", _penalty)


def _penalty(penalty: dict[str, Any]) -> None:
    for old, name in _PENALTY.items():
        if old in penalty:
            penalty[name] = penalty.pop(old)


def _times(times: dict[str, Any]) -> None:
    for estimated in ("dense_training", "train_prune_retrain"):
        times.pop(estimated, None)


EARLIER: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "slimkit.report/1": _from_1,
    "slimkit.report/2": _from_2,
}
