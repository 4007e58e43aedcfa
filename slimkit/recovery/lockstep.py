"""Forward passes that wait for one another: many batches through two networks, a layer at a time.

Least squares, layer after layer, need what *all* calibration inputs give at a layer before any of them may go on. A
network's forward pass is anybody's code and cannot be cut in two, so each pass runs in a thread of its own that is
put to sleep at every call that matters. One thread runs at a time; the order is fixed. The operators themselves are
computed by the thread that asked to advance: the C library gives each thread memory of its own, in which the holes of
the others are of no use (a ResNet-50 on 256 images: 2.6 GB at the peak instead of 3.7).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from queue import SimpleQueue
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from slimkit.example import Example, call
from slimkit.recovery.residual import Shortcut, result

_NONE: Mapping[int, Shortcut] = MappingProxyType({})
Stop = Callable[[Any, tuple[Any, ...]], Any | None]  # operator and arguments -> what to stop with, None to go on


class Lane:
    """One forward pass, stopped at each call that `stop` picks.

    Args:
        model: in evaluation mode.
        example: its input.
        stop: is called with each operator and its arguments before it runs.
        after: stop after the operator has run, and hand out its result too.
        shortcuts: by the number of a stop; what the output there is added to is then `beside`.

    Attributes:
        beside: of the last stop; None where it has no shortcut.
    """

    def __init__(
        self, model: nn.Module, example: Example, stop: Stop, after: bool, shortcuts: Mapping[int, Shortcut] = _NONE
    ) -> None:
        self._model, self._example, self._stop, self._after = model, example, stop, after
        self._wanted: dict[int, list[int]] = {}  # number of an operator -> stops that its result lies beside
        for number, one in shortcuts.items():
            self._wanted.setdefault(one.made_by, []).append(number)
        self._kept: dict[int, Tensor] = {}
        self._stops = self._operators = 0
        self.beside: Tensor | None = None
        self._go, self._stopped = SimpleQueue[None](), SimpleQueue[None]()  # semaphores, but in C
        self._event: Any = None
        self._error: BaseException | None = None
        self._asked: tuple[Any, Any, Any, Any] | None = None  # what is to be computed, see `_computed`
        self._answer: tuple[Any, BaseException | None] = (None, None)
        self._given_up = False
        self.output: Any = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def advance(self) -> Any:
        """Run to the next stop and return what it is for, with the result if `after`; None at the end."""
        self._event = None
        self._go.put(None)
        self._stopped.get()
        while self._asked is not None:
            self._answer = _answer(*self._asked)
            self._asked = None
            self._go.put(None)
            self._stopped.get()
        if self._error is not None:
            raise self._error
        return self._event

    def close(self) -> None:
        """End a pass that is not at its end."""
        self._given_up = True
        self._go.put(None)
        self._thread.join()

    def _run(self) -> None:
        self._go.get()
        try:
            if not self._given_up:
                with torch.no_grad(), _Stops(self):
                    self.output = call(self._model, self._example)
        except _GivenUpError:
            pass
        except BaseException as error:
            self._error = error
        self._event = None
        self._stopped.put(None)

    def _halt(self, event: Any) -> None:
        self._event, self.beside = event, self._kept.pop(self._stops, None)
        self._stops += 1
        self._wait()

    def _wait(self) -> None:
        self._stopped.put(None)
        self._go.get()
        if self._given_up:
            raise _GivenUpError

    def _computed(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Have an operator computed by the thread that waits, as far down in the dispatcher as it is here."""
        keys = torch._C._dispatch_tls_local_include_set(), torch._C._dispatch_tls_local_exclude_set()
        self._asked = keys, func, args, kwargs
        self._wait()
        (out, error), self._answer = self._answer, (None, None)
        if error is not None:
            raise error
        return out


def _answer(keys: Any, func: Any, args: Any, kwargs: Any) -> tuple[Any, BaseException | None]:
    try:
        with torch._C._ForceDispatchKeyGuard(*keys):
            return func(*args, **(kwargs or {})), None
    except Exception as error:
        return None, error


class _GivenUpError(BaseException):
    """Ends the thread of a pass that nobody waits for; no code of a network catches it."""


class _Stops(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, lane: Lane) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.lane = lane

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        event = self.lane._stop(func, args)
        if event is not None and not self.lane._after:
            self.lane._halt(event)
        out = self.lane._computed(func, args, kwargs)
        for number in self.lane._wanted.get(self.lane._operators, ()):
            if isinstance(tensor := result(out), Tensor):  # else other inputs take another way through the network
                self.lane._kept[number] = tensor
        self.lane._operators += 1
        if event is not None and self.lane._after:
            self.lane._halt((event, out))
        return out
