"""Parts of an exported program that ran under `no_grad`, or an autocast that was switched off, become ordinary ones."""

from operator import getitem
from typing import Any

import torch
from torch import fx

from slimkit.errors import CheckpointError

_HIGHER = torch.ops.higher_order
_GRAPH_AT = {_HIGHER.wrap_with_set_grad_enabled: 1, _HIGHER.wrap_with_autocast: 4}  # its place among the arguments


def unwrap(module: fx.GraphModule, name: object) -> None:
    """Put the operators of wrapped graphs where they are called, in place; gradients reach what is read again.

    Raises:
        CheckpointError: one runs under an autocast that is on, or holds something of its own.
    """
    for node in list(module.graph.nodes):
        place = _GRAPH_AT.get(node.target) if node.op == "call_function" else None
        if place is None:
            continue
        inner = getattr(module, str(node.args[place].target))
        unwrap(inner, name)
        on = node.target is _HIGHER.wrap_with_autocast and node.args[2] is not False
        if on or any(one.op in ("get_attr", "call_module") for one in inner.graph.nodes):
            why = "a part of it runs under autocast" if on else "a wrapped part of it holds tensors of its own"
            raise CheckpointError(f"{name}: {why}.\n  Export it without, or give its state dict, and `arch`")
        holder = node.args[place]
        _replace(module.graph, node, inner.graph, list(node.args[place + 1 :]))
        module.graph.erase_node(holder)
        module.delete_submodule(str(holder.target))
    module.recompile()


def _replace(graph: fx.Graph, call: fx.Node, inner: fx.Graph, given: list[Any]) -> None:
    made: dict[fx.Node, Any] = {}
    with graph.inserting_before(call):
        for node in inner.nodes:
            if node.op == "placeholder":
                made[node] = given.pop(0)
            elif node.op == "output":
                found = fx.map_arg(node.args[0], lambda old: made[old])
            else:
                made[node] = graph.node_copy(node, lambda old: made[old])
    for user in list(call.users):
        assert user.target is getitem
        value, name = found[user.args[1]], user.name
        user.replace_all_uses_with(value)
        graph.erase_node(user)
        if value in made.values() and value.op != "placeholder":
            value.name = name  # by which a program knows what it returns
    graph.erase_node(call)
