"""A pickle read as data: its opcodes are followed here, and only what a vocabulary knows is ever made.

Python's own machine imports what a pickle names and calls it. This one asks the vocabulary, which has a short
list of what may be called with what; everything else is refused by its name.
"""

import io
import pickletools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

_LARGEST = 2**127  # of a number: larger ones cannot even be printed
_LARGEST_KEY = 2**63  # of the multiples of 2^61 - 1, which all hash to 0, only eight are smaller
_LARGEST_MEMO = 2**32  # Python's own machine keeps a list, whose places are numbers of 32 bits in most opcodes
_LONGEST_KEY = 16
_LETTERS = 100  # of a key: so many are compared in the time of one more value
_COMPARISONS = 10_000**2 / 2  # of keys: 10,000 tuples can be made to look for the same place
_ALIKE = 4_500**2 / 2  # of keys of one hash, of which each takes ten times as long as looking at a place
_COPIES, _FEW_COPIES = 16, 2**26  # bytes that calls may take and make: times those of the pickle, and at least
_LONGEST_NAME = 1_000
_VALUES = frozenset(
    ("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "INT", "LONG", "BINFLOAT", "FLOAT", "BINUNICODE", "UNICODE",
     "SHORT_BINUNICODE", "BINUNICODE8", "SHORT_BINSTRING", "BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8")
)  # fmt: skip
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set}


@dataclass(frozen=True, eq=False)
class Word:
    """What a name in a pickle stands for, where that is more than a constant.

    Attributes:
        name: `place.leaf`, as in the pickle.
        meaning: what it is where it is not called: a class, a function.
        call: makes a value of arguments (checked by it); None where it may not be called.
        empty: whether objects of it may be made empty and given a state.
        hashes: whether it makes a table or a set: it is given `allowance` by name then, for `Allowance.keys`.
    """

    name: str
    meaning: Any = None
    call: Callable[..., Any] | None = None
    empty: bool = False
    hashes: bool = False


@dataclass(eq=False)
class Empty:
    """An object that a pickle makes without arguments, and the state that it gives it afterwards."""

    word: Word
    state: Any = None


class Filled:
    """A value of the vocabulary that is made first and given its state afterwards."""

    def fill(self, state: Any) -> None:
        """Take the state, checked."""
        raise NotImplementedError


class Refused(Exception):
    """A pickle asks for something that is not in the vocabulary; the message is its name."""


class Allowance:
    """What reading one file may cost, however many pickles are in it: each opcode takes its part.

    Args:
        size: bytes of the file, or of the pickle in it.
    """

    def __init__(self, size: int) -> None:
        self._bytes, self._comparisons, self._alike = max(_FEW_COPIES, _COPIES * size), _COMPARISONS, _ALIKE
        self._hashes: Counter[int] = Counter()  # of all keys of several values, in whatever table

    def copied(self, value: Any) -> Any:
        """Return a value that a call takes or made, charged by its bytes: one can be named again and again.

        Raises:
            ValueError: there were too many.
        """
        self._bytes -= bytes_of(value)
        if self._bytes < 0:
            raise ValueError("copies that take more than sixteen times the pickle")
        return value

    def keys(self, items: Sequence[Any], beside: int = 0) -> Sequence[Any]:
        """Return what is to be keys of a table, or items of a set, if they can be hashed in little time and depth.

        Charged are places looked at, as if all tuples had one, and comparisons, of those that have one hash; nobody can
        foresee either of a text.

        Args:
            items: the keys.
            beside: how many the table has already.

        Raises:
            ValueError: large numbers, which can be made to have one hash; tuples within tuples, whose hash takes as
                much of the stack as they are deep; too many tuples.
        """
        for item in items:
            kind = type(item)
            if (kind is str and len(item) < _LETTERS) or (kind is int and -_LARGEST_KEY <= item < _LARGEST_KEY):
                continue
            several = isinstance(item, tuple)
            parts = item if several else (item,)
            if len(parts) > _LONGEST_KEY or any(isinstance(part, tuple | frozenset | complex) for part in parts):
                raise ValueError("a key of nested or complex values")
            if any(isinstance(part, int) and not -_LARGEST_KEY <= part < _LARGEST_KEY for part in parts):
                raise ValueError("a key of more than 64 bits")
            letters = sum(len(part) for part in parts if isinstance(part, str | bytes)) // _LETTERS
            self._comparisons -= (1 + letters) * (beside + len(items) / 2) if several else letters
            if several:
                self._alike -= (1 + letters) * min(self._hashes[hash(item)], beside + len(items))
                self._hashes[hash(item)] += 1
            if min(self._comparisons, self._alike) < 0:
                raise ValueError("keys of several values, more than can be compared")
        return items


def run(
    stream: BinaryIO,
    names: Callable[[str], Any],
    storages: Callable[[Any], Any],
    allowance: Allowance | None = None,
) -> Any:
    """Read one pickle, up to its end mark.

    Args:
        stream: left behind the end mark.
        names: gives the constant or the `Word` for a name, or raises `Refused`.
        storages: gives the value for a persistent id.
        allowance: of the file; by default the pickle is all there is.

    Raises:
        Refused: the pickle asks for a name that is not known, or calls what may not be called.
        Exception: any other, where the pickle is damaged.
    """
    source = _Within(stream)
    allowance = allowance or Allowance(source.left())
    stack: list[Any] = []
    marks: list[int] = []  # heights of the stack
    memo: dict[int, Any] = {}

    def above_mark() -> list[Any]:
        place = marks.pop()
        items = stack[place:]
        del stack[place:]
        return items

    argument: Any
    for opcode, argument, _ in pickletools.genops(source):  # type: ignore[arg-type]
        name = opcode.name
        if name in _VALUES:
            if isinstance(argument, int) and not -_LARGEST < argument < _LARGEST:
                raise ValueError("a number of more than 127 bits")
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(memo[int(argument)])
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            if not 0 <= int(argument) < _LARGEST_MEMO:
                raise ValueError("a place in the memo of more than 32 bits")
            memo[int(argument)] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("PROTO", "FRAME"):
            continue
        elif name == "MARK":
            marks.append(len(stack))
        elif name == "POP":
            stack.pop()
        elif name == "POP_MARK":
            above_mark()
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            size = int(name[-1])
            stack[-size:] = [tuple(stack[-size:])]
        elif name in ("TUPLE", "LIST", "FROZENSET"):
            kind = {"TUPLE": tuple, "LIST": list, "FROZENSET": frozenset}[name]
            items = above_mark()
            stack.append(kind(allowance.keys(items) if name == "FROZENSET" else items))
        elif name == "DICT":
            stack.append(_pairs({}, above_mark(), allowance))
        elif name in ("APPEND", "APPENDS"):
            items = [stack.pop()] if name == "APPEND" else above_mark()
            _of(list, stack[-1]).extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = above_mark() if name == "SETITEMS" else [stack.pop(-2), stack.pop()]
            _pairs(_of(dict, stack[-1]), items, allowance)
        elif name == "ADDITEMS":
            items = above_mark()
            found = _of(set, stack[-1])
            found.update(allowance.keys(items, len(found)))
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            place = argument.split(" ", 1) if name == "GLOBAL" else [_of(str, stack.pop(-2)), _of(str, stack.pop())]
            stack.append(names(_name(*place)))
        elif name == "REDUCE":
            arguments = _of(tuple, stack.pop())
            stack.append(_call(stack.pop(), arguments, allowance))
        elif name == "NEWOBJ":
            arguments = _of(tuple, stack.pop())
            stack.append(_new(stack.pop(), arguments, allowance))
        elif name == "BUILD":
            state = stack.pop()
            _build(stack[-1], state)
            allowance.copied(stack[-1])
        elif name == "BINPERSID":
            stack.append(storages(stack.pop()))
        elif name == "STOP":
            return stack.pop()
        else:
            raise ValueError(f"opcode {name}")
    raise EOFError("no end mark")


def _name(place: str, leaf: str) -> str:
    if len(place) + len(leaf) > _LONGEST_NAME:
        raise ValueError("a name of more than a thousand letters")
    return f"{place}.{leaf}"


def _call(function: Any, arguments: tuple[Any, ...], allowance: Allowance) -> Any:
    if not isinstance(function, Word):
        raise Refused(f"a call of {type(function).__name__}")
    if function.call is None:
        raise Refused(function.name)
    for argument in arguments:
        allowance.copied(argument)
    counts = {"allowance": allowance} if function.hashes else {}
    return allowance.copied(function.call(*arguments, **counts))


def _new(word: Any, arguments: tuple[Any, ...], allowance: Allowance) -> Any:
    if isinstance(word, Word) and word.empty and not arguments:
        return Empty(word)
    return _call(word, arguments, allowance)  # plain data with a `__new__`: the same list holds


def _build(target: Any, state: Any) -> None:
    if isinstance(target, Empty):
        target.state = state
    elif isinstance(target, dict | list):
        pass  # attributes of a table, as `_metadata` of a state dict: nobody reads them
    elif isinstance(target, Filled):
        target.fill(state)
    else:
        raise ValueError(f"a state for {type(target).__name__}")


def _of(kind: type, value: Any) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"{type(value).__name__} where {kind.__name__} belongs")
    return value


def _pairs(table: dict[Any, Any], items: list[Any], allowance: Allowance) -> dict[Any, Any]:
    table.update(zip(allowance.keys(items[::2], len(table)), items[1::2], strict=True))
    return table


def bytes_of(made: Any) -> int:
    """Return about how many bytes a value takes by itself."""
    made = getattr(made, "value", made)  # of an array
    if isinstance(made, str | bytes | bytearray):
        return len(made)
    if isinstance(made, list | tuple | dict | set | frozenset):
        return 8 * len(made)
    return int(getattr(made, "nbytes", 0)) if type(made).__module__ == "numpy" else 0


class _Within:
    """A stream that gives no more than it has: asked for more, Python would first make room for all of it."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, place = stream, stream.tell()
        self._end = stream.seek(0, io.SEEK_END)
        stream.seek(place)
        self.tell, self.readline = stream.tell, stream.readline

    def left(self) -> int:
        """Return how many bytes there are to the end."""
        return self._end - self._stream.tell()

    def read(self, count: int) -> bytes:
        """Read so many bytes, or none where there are fewer."""
        if count > 1 and count > self.left():
            raise EOFError("a value longer than the file")
        return self._stream.read(count)
