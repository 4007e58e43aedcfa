"""Refuse an exported program by which torch.export.load could be made to run code from the file.

TORCH_FORCE_WEIGHTS_ONLY_LOAD stops its pickled tensors, but torch 2.11 to 2.15 also unpickle opaque
constants, load machine code of AOTInductor, compile guards, evaluate symbolic sizes as Python (sympy) and paste
names into code that is generated from the graph. So everything of that kind must look as torch.export.save writes it.
"""

import json
import re
from collections.abc import Sequence
from typing import Any, Protocol

from slimkit.models.exported_operators import admitted
from slimkit.models.names import is_plain

_MEMBERS = re.compile(
    r"models/model\.json|data/weights/(weight_\d+|model_weights_config\.json)"
    r"|data/constants/(tensor_\d+|model_constants_config\.json)|data/sample_inputs/model\.pt"
    r"|extra/[\w.-]+|\.data/\w+|archive_format|archive_version|byteorder",
    re.ASCII,
)
_PICKLED = ("opaque_obj", "custom_obj")
_NAME = re.compile(r"[A-Za-z_]\w*|", re.ASCII)  # a name in the generated code
_NAME_KEYS = frozenset(("name", "as_name", "graph_name", "user_input_name", "forward_arg_names"))
_PATH_KEYS = frozenset(
    ("parameter_name", "buffer_name", "tensor_constant_name", "custom_obj_name", "parameter_to_mutate",
     "buffer_to_mutate", "buffer_mutation_name", "fqn")
)  # fmt: skip
_LONGEST = 300  # characters of a size's expression
_SYMBOLIC = re.compile(
    r"(?:\s|[-+/%(),<>=!&|~]|(?<!\*)\*(?!\*)|\d{1,19}+(?:\.\d++)?"
    r"|(?:Symbol|Dummy)\('[a-z]+\d+'(?:, \w+=(?:True|False))*\)|[a-z]{1,3}\d{1,9}+"
    r"|(?:Integer|Float|Rational|Add|Mul|Max|Min|Mod|Abs|Eq|Ne|Lt|Le|Gt|Ge|Equality|Unequality|LessThan"
    r"|StrictLessThan|GreaterThan|StrictGreaterThan|And|Or|Not|Piecewise|FloorDiv|PythonMod|CeilDiv|CleanDiv"
    r"|ModularIndexing|IntTrueDiv|FloatTrueDiv|TruncToInt|FloorToInt|CeilToInt|ToFloat"
    r"|RoundToInt"
    r"|Where|Identity|True|False|true|false)\b)*+"
)
_SPEC_TYPES = frozenset(
    ("builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict",
     "torch.utils._pytree.PyTree", "torch.export.dynamic_shapes._IntWrapper")
)  # fmt: skip


_STACK = re.compile(r"[\w.,;@\[\]()'<> -]+", re.ASCII)  # paths and classes of the modules that a node came from


class Archive(Protocol):
    """What is used of torch's own reader of .pt2 archives: the same one that loads them afterwards."""

    def get_file_names(self) -> list[str]:
        """List the members."""

    def read_string(self, name: str) -> str:
        """Read one member as text."""


def objection(archive: Archive, members: Sequence[str]) -> str | None:
    """Say what in an archive could run code, None where nothing could.

    Args:
        archive: the archive.
        members: its members as Python's zipfile sees them: torch reads some through that.
    """
    names = archive.get_file_names()
    if len({name.lower() for name in names}) != len(names):
        return "two members of the same name"
    if sorted(names) != sorted(name.partition("/")[2] for name in members):
        return "members outside its folder"
    for name in names:
        if not _MEMBERS.fullmatch(name):
            return f"a member {name!r}"
        if name.startswith(("models/", "data/")) and name.endswith(".json"):
            try:
                found = _walk(json.loads(archive.read_string(name)))
            except (ValueError, RecursionError) as error:
                return f"{name}, which is no JSON ({error})"
            if found:
                return f"{found} in {name}"
    return None


def returned_text(archive: Archive) -> str | None:
    """Return the first text among a program's outputs: torch writes such, and fails to read it again."""
    outputs = json.loads(archive.read_string("models/model.json"))["graph_module"]["graph"]["outputs"]
    return next((output["as_string"] for output in outputs if "as_string" in output), None)


def stripped(program: str) -> str:
    """Return a program's description without what is only for people and would be evaluated or looked up."""
    described = json.loads(program)
    described["guards_code"] = []
    _strip(described["graph_module"]["graph"])
    return json.dumps(described)


def _strip(graph: Any) -> None:
    for node in graph["nodes"]:
        stack = node["metadata"].get("nn_module_stack", "")
        node["metadata"] = {"nn_module_stack": stack} if _STACK.fullmatch(stack) else {}
        for given in node["inputs"]:
            if "as_graph" in given["arg"]:
                _strip(given["arg"]["as_graph"]["graph"])


def _walk(value: Any, key: str = "") -> str | None:
    """Return the first thing in a program's description that torch.export.save would not have written."""
    if isinstance(value, dict):
        for inner_key, inner in value.items():
            found = _walk(inner, inner_key)
            if found or (key == "range_constraints" and not _SYMBOLIC.fullmatch(inner_key)):
                return found or f"the size {inner_key!r}"
        return None
    if isinstance(value, list):
        return next((found for inner in value if (found := _walk(inner, key))), None)
    match key:
        case "target" | "as_operator" if not admitted(value):
            return f"the operator {value!r}"
        case "use_pickle" if value is not False:
            return "a pickled tensor"
        case "expr_str" if not (isinstance(value, str) and len(value) <= _LONGEST and _SYMBOLIC.fullmatch(value)):
            return f"the size {value!r}"
        case "path_name" if not isinstance(value, str) or "/" in value or value.startswith(_PICKLED):
            return f"the object {value!r}"
        case "as_int" | "min_val" | "max_val" if value is not None and type(value) is not int:
            return f"the number {value!r}"
        case "in_spec" | "out_spec" if isinstance(value, str):
            return _specification(value, key)
    if key in _NAME_KEYS and value is not None and not (isinstance(value, str) and _NAME.fullmatch(value)):
        return f"the name {value!r}"
    if key in _PATH_KEYS and value is not None and not is_plain(value):
        return f"the name {value!r}"
    return None


def _specification(text: str, key: str) -> str | None:
    """Check the nesting of inputs or outputs: only tuples, lists and tables are rebuilt."""
    if not text:
        return None
    try:
        return _specified(json.loads(text), key)
    except ValueError:
        return f"the nesting {text[:60]!r}"


def _specified(value: Any, key: str) -> str | None:
    if isinstance(value, list):
        return next((found for inner in value if (found := _specified(inner, key))), None)
    if not isinstance(value, dict):
        return None
    kind, names = value.get("type"), json.loads(value.get("context") or "null")
    if kind is not None and kind not in _SPEC_TYPES:
        return f"the type {kind!r}"
    if _has_table(names):  # torch imports what it takes for a member of an enumeration
        return f"the key {names!r:.100}"
    if key == "in_spec":  # keyword arguments are pasted into the generated code
        for name in names if isinstance(names, list) else [names] if names is not None else []:
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                return f"the name {name!r}"
    return _specified(value.get("children_spec"), key)


def _has_table(key: Any) -> bool:
    return isinstance(key, dict) or (isinstance(key, list) and any(map(_has_table, key)))
