"""Reports of earlier versions, brought up to today's fields; what is wrong in them is left for the reader to find."""

from typing import Any

SCHEMA_1 = "slimkit.report/1"
_PENALTY = {"lambda": "strength", "S": "pull", "S_of_schedule": "pull_of_schedule"}


def from_1(report: dict[str, Any]) -> dict[str, Any]:
    """Return a report of `slimkit.report/1` as one of `slimkit.report/2`."""
    new = {name: value for name, value in report.items() if name not in ("seed", "alternatives")}
    new |= {"schema": "slimkit.report/2"}
    _each(new, "channels", lambda channels: channels.pop("share_removed", None))
    for side in ("before", "after", "int8"):
        _each(new, side, lambda figures: _each(figures, "accuracy", _accuracy))
    _each(new, "proof", _proof)
    _each(new, "search", _search)
    _each(new, "cost", lambda cost: _each(cost, "times", _times))
    return new


def _each(record: dict[str, Any], name: str, change: Any) -> None:
    """Change a copy of an object within an object, where it is one."""
    if isinstance(record.get(name), dict):
        record[name] = dict(record[name])
        change(record[name])


def _accuracy(accuracy: dict[str, Any]) -> None:
    if "images" in accuracy:
        accuracy["test_images"] = accuracy.pop("images")


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
