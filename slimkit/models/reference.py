"""An architecture by name: `resnet18`, `zoo:resnet8`, `timm:NAME`, `package.module:factory`, `file.py:factory`."""

import ast
import contextlib
import difflib
import functools
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from slimkit import own_code
from slimkit.errors import ArchitectureError, EngineError
from slimkit.modules import unwarned

EXPORTED = "exported"  # stands where the network itself is the only description of it

_HOW = (
    "Give `arch` a torchvision name (resnet18), zoo:NAME, timm:NAME, package.module:factory or path/to/file.py:factory."
)
# Arguments that make a factory fetch or read weights: the weights come from the checkpoint.
_WEIGHTS = ("weights", "weights_backbone", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay",
            "checkpoint_path", "cache_dir", "progress")  # fmt: skip


@dataclass(frozen=True)
class Reference:
    """Where a network's definition is found.

    Attributes:
        source: `torchvision`, `zoo`, `timm`, or `code` for a factory in the user's own code.
        name: name in that source, or `module:factory`.
        arguments: keyword arguments written behind the name, `mobilenet_v2(width_mult=0.5)`.
    """

    source: str
    name: str
    arguments: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name if self.source == "code" else f"{self.source}:{self.name}"


def parse(text: str) -> Reference:
    """Read an architecture as a user writes it; a bare name is torchvision's, else the zoo's.

    Raises:
        ArchitectureError: it is unknown; the message lists the nearest names.
    """
    name, arguments = _split_arguments(text.strip())
    source, colon, rest = name.partition(":")
    if source in ("torchvision", "zoo"):
        if rest not in _names(source):
            raise _unknown(text, rest, (source,))
        return Reference(source, rest, arguments)
    if source == "timm":
        if rest.split(".", 1)[0] not in _names("timm"):
            raise _unknown(text, rest, ("timm",))
        return Reference("timm", rest, arguments)
    if colon:
        own_code.refuse_url(name, f"`arch={text!r}`", ArchitectureError)
        place, _, factory = name.rpartition(":")
        if not place or not factory.replace(".", "_").isidentifier():
            raise ArchitectureError(f"`arch={text!r}`: {factory!r} is no name of a factory.\n  {_HOW}")
        return Reference("code", name, arguments)
    for source in ("torchvision", "zoo"):
        if name in _names(source):
            return Reference(source, name, arguments)
    raise _unknown(text, name, ("torchvision", "zoo", "timm"))


def factory(reference: Reference) -> Callable[..., nn.Module]:
    """Find the function that builds the network, without calling it; `code` is imported, so it runs.

    Raises:
        ArchitectureError: the module, file or factory is not there, or fails to import.
    """
    match reference.source:
        case "torchvision":
            from torchvision import models

            builder: Callable[..., nn.Module] = models.get_model_builder(reference.name)
            return builder
        case "zoo":
            from slimkit import zoo

            made: Callable[..., nn.Module] = zoo.ARCHITECTURES[reference.name]
            return made
        case "timm":
            return functools.partial(_timm().create_model, reference.name)
    return _from_code(reference.name)


def check_arguments(reference: Reference, arguments: dict[str, Any]) -> None:
    """Refuse arguments by which torchvision or timm would fetch weights.

    Raises:
        ArchitectureError: one of them is among the arguments.
    """
    wrong = [name for name in arguments if name in _WEIGHTS]
    if wrong and reference.source != "code":
        raise ArchitectureError(
            f"`arch={reference}`: the argument {wrong[0]!r} asks for other weights than the checkpoint's.\n"
            "  Leave it out."
        )


def _split_arguments(text: str) -> tuple[str, dict[str, Any]]:
    if not text.endswith(")"):
        return text, {}
    for bracket in re.finditer(r"(?<=[\w.-])\(", text):  # a path may have brackets too
        try:
            call = ast.parse(f"f{text[bracket.start() :]}", mode="eval").body
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and not call.args:
                given = {word.arg: ast.literal_eval(word.value) for word in call.keywords}
                return text[: bracket.start()], {name: value for name, value in given.items() if name}
        except (SyntaxError, ValueError, RecursionError, MemoryError):  # the last two of nesting without end
            continue
    raise ArchitectureError(
        f"`arch={text!r}`: the arguments in brackets cannot be read.\n"
        "  Write plain values by name: `arch='torchvision:mobilenet_v2(width_mult=0.5)'`"
    )


@functools.cache
def _names(source: str) -> frozenset[str]:
    """Return all names of a source; none of timm's where it is not installed."""
    if source == "torchvision":
        from torchvision import models

        return frozenset(models.list_models())
    if source == "zoo":
        from slimkit import zoo

        return frozenset(zoo.ARCHITECTURES)
    with unwarned():
        return frozenset(_timm().list_models())


def _timm() -> Any:
    try:
        with unwarned():
            import timm
    except ImportError:
        raise EngineError(
            "timm:NAME was asked for, but timm is not installed.\n  Install it: pip install 'slimkit[timm]'"
        ) from None
    return timm


def _unknown(text: str, name: str, sources: tuple[str, ...]) -> ArchitectureError:
    known: list[str] = []
    for source in sources:
        with contextlib.suppress(EngineError):
            known += [f"{source}:{known_name}" for known_name in sorted(_names(source))]
    near = [each for each in known if each.split(":")[1].lower() == name.lower()]
    near += difflib.get_close_matches(f"{sources[0]}:{name}", known, n=4, cutoff=0.7)
    hint = f" Nearest: {', '.join(dict.fromkeys(near))}." if near else ""
    return ArchitectureError(f"`arch={text!r}`: no such architecture.{hint}\n  {_HOW}")


def _from_code(name: str) -> Callable[..., nn.Module]:
    found = own_code.find(name, f"`arch={name!r}`", ArchitectureError)
    if isinstance(found, nn.Module):
        attribute = name.rpartition(":")[2]
        raise ArchitectureError(
            f"`arch={name!r}`: is {type(found).__name__}, not a function or class that builds the network.\n"
            f"  Wrap it: def build(): return {attribute}"
        )
    build: Callable[..., nn.Module] = found
    return build
