"""Plant faults of surgery in random networks, and see which of them the proof finds.

    python tools/planted.py --count 10000 --out planted.jsonl

Each row is one network with one fault: its kind, whether it changes the function, and whether the proof saw it. What
is in the file already is not done again, so that a run can go on where another ended.
"""

import argparse
import json
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from slimkit.surgery import proof
from tests.planted import FAULTS
from tests.test_proof_property import case, changes


def tried(seed: int) -> dict[str, Any]:
    """Plant one fault, and return what came of it."""
    name = list(FAULTS)[seed % len(FAULTS)]
    masked, slim, given = case(seed)
    with torch.no_grad():
        planted = FAULTS[name](slim, torch.Generator().manual_seed(seed))
    seen = planted and not proof.evidence(masked, slim, proof.trials(given)).proven
    return {
        "seed": seed,
        "kind": name,
        "changed": bool(seen or (planted and changes(masked, slim, given))),
        "seen": seen,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Return the share of faults that were seen, by kind, as a table."""
    changed, seen = (Counter(row["kind"] for row in rows if row[what]) for what in ("changed", "seen"))
    lines = ["| fault | changed the function | seen | share |", "| --- | --- | --- | --- |"]
    for name in FAULTS:
        share = f"{100 * seen[name] / changed[name]:.1f} %" if changed[name] else ""
        lines.append(f"| {name.replace('_', ' ')} | {changed[name]} | {seen[name]} | {share} |")
    whole = f"{100 * seen.total() / max(1, changed.total()):.2f} %"
    return "\n".join([*lines, f"| all | {changed.total()} | {seen.total()} | {whole} |"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--out", type=Path, default=Path("planted.jsonl"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    done = [json.loads(line) for line in given.out.read_text().splitlines()] if given.out.exists() else []
    known = {row["seed"] for row in done}
    for seed in range(given.count):
        if seed not in known:
            done.append(tried(seed))
            with given.out.open("a") as file:
                file.write(json.dumps(done[-1]) + "\n")
    print(table(done))


if __name__ == "__main__":
    main()
