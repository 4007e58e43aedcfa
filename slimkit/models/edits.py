"""What was done to a network since its architecture, done again to a fresh one; each step is checked."""

from collections.abc import Sequence

from torch import nn

from slimkit.errors import ArchitectureError
from slimkit.models.building import set_attributes
from slimkit.models.factors import Factors, pair
from slimkit.provenance import Edit, Factorised, Masked, Narrowed


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
                _replace(model, path, rank)
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
        ArchitectureError: thin layers of other shapes than they say, or more weights than a mask left.
    """
    for path, module in model.named_modules():
        for layer in module if isinstance(module, Factors) else ():
            found, said = tuple(layer.get_parameter("weight").shape), _shape(layer)
            if found != said:
                raise ArchitectureError(
                    f"the weight of a thin layer of {path!r} is {found}, but {said} by its layer.\n  {_OTHER}"
                )
    weights = dict(model.named_parameters())
    for edit in edits:
        for name, left in edit.left.items() if isinstance(edit, Masked) else ():
            count = int(weights[name].count_nonzero()) if name in weights else 0
            if count > left:
                raise ArchitectureError(
                    f"{name!r} has {count} weights that are not 0: its mask leaves {left}.\n  {_OTHER}"
                )


_OTHER = "The file was made with another version of the architecture, or was changed: make it again."


def _replace(model: nn.Module, path: str, rank: int) -> None:
    parent, _, name = path.rpartition(".")
    try:
        owner, layer = model.get_submodule(parent), model.get_submodule(path)
    except AttributeError:
        raise ArchitectureError(f"the architecture has no layer {path!r}.\n  {_OTHER}") from None
    if not path:
        raise ArchitectureError(f"the whole network cannot be two thin layers.\n  {_OTHER}")
    try:
        thin = pair(layer, rank)
    except (ValueError, TypeError, ZeroDivisionError, OverflowError, RuntimeError) as error:  # odd numbers in a file
        raise ArchitectureError(f"{path!r} cannot be two thin layers ({error}).\n  {_OTHER}") from None
    setattr(owner, name, thin)


def _shape(layer: nn.Module) -> tuple[int, ...]:
    if isinstance(layer, nn.Linear):
        return (layer.out_features, layer.in_features)
    assert isinstance(layer, nn.Conv2d)
    return (layer.out_channels, layer.in_channels // layer.groups, *layer.kernel_size)
