"""What the documentation takes from the code: a hook of mkdocs, named in mkdocs.yml.

A page asks for it by a comment of its own line: <!-- settings: CLASS --> is replaced by a table of the settings of
`slimkit.settings.CLASS`, one row a field.
"""

import re
import sys
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from slimkit import settings

ASKED = re.compile(r"^<!-- settings: (\w+) -->$", re.M)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace what a page asks for; mkdocs calls this for every page."""
    return ASKED.sub(lambda asked: settings_table(getattr(settings, asked[1])), markdown)


def settings_table(kind: type) -> str:
    """Return a table of the fields of a settings class: name, default, meaning."""
    rows = [f"| `{field.name}` | {default(field)} | {meaning(field)} |" for field in fields(kind)]
    return "\n".join(["| setting | default | meaning |", "| --- | --- | --- |", *rows])


def default(field: Field[Any]) -> str:
    return "" if field.default in (MISSING, None, "", ()) else f"`{field.default}`"


def meaning(field: Field[Any]) -> str:
    return str(field.metadata["help"]).replace("|", "\\|")
