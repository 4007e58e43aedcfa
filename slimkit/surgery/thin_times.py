"""Up to which rank two thin layers are faster than the one they replace: measured, since MACs do not tell."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import nn

from slimkit.export import export_onnx
from slimkit.measure.conditions import Conditions
from slimkit.measure.latency import measure
from slimkit.models.factors import pair
from slimkit.progress import Progress, quiet
from slimkit.surgery.ranks import Spectrum

_SECONDS = 0.3  # that each layer is timed, each way
_MARGIN = 0.03  # by which two have to be faster: of one and the same layer times were up to 2 % apart


@dataclass(frozen=True)
class ThinTime:
    """Milliseconds of one layer alone, as it is and as two of a rank.

    Attributes:
        path: of the layer.
        rank: that was timed.
        dense_ms, thin_ms: of one, and of two.
        step: ranks of the layer are multiples of it.
    """

    path: str
    rank: int
    dense_ms: float
    thin_ms: float
    step: int = 1

    @property
    def faster(self) -> bool:
        """Two are faster than one, by more than times of the same differ."""
        return self.thin_ms < (1 - _MARGIN) * self.dense_ms


Measure = Callable[[Mapping[str, int]], Sequence[ThinTime]]  # path -> rank that is to be timed
_Choose = Callable[[Spectrum, Callable[[int], ThinTime]], ThinTime]  # a layer, and what times it at a rank


def times(
    model: nn.Module, found: Sequence[Spectrum], conditions: Conditions, progress: Progress = quiet
) -> list[ThinTime]:
    """Time layers both ways in turns, at ranks that halve in on the highest that is faster; shapes alone decide.

    Args:
        model: holds the layers; not changed.
        found: its layers.
        conditions: what times are of.
        progress: called with what is being done, and the share done.

    Returns:
        The highest rank that is faster, of those tried, of each layer; the lowest one where none is.
    """

    def highest(layer: Spectrum, at: Callable[[int], ThinTime]) -> ThinTime:
        best = at(layer.step)
        paying = [
            rank
            for rank in range(layer.step, len(layer.energy) + 1, layer.step)
            if layer.paying(rank, "params") or layer.paying(rank, "macs")
        ]
        low, high = 0, len(paying)
        while best.faster and high - low > 1:
            middle = (low + high) // 2
            tried = at(paying[middle])
            low, high, best = (middle, high, tried) if tried.faster else (low, middle, best)
        return best

    return _each(model, found, highest, conditions, progress)


def times_of(
    model: nn.Module,
    found: Sequence[Spectrum],
    ranks: Mapping[str, int],
    conditions: Conditions,
    progress: Progress = quiet,
) -> list[ThinTime]:
    """Time layers both ways in turns, each at the one rank given for it, path -> rank; the others not at all."""
    asked = [layer for layer in found if layer.path in ranks]
    return _each(model, asked, lambda layer, at: at(ranks[layer.path]), conditions, progress)


def _each(
    model: nn.Module,
    found: Sequence[Spectrum],
    choose: _Choose,
    conditions: Conditions,
    progress: Progress,
) -> list[ThinTime]:
    """Return what `choose` gives for each layer, and for what times it at a rank."""
    timed = []
    for number, layer in enumerate(found):
        progress("timing layers as one and as two", number / len(found))
        timed.append(_one(model.get_submodule(layer.path), layer, choose, conditions))
    return timed


def _one(module: nn.Module, layer: Spectrum, choose: _Choose, conditions: Conditions) -> ThinTime:
    image = torch.zeros(1, *layer.shape)
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder) / "dense.onnx", Path(folder) / "thin.onnx"
        export_onnx(nn.Sequential(module).eval(), files[0], image)

        def at(rank: int) -> ThinTime:
            thin = pair(module, rank).to_empty(device=image.device)
            for parameter in thin.parameters():
                nn.init.normal_(parameter, generator=torch.Generator().manual_seed(0))  # numbers make no difference
            export_onnx(nn.Sequential(thin).eval(), files[1], image)
            one, two = measure(files, **asdict(conditions), seconds=_SECONDS)
            return ThinTime(layer.path, rank, one.typical_ms, two.typical_ms, layer.step)

        return choose(layer, at)


def bounded(found: Sequence[Spectrum], timed: Sequence[ThinTime]) -> list[Spectrum]:
    """Return layers that are two at no rank at which two are slower; of such as were not timed nothing is known."""
    known = {time.path: time for time in timed}

    def limited(layer: Spectrum) -> Spectrum:
        time = known.get(layer.path)
        return replace(layer, most=time.rank if time.faster else 0, step=time.step) if time else layer

    return [limited(layer) for layer in found]


def settled(
    found: Sequence[Spectrum],
    timed: Sequence[ThinTime],
    choose: Callable[[Sequence[Spectrum]], dict[str, int]],
    measure: Measure,
) -> tuple[dict[str, int], list[ThinTime]]:
    """Return ranks of which each was timed, and is faster; and all times.

    A rank between two that were tried may still be slower: then ranks are chosen anew, of that layer from lower ones.
    The lowest one was the first that was tried.

    Args:
        found: the layers.
        timed: of each the highest rank that is faster, of those tried.
        choose: layers -> their ranks, by path.
        measure: times layers at ranks.
    """
    known = list(timed)
    layers = {layer.path: layer for layer in bounded(found, timed)}
    while True:
        chosen = choose(list(layers.values()))
        sure = {(time.path, time.rank) for time in known}
        unsure = {p: rank for p, rank in chosen.items() if (p, rank) not in sure and rank > layers[p].step}
        if not unsure:
            return chosen, known
        for time in measure(unsure):
            known.append(time)
            if not time.faster:
                layers[time.path] = replace(layers[time.path], most=time.rank - time.step)
