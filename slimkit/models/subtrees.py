"""Which part of one state dict is the network, by the prefix of its names: training code keeps more in it.

Beside the network lie a moving average of it, a teacher, losses and metrics, as in checkpoints of Lightning.
"""

import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from slimkit.errors import CheckpointError, SlimkitError
from slimkit.models import building, signatures, weights
from slimkit.models.reference import Reference, parse

Parts = dict[str, frozenset[str]]  # prefix -> names behind it that are a network's

_AVERAGE = re.compile(r"(?i)(?:^|_)(?:ema|swa|averaged?|shadow)(?:_|$)")
_DEPTH = 5  # of a prefix
_STATISTICS = (".running_mean", ".running_var")


def chosen(tensors: dict[str, Tensor], arch: str | None, where: str) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return the part of a state dict that is the network, by its own names, and what to say of the choice.

    A moving average comes before the weights that it is of. Where no part is the network, all is returned.

    Args:
        tensors: as the file names them.
        arch: how to build the network; None where it is to be found, and only usual prefixes count.
        where: name of the file, for messages.

    Raises:
        CheckpointError: several parts are, with other numbers, and none of them is a moving average.
    """
    tidy = {weights.modern(name): tensor for name, tensor in tensors.items()}
    reference = parse(arch) if arch is not None else None
    found, partial = _found(tidy, reference)
    averages = {prefix: names for prefix, names in found.items() if _is_average(prefix)}
    pool = averages or found
    if not averages and len(found) == 1 and len(partial) == 1:
        whole, part = next(iter(found)), next(iter(partial))
        own = {name.removeprefix(whole): tensor for name, tensor in tidy.items() if name.startswith(whole)}
        lean = {name.removeprefix(part): tensor for name, tensor in tidy.items() if name.startswith(part)}
        return {**own, **lean}, (f"{_taken((whole, part), part)}; what it lacks is that of {_quoted(whole)}",)
    if not pool or (not averages and "" in pool):
        return tensors, ()
    prefix = _one(tidy, pool, reference, where)
    beside = [name for name in tidy if not name.startswith(prefix)]
    rest = [name for name in beside if not any(name.startswith(other) for other in found)]
    if reference is None and len(rest) >= len(found[prefix]):
        return tensors, ()
    said: tuple[str, ...] = ()
    if len(found) > 1:
        said = (_taken(tuple(found), prefix),)
    elif beside:
        few = f"{', '.join(beside[:3])}{f' and {len(beside) - 3} more' if len(beside) > 3 else ''}"
        average = ", a moving average" if averages else ""
        said = (f"the weights are those under {prefix!r} in the state dict{average}; beside them {few}: ignored",)
    return {name.removeprefix(prefix): tidy[name] for name in tidy if name.startswith(prefix)}, said


def _found(tidy: Mapping[str, Tensor], reference: Reference | None) -> tuple[Parts, Parts]:
    """Return the parts that are the network, and averages of its parameters that lack the statistics of BatchNorm."""
    by_prefix: dict[str, list[str]] = {"": list(tidy)}
    for name in tidy:
        words = name.split(".", _DEPTH + 1)[:-1][:_DEPTH]
        for count in range(1, len(words) + 1):
            if reference is None and not _is_usual(words[count - 1]):
                break
            prefix = ".".join(words[:count]) + "."
            by_prefix.setdefault(prefix, []).append(name.removeprefix(prefix))
    fits, lean = _of_reference(reference) if reference is not None else (_of_any, None)
    found: Parts = {}
    partial: Parts = {}
    for prefix, names in by_prefix.items():
        part = {name: tidy[prefix + name] for name in names}
        used = fits(part)
        if used:
            found[prefix] = used
        elif lean and _is_average(prefix) and lean <= part.keys():
            partial[prefix] = lean
    for prefix in list(found):
        if _within(prefix, found):
            del found[prefix]
        elif reference is None and found[prefix] <= tidy.keys():
            found[""] = found[prefix]
    if "" in found:
        found = {prefix: names for prefix, names in found.items() if not prefix or _is_average(prefix)}
    return found, partial


def _within(prefix: str, found: Parts) -> bool:
    """Tell whether a network is a part of one that is found around it."""
    words = prefix.split(".")[:-1]
    around = (".".join([*words[:count], ""]) for count in range(len(words)))
    own = {prefix + name for name in found[prefix]}
    return any(own <= {outer + name for name in found[outer]} for outer in around if outer in found)


def _of_reference(
    reference: Reference,
) -> tuple[Callable[[Mapping[str, Tensor]], frozenset[str] | None], frozenset[str]]:
    model = building.skeleton(reference, building.placeholders(reference))
    wanted = frozenset(signatures.shapes_of(model.state_dict()))
    lean = frozenset(name for name in wanted if not name.endswith(_STATISTICS))

    def fits(part: Mapping[str, Tensor]) -> frozenset[str] | None:
        return wanted if wanted <= part.keys() else None

    return fits, lean


def _of_any(part: Mapping[str, Tensor]) -> frozenset[str] | None:
    """Return the names of a part that is exactly one of the architectures that are known by their tensors."""
    shapes = signatures.shapes_of(part)
    return frozenset(shapes) if any(signatures.match(shapes, entry) for entry in signatures.index()) else None


def _one(tidy: Mapping[str, Tensor], pool: Parts, reference: Reference | None, where: str) -> str:
    """Return the prefix of several that a network is under: the only one, of its sizes, or all are the same numbers."""
    if len(pool) > 1 and reference is not None:
        pool = {prefix: names for prefix, names in pool.items() if _of_size(tidy, prefix, names, reference)} or pool
    first, *others = pool
    for other in others:
        if not all(torch.equal(tidy[first + name], tidy[other + name]) for name in pool[first] & pool[other]):
            raise CheckpointError(
                f"{where}: the state dict holds the network {len(pool)} times, under "
                f"{', '.join(map(repr, pool))}, with other numbers, and nothing says which is meant.\n"
                f"  Save one alone: torch.save({{name[{len(first)}:]: tensor for name, tensor in state.items() "
                f"if name.startswith({first!r})}}, PATH)"
            )
    return first


def _of_size(tidy: Mapping[str, Tensor], prefix: str, names: frozenset[str], reference: Reference) -> bool:
    """Tell whether tensors are of an architecture's sizes, but for classes and the channels of images."""
    try:
        entry = signatures.signature(Reference(reference.source, reference.name), dict(reference.arguments))
    except SlimkitError:
        return True
    return signatures.match({name: tuple(tidy[prefix + name].shape) for name in names}, entry) is not None


def _is_average(prefix: str) -> bool:
    return any(_AVERAGE.search(word) for word in prefix.split("."))


def _is_usual(word: str) -> bool:
    return word in weights.USUAL or _AVERAGE.search(word) is not None


def _taken(all_of: tuple[str, ...], prefix: str) -> str:
    listed = " and ".join(map(_quoted, all_of))
    if not _is_average(prefix):
        return f"of {listed} in the state dict, which are the same or not of these sizes, {prefix!r} was taken"
    return (
        f"of {listed} in the state dict, the moving average, {prefix!r}, was taken, by which training code judges "
        "a network"
    )


def _quoted(prefix: str) -> str:
    return repr(prefix) if prefix else "the top"
