"""Write the tables of docs/results/ from the rows in docs/results/data/.

    python tools/results.py [--check]

A page has a table between <!-- rows: NAME --> and <!-- end of rows -->: it is made from data/NAME.jsonl by the
tool NAME, and says on which commits the rows were made. <!-- rows: papers --> are those of the studies, which
tools/papers.py knows. With --check nothing is written: exit 1 if a page is not what
its rows say.
"""

import argparse
import importlib
import re
import sys
from pathlib import Path

import papers
from rows import read

RESULTS = Path(__file__).parents[1] / "docs" / "results"
TABLE = re.compile(r"(<!-- rows: (\w+) -->\n).*?(<!-- end of rows -->)", re.S)


def table(name: str) -> str:
    """Return the table of one file of rows, and where they come from."""
    if name == "papers":
        return f"\n{papers.page()}\n\n"
    found = read(RESULTS / "data" / f"{name}.jsonl")
    commits = ", ".join(dict.fromkeys(row["commit"] for row in found))
    return f"\n*`python tools/{name}.py`; rows made on {commits}.*\n\n{importlib.import_module(name).table(found)}\n\n"


def filled(page: str) -> str:
    """Return a page with its tables made anew."""
    return TABLE.sub(lambda place: place[1] + table(place[2]) + place[3], page)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a page is out of date")
    check = parser.parse_args().check
    old = []
    for path in sorted(RESULTS.glob("*.md")):
        page = path.read_text()
        if filled(page) != page:
            old.append(path.name)
            if not check:
                path.write_text(filled(page))
    print(f"{'out of date' if check else 'written'}: {', '.join(old) or 'none'}")
    return int(check and bool(old))


if __name__ == "__main__":
    sys.exit(main())
