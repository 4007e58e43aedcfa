"""What the documentation takes from the code: a hook of mkdocs, named in mkdocs.yml.

A page asks for it by a comment on a line of its own. <!-- settings: CLASS --> becomes a table of the settings of
`slimkit.settings.CLASS`, a row a field; <!-- methods: all --> the same of every method; <!-- schema: NAME --> becomes
the tables of the schema NAME of `slimkit/results/schemas/`, a row a property.
"""

import json
import re
import sys
from collections.abc import Iterable
from dataclasses import MISSING, Field, fields
from importlib import resources
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from slimkit import settings

ASKED = re.compile(r"^<!-- (settings|methods|schema): (\w+) -->$", re.M)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace what a page asks for; mkdocs calls this for every page."""
    return ASKED.sub(lambda asked: MADE[asked[1]](asked[2]), markdown)


def settings_table(name: str) -> str:
    """Return a table of the fields of a settings class: name, default, meaning."""
    found = fields(getattr(settings, name))
    return table(("setting", "default", "meaning"), ((code(f.name), default(f), f.metadata["help"]) for f in found))


def methods_tables(which: str) -> str:
    """Return what every method does, the class of its settings, and a table of them."""
    from slimkit.methods import METHODS

    parts = []
    for method in METHODS.values():
        rows = ((code(f.name), default(f), f.metadata["help"]) for f in fields(method.config))
        about = f"{method.summary}. In Python: {code(f'slimkit.methods.{method.config.__name__}')}"
        parts.append(f"### `{method.name}`\n\n{about}\n\n{table(('setting', 'default', 'meaning'), rows)}")
    return "\n\n".join(parts)


def default(field: Field[Any]) -> str:
    return "" if field.default in (MISSING, None, "", ()) else code(field.default)


def schema_tables(name: str) -> str:
    """Return a table for a schema, and one for each of its definitions: name, type, meaning."""
    schema = json.loads(resources.files("slimkit.results.schemas").joinpath(f"{name}.json").read_text())
    parts = {schema["title"]: schema, **dict(sorted(schema["$defs"].items()))}
    return "\n\n".join(
        f"### {title}\n\n{part.get('description', '')}\n\n{properties(part)}" for title, part in parts.items()
    )


def properties(part: dict[str, Any]) -> str:
    needed = part.get("required", ())
    rows = (
        (code(name), kind(entry), entry.get("description", "") + ("" if name in needed else " *(may be missing)*"))
        for name, entry in part.get("properties", {}).items()
    )
    return table(("field", "type", "meaning"), rows)


def kind(entry: dict[str, Any]) -> str:
    """Return the type of a property, in words."""
    match entry:
        case {"$ref": str(place)}:
            title = place.rpartition("/")[2]
            return f"[{title}](#{title.lower()})"
        case {"anyOf": list(several)}:
            return " or ".join(kind(one) for one in several)
        case {"enum": list(values)}:
            return " or ".join(code(json.dumps(value)) for value in values)
        case {"type": "array"}:
            return f"list of {kind(entry.get('items', {}))}"
        case {"type": "object", "additionalProperties": dict(values)}:
            return f"object of {kind(values)}"
        case {"type": str(name)}:
            return name
    return "anything"


def table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(heads), *map(list, rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def code(value: object) -> str:
    return f"`{value}`"


MADE = {"settings": settings_table, "methods": methods_tables, "schema": schema_tables}
