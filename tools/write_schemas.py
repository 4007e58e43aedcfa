"""Write the published JSON Schemas anew: `python tools/write_schemas.py`, after a record has changed."""

import json
from pathlib import Path

from slimkit.record import Record
from slimkit.results import Arm, Benchmark, Evaluation, Exports, Inspection, Report, SweepReport

FOLDER = Path(__file__).parents[1] / "slimkit" / "results" / "schemas"
RECORDS: dict[str, type[Record]] = {
    "report": Report,
    "sweep": SweepReport,
    "study": Arm,
    "inspection": Inspection,
    "bench": Benchmark,
    "evaluation": Evaluation,
    "exports": Exports,
}

if __name__ == "__main__":
    for name, record in RECORDS.items():
        (FOLDER / f"{name}.json").write_text(json.dumps(record.json_schema(), indent=1) + "\n", encoding="utf-8")
