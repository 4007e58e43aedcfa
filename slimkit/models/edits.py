"""What was done to a network since its architecture, done again to a fresh one; each step is checked."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import nn

from slimkit.errors import ArchitectureError
from slimkit.models.building import set_attributes
from slimkit.models.factors import Factors, pair
from slimkit.models.plain_layers import build
from slimkit.provenance import Edit, Factorised, Masked, Narrowed, Replaced


def replay_(model: nn.Module, edits: Sequence[Edit]) -> None:
    """Give a network just built the modules and attributes it had after some edits; its weights follow later.

    Raises:
        ArchitectureError: an edit names what the network does not have, or a rank that is none.
    """
    for edit in edits:
        if isinstance(edit, Narrowed):
            set_attributes(model, edit.attributes)
        elif isinstance(edit, Factorised):
            for path, rank in edit.ranks.items():
                _replace(model, path, partial(pair, rank=rank), "two thin layers")
        elif isinstance(edit, Replaced):
            made: dict[nn.Module, nn.Module] = {}  # a module may have several places
            for path, said in edit.layers.items():
                _replace(model, path, partial(_once, made, said), "a plain layer")
        else:
            known = dict(model.named_parameters())
            for name in edit.left:
                if name not in known:
                    raise ArchitectureError(
                        f"the architecture has no weight {name!r} that could be masked.\n  {_OTHER}"
                    )


def check(model: nn.Module, edits: Sequence[Edit]) -> None:
    """Check that the weights of a network are such as the edits leave.

    Raises:
        ArchitectureError: layers of other shapes than they say, or more weights than a mask left.
    """
    plain = {path for edit in edits if isinstance(edit, Replaced) for path in edit.layers}
    for path, module in model.named_modules():
        for layer in module if isinstance(module, Factors) else (module,) if path in plain else ():
            found, said = tuple(layer.get_parameter("weight").shape), _shape(layer)
            if found != said:
                raise ArchitectureError(f"the weight of {path!r} is {found}, but {said} by its layer.\n  {_OTHER}")
    weights = dict(model.named_parameters())
    for edit in edits:
        for name, left in edit.left.items() if isinstance(edit, Masked) else ():
            count = int(weights[name].count_nonzero()) if name in weights else 0
            if count > left:
                raise ArchitectureError(
                    f"{name!r} has {count} weights that are not 0: its mask leaves {left}.\n  {_OTHER}"
                )


_OTHER = "The file was made with another version of the architecture, or was changed: make it again."


def _replace(model: nn.Module, path: str, make: Callable[[nn.Module], nn.Module], what: str) -> None:
    parent, _, name = path.rpartition(".")
    try:
        owner, layer = model.get_submodule(parent), model.get_submodule(path)
    except AttributeError:
        raise ArchitectureError(f"the architecture has no layer {path!r}.\n  {_OTHER}") from None
    if not path:
        raise ArchitectureError(f"the whole network cannot be {what}.\n  {_OTHER}")
    try:
        made = make(layer)
    except (ValueError, TypeError, ZeroDivisionError, OverflowError, RuntimeError) as error:  # odd numbers in a file
        raise ArchitectureError(f"{path!r} cannot be {what} ({error}).\n  {_OTHER}") from None
    setattr(owner, name, made)


def _once(made: dict[nn.Module, nn.Module], said: dict[str, Any], layer: nn.Module) -> nn.Module:
    if layer not in made:
        made[layer] = build(said)
    return made[layer]


def _shape(layer: nn.Module) -> tuple[int, ...]:
    if isinstance(layer, nn.Linear):
        return (layer.out_features, layer.in_features)
    assert isinstance(layer, nn.modules.conv._ConvNd)
    rows, columns = layer.out_channels, layer.in_channels
    if layer.transposed:
        rows, columns = columns, rows
    return (rows, columns // layer.groups, *layer.kernel_size)
