"""The record of a proof: two networks, inputs of several kinds, and what each of them showed."""

import io
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr
from dataclasses import asdict, dataclass, replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from slimkit import out_of_memory
from slimkit.dtypes import dtype_of, in_precision
from slimkit.example import Example, call, tensors
from slimkit.hardware import seeded
from slimkit.modules import copied, private, unwrapped
from slimkit.surgery.difference import relative_error, varies, without_gaps
from slimkit.surgery.trials import Trial, placed, wilder

TOLERANCE = 1e-4
_ROUNDING = TOLERANCE / 10  # in float32 more may be rounding: double precision tells
_MORE = 3  # inputs tried where an output channel was the same on all the others
_NEVER = float("inf")
_WHOLE = 0  # in the place of a dimension: all of them
_LOW = (torch.float16, torch.bfloat16)  # proven in float32: the same weights, without the rounding between layers


@dataclass(frozen=True)
class Shown:
    """What one input showed.

    Attributes:
        kind: what kind of input.
        shapes: of its tensors.
        error: relative error of the outputs; None where they are no evidence.
        gaps: numbers of the expected output that are not finite; the others are compared.
        note: why the outputs are no evidence, or what the smaller network raised.
    """

    kind: str
    shapes: tuple[tuple[int, ...], ...]
    error: float | None
    gaps: int = 0
    note: str = ""


@dataclass(frozen=True)
class Evidence:
    """What was proven on what.

    Attributes:
        shown: one entry an input.
        untouched: parameters that no run read: of branches that run only in training, or never.
        constant: output channels that were the same on every input, so that nothing is known of them.
        channels: all output channels.
        random: in evaluation mode the network draws random numbers; both were given the same.
        stateful: a second call gives another output than the first; first calls were compared.
    """

    shown: tuple[Shown, ...]
    untouched: tuple[str, ...] = ()
    constant: int = 0
    channels: int = 0
    random: bool = False
    stateful: bool = False

    @property
    def error(self) -> float:
        """The largest relative error; inf where nothing is evidence."""
        return max((shown.error for shown in self.shown if shown.error is not None), default=_NEVER)

    @property
    def proven(self) -> bool:
        """The two networks agree, on outputs that vary: where they never do, agreeing says nothing."""
        return self.error <= TOLERANCE and self.constant < max(self.channels, 1)

    @property
    def on(self) -> tuple[str, ...]:
        """The kinds of inputs that are evidence."""
        return tuple(dict.fromkeys(shown.kind for shown in self.shown if shown.error is not None))

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as JSON-able values."""
        return {
            "error": self.error,
            "shown": [{**asdict(shown), "shapes": [list(shape) for shape in shown.shapes]} for shown in self.shown],
            "untouched": list(self.untouched),
            "constant": self.constant,
            "channels": self.channels,
            "random": self.random,
            "stateful": self.stateful,
        }


def evidence(expected: nn.Module, found: nn.Module, inputs: Sequence[Trial]) -> Evidence:
    """Hold two networks against each other; outputs that never vary are tried with more inputs.

    Each input is given to fresh copies of both, with the same random numbers, so that nothing that a network
    remembers or draws is taken for a difference. Where rounding could explain one, both run in float64.

    Args:
        expected: what the other must compute; untouched.
        found: the other; untouched.
        inputs: see `slimkit.surgery.trials.trials`.
    """
    touched = _Touched()
    columns = _Columns()
    shown = tuple(_shown(expected, found, inputs, touched, columns))
    random, stateful = _behaviour(expected, inputs)
    names = {id(p): name for name, p in expected.named_parameters()}
    return Evidence(
        shown=shown,
        untouched=tuple(name for key, name in names.items() if key not in touched.seen),
        constant=columns.constant,
        channels=columns.total,
        random=random,
        stateful=stateful,
    )


def differ(expected: nn.Module, found: nn.Module, inputs: Sequence[Trial]) -> bool:
    """Tell whether two networks are not proven equal, from the first input that says so on; see `evidence`."""
    errors = (shown.error for shown in _shown(expected, found, inputs, _Touched(), _Columns()))
    said = False
    for error in errors:
        if error is not None and not error <= TOLERANCE:
            return True
        said = said or error is not None
    return not said


def runs(model: nn.Module, trial: Trial) -> bool:
    """Tell whether a network runs on an input."""
    return raised(model, trial) is None


def raised(model: nn.Module, trial: Trial) -> Exception | None:
    """Return what a network raises on an input."""
    found = _Pair(model, model, trial).expected()
    return found if isinstance(found, Exception) else None


def _shown(
    expected: nn.Module, found: nn.Module, inputs: Sequence[Trial], touched: "_Touched", columns: "_Columns"
) -> Iterator[Shown]:
    """Give what each input shows; note which parameters are read, and how far outputs vary."""
    for number, trial in enumerate(chain(inputs, (wilder(inputs[0].example, seed) for seed in range(_MORE)))):
        if number >= len(inputs) and not columns.constant:
            return  # every output channel has varied: no need of more
        run = _Pair(expected, found, trial)
        with touched:
            wanted = run.expected()
        if isinstance(wanted, Exception):
            yield run.shown(None, note=f"the network does not run on it: {_line(wanted)}")
            continue
        columns.note(wanted)
        seen = run.compared(wanted)
        if seen.error is not None and not seen.note and (number == 0 or not seen.error <= _ROUNDING):
            precise = run.in_double()
            if precise is not None:
                seen = replace(seen, error=precise if seen.error > _ROUNDING else max(seen.error, precise))
        yield seen


class _Pair:
    """One input, and the two networks that are to compute the same on it."""

    def __init__(self, expected: nn.Module, found: nn.Module, trial: Trial, dtype: torch.dtype | None = None) -> None:
        self.networks = (expected, found)
        self.trial = trial
        self.dtype = dtype or (torch.float32 if dtype_of(expected) in _LOW else None)

    def expected(self) -> Any:
        """Return the expected output, or the exception that the network raises on this input."""
        try:
            return _run(self.networks[0], self.trial.example, self.dtype)
        except Exception as error:
            return error

    def compared(self, wanted: Any) -> Shown:
        """Return what the output of the smaller network shows beside the expected one."""
        try:
            got = _run(self.networks[1], self.trial.example, self.dtype)
        except Exception as raised:  # a network that cannot run is the strongest disproof there is
            out_of_memory.pass_on(raised)
            return self.shown(_NEVER, note=f"the smaller network does not run on it: {_line(raised)}")
        a, b, gaps = without_gaps(wanted, got)
        error = relative_error(a, b)
        if error <= TOLERANCE and not any(varies(tensor) for tensor in a):
            note = "the output is constant" if any(t.numel() for t in a) else "the output is empty"
            return self.shown(None, gaps, "no number of the output is finite" if gaps else note)
        return self.shown(error, gaps)

    def in_double(self) -> float | None:
        """Return the error in double precision; None where the network does not run in it."""
        again = _Pair(*self.networks, self.trial, torch.float64)
        wanted = again.expected()
        return None if isinstance(wanted, Exception) else again.compared(wanted).error

    def shown(self, error: float | None, gaps: int = 0, note: str = "") -> Shown:
        shapes = tuple(tuple(t.shape) for t in tensors(self.trial.example))
        return Shown(self.trial.kind, shapes, error, gaps, note)


def _run(model: nn.Module, example: Example, dtype: torch.dtype | None = None) -> Any:
    """Call a fresh copy of a network in evaluation mode, with seeded random numbers."""
    twin = private(model) if dtype is None else in_precision(copied(model), dtype).eval()
    return _called(unwrapped(twin), placed(example, twin, dtype))


@torch.no_grad()
def _called(model: nn.Module, example: Example, seed: int = 0) -> Any:
    with seeded(seed), redirect_stderr(io.StringIO()):  # an fx network prints the code that raised
        return call(model, example)


def _behaviour(model: nn.Module, inputs: Sequence[Trial]) -> tuple[bool, bool]:
    """Tell whether a network draws random numbers in evaluation mode, and whether it remembers what it has seen.

    One that returns something else with other random numbers, or at a second call, does, and so does one that raises.
    """
    for trial in inputs:
        twin = unwrapped(private(model))
        first = _returned(twin, trial)
        if isinstance(first, Exception):
            continue  # does not run on this one
        other = _returned(unwrapped(private(model)), trial, seed=1)
        return not _same(first, other), not _same(first, _returned(twin, trial))
    return False, False


def _returned(model: nn.Module, trial: Trial, seed: int = 0) -> list[Tensor] | Exception:
    """Return the tensors that a network returns, or what it raises."""
    example = placed(trial.example, model)
    try:
        returned = _called(model, example, seed)
    except Exception as error:  # of a network's own code, which may raise any
        return error
    return [tensor.clone() for tensor in tensors(returned)]


def _same(a: list[Tensor] | Exception, b: list[Tensor] | Exception) -> bool:
    if isinstance(a, Exception) or isinstance(b, Exception) or len(a) != len(b):
        return False
    return all(x.shape == y.shape and torch.equal(x.nan_to_num(), y.nan_to_num()) for x, y in zip(a, b, strict=True))


class _Touched(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes which objects, parameters among them, operators read."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for arg in args:
            self.seen.update(map(id, arg if isinstance(arg, (list, tuple)) else (arg,)))
        return func(*args, **(kwargs or {}))


class _Columns:
    """Keeps the range of every output channel over all inputs.

    Channels lie along dimension 1, of [N, T, C] along the last; a dimension whose length is another at another size
    has none, as one of positions or anchors. Where no dimension has any, as in [N], the whole tensor is one.
    """

    def __init__(self) -> None:
        self._ranges: dict[int, dict[int, dict[int, tuple[Tensor, Tensor]]]] = {}  # by place, dimension and length

    def note(self, output: Any) -> None:
        for place, tensor in enumerate(tensors(output)):
            if not tensor.numel() or tensor.is_complex() or tensor.dtype == torch.bool:
                continue
            seen = self._ranges.setdefault(place, {})
            for dim in (2, 1) if tensor.dim() == 3 else (1,) if tensor.dim() > 1 else ():
                others = [d for d in range(tensor.dim()) if d != dim]
                _widen(seen.setdefault(dim, {}), tensor.amin(others), tensor.amax(others))
            _widen(seen.setdefault(_WHOLE, {}), tensor.min()[None], tensor.max()[None])

    def _channels(self) -> Iterator[tuple[Tensor, Tensor]]:
        for by_dimension in self._ranges.values():
            lengths = next(lengths for lengths in by_dimension.values() if len(lengths) == 1)
            yield from lengths.values()

    @property
    def total(self) -> int:
        return sum(len(low) for low, _ in self._channels())

    @property
    def constant(self) -> int:
        return sum(int((low == high).sum()) for low, high in self._channels())


def _widen(ranges: dict[int, tuple[Tensor, Tensor]], low: Tensor, high: Tensor) -> None:
    if (known := ranges.get(len(low))) is not None:
        low, high = torch.minimum(low, known[0]), torch.maximum(high, known[1])
    ranges[len(low)] = low, high


def _line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:120]}" if lines else type(error).__name__
