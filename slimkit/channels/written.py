"""Numbers in the code of a network that repeat a count of channels: they follow the mask too.

Ordinary code computes a width from a shape or holds it in an attribute; an fx graph holds it as an argument of
a node. While such a network is traced its nodes run one by one, so that it is known whose numbers are seen.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import fx, nn

Place = tuple[int, ...]  # position among a node's arguments, and in the list found there


class _ByNode(fx.Interpreter):
    def __init__(self, module: fx.GraphModule, enter: Callable[[fx.Node | None], None]) -> None:
        super().__init__(module)
        self.enter = enter

    def run_node(self, n: fx.Node) -> Any:
        self.enter(n)
        try:
            return super().run_node(n)
        finally:
            self.enter(None)


@contextmanager
def node_by_node(modules: Sequence[nn.Module], enter: Callable[[fx.Node | None], None]) -> Iterator[None]:
    """Run every fx network among the modules through `enter(node)`, node by node, for a while."""
    graphs = [m for m in modules if isinstance(m, fx.GraphModule) and "forward" not in vars(m)]
    for module in graphs:
        vars(module)["forward"] = _ByNode(module, enter).run
    try:
        yield
    finally:
        for module in graphs:
            del vars(module)["forward"]


def repeats(held: Any, values: tuple[int, ...]) -> bool:
    """Tell whether what an attribute holds is this one count, or a list of these; tensors are no counts."""
    if type(held) is int:
        return len(values) == 1 and held == values[0]
    return (
        type(held) in (list, tuple)
        and len(held) == len(values)
        and all(type(item) is int and item == value for item, value in zip(held, values, strict=True))
    )


def holds(node: fx.Node, place: Place, value: int | list[int]) -> bool:
    """Tell whether a node's argument at a place is this number, or this list of numbers."""
    if len(node.args) <= place[0] or node.op != "call_function":
        return False
    found: Any = node.args[place[0]]
    if len(place) > 1:
        if not isinstance(found, (list, tuple)) or len(found) <= place[1]:
            return False
        found = found[place[1]]
    if isinstance(value, int):
        return type(found) is int and found == value
    return isinstance(found, (list, tuple)) and list(found) == value


def write(module: fx.GraphModule, changes: Sequence[tuple[str, Place, list[int]]]) -> None:
    """Replace arguments of the nodes named, a number by the only one of a list, and compile the network anew."""
    nodes = {node.name: node for node in module.graph.nodes}
    for name, place, value in changes:
        node = nodes[name]
        args = list(node.args)
        held = args[place[0]]
        new: Any = value if isinstance(held, (list, tuple)) else value[0]
        if len(place) > 1:
            new = list(held)
            new[place[1]] = value[0]
        args[place[0]] = new
        node.args = tuple(args)
    module.recompile()
