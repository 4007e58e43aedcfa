"""The shape of what a network returns, as an ONNX file of ours says it: tuples, lists, dicts and objects of outputs."""

import re
from collections import namedtuple
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import count
from types import SimpleNamespace
from typing import Any

from torch import Tensor

from slimkit.usage import OUTPUT

RETURNED = "returned"  # where files have it
Form = dict[str, Any] | str | int | float | None  # JSON: {"output": its number}, or a nest of such


class Entries(dict[Any, Any]):
    """A dict whose entries are attributes too, and have numbers, as those of Hugging Face do."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def __getitem__(self, key: Any) -> Any:
        return list(self.values())[key] if isinstance(key, int) and key not in self else super().__getitem__(key)


def form_of(returned: Any) -> Form:
    """Return the shape of what a network returned; its tensors have numbers in the order of `example.tensors`."""
    return _form(returned, count(), 9)


def output_names(form: Form, taken: Collection[str] = ()) -> list[str]:
    """Return the names of the outputs in a file: of a dict or an object its keys, else `output`, `output_0`, ...

    Args:
        form: of what the network returns.
        taken: names that others have, as the inputs: an output of such a name is called `output_NAME`.
    """
    found: list[str] = []
    for path in _paths(form):
        name = re.sub(r"\W", "_", "_".join(path))
        if all(key.isdigit() for key in path):
            name = f"{OUTPUT}_{len(found)}" if path else OUTPUT
        elif not name or name[0].isdigit():
            name = f"{OUTPUT}_{name}"
        while name in taken or name in found:
            name = f"{OUTPUT}_{name if name != OUTPUT else 0}"
        found.append(name)
    return found


def _paths(form: Form) -> list[tuple[str, ...]]:
    """Return the keys that lead to each output; of a list of one no number."""
    if not isinstance(form, dict):
        return []
    ((kind, parts),) = form.items()
    if kind == "output":
        return [()]
    if kind in ("tuple", "list"):
        parts = [[str(number), part] for number, part in enumerate(part for part in parts if _paths(part))]
        if len(parts) == 1:
            return _paths(parts[0][1])
    return [(str(name), *path) for name, part in parts for path in _paths(part)]


def _form(tree: Any, numbers: Iterator[int], depth: int) -> Form:
    if isinstance(tree, Tensor):
        if tree.is_nested:
            return {"list": [{"output": next(numbers)} for _ in tree.unbind()]}
        return {"output": next(numbers)}
    if tree is None or isinstance(tree, str | int | float) or not depth:
        return tree if isinstance(tree, str | int | float) else None
    kind, entries = _entries(tree)
    parts = [[name, _form(value, numbers, depth - 1)] for name, value in entries]
    return {kind: parts if kind in ("dict", "named", "object") else [part for _, part in parts]}


def _entries(tree: Any) -> tuple[str, list[tuple[Any, Any]]]:
    """Return of which kind a nest is, and what is in it."""
    if isinstance(tree, Mapping):
        return "dict", [(plain_key(name), value) for name, value in tree.items()]
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return "named", list(zip(tree._fields, tree, strict=True))
    if isinstance(tree, tuple | list):
        return "tuple" if isinstance(tree, tuple) else "list", list(enumerate(tree))
    return "object", [] if callable(tree) else list(getattr(tree, "__dict__", {}).items())


def plain_key(key: Any) -> Any:
    """Return a key of a dict as files can have it: text, whole numbers, None, and tuples of them; others as text."""
    if type(key) is tuple:
        return tuple(map(plain_key, key))
    return key if key is None or type(key) in (str, int, bool) else str(getattr(key, "value", key))


def read_key(key: Any) -> Any:
    """Return a key of a dict as it was before it stood in JSON, which makes lists of tuples."""
    return tuple(map(read_key, key)) if isinstance(key, list) else key


def rebuilt(form: Form, outputs: Sequence[Any]) -> Any:
    """Return outputs in the shape that a network returned them in; an object has their names, but not its class."""
    if not isinstance(form, dict):
        return form
    ((kind, parts),) = form.items()
    if kind == "output":
        return outputs[parts]
    if kind in ("tuple", "list"):
        return (tuple if kind == "tuple" else list)(rebuilt(part, outputs) for part in parts)
    entries = {read_key(name): rebuilt(part, outputs) for name, part in parts}
    if kind == "named":
        return namedtuple("Returned", entries)(**entries)
    return Entries(entries) if kind == "dict" else SimpleNamespace(**entries)
