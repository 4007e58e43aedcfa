"""Operators of an exported graph that are modules again: convolution, linear, recurrent layers, batch norm, dropout."""

from collections.abc import Callable, Mapping
from operator import getitem
from typing import Any

import torch
from torch import Tensor, fx, nn

from slimkit.models.names import is_plain

aten = torch.ops.aten

_ClassAndArguments = tuple[Callable[..., nn.Module], dict[str, Any]]  # class and its arguments

_CONVOLUTIONS = {
    aten.conv1d.default: nn.Conv1d, aten.conv1d.padding: nn.Conv1d,
    aten.conv2d.default: nn.Conv2d, aten.conv2d.padding: nn.Conv2d,
    aten.conv3d.default: nn.Conv3d, aten.conv3d.padding: nn.Conv3d,
    aten.conv_transpose1d.default: nn.ConvTranspose1d,
    aten.conv_transpose2d.input: nn.ConvTranspose2d,
    aten.conv_transpose3d.input: nn.ConvTranspose3d,
}  # fmt: skip
_BY_RANK = {3: (nn.Conv1d, nn.ConvTranspose1d), 4: (nn.Conv2d, nn.ConvTranspose2d),
            5: (nn.Conv3d, nn.ConvTranspose3d)}  # fmt: skip
_COUNTER = "num_batches_tracked"  # of batch norm, which no operator reads
_NORMS = (aten.batch_norm.default, aten._native_batch_norm_legit_no_training.default)
_NORM_BY_RANK = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
DROPOUTS = {
    aten.dropout.default: nn.Dropout, aten.dropout_.default: nn.Dropout,
    aten.feature_dropout.default: nn.Dropout2d, aten.feature_dropout_.default: nn.Dropout2d,
    aten.alpha_dropout.default: nn.AlphaDropout, aten.alpha_dropout_.default: nn.AlphaDropout,
    aten.feature_alpha_dropout.default: nn.FeatureAlphaDropout,
    aten.feature_alpha_dropout_.default: nn.FeatureAlphaDropout,
}  # fmt: skip


class LSTM(nn.LSTM):
    """An LSTM whose results lie side by side, as the operator gives them: outputs, hidden states, cells."""

    def forward(self, input: Tensor, hx: Any = None) -> Any:  # type: ignore[override]
        """Return (outputs, hidden states, cells)."""
        outputs, (hidden, cells) = super().forward(input, tuple(hx))
        return outputs, hidden, cells


RECURRENT: dict[Any, tuple[type[nn.RNNBase], int, dict[str, str]]] = {  # module, gates, arguments
    aten.lstm.input: (LSTM, 4, {}),
    aten.gru.input: (nn.GRU, 3, {}),
    aten.rnn_tanh.input: (nn.RNN, 1, {}),
    aten.rnn_relu.input: (nn.RNN, 1, {"nonlinearity": "relu"}),
}


class Layers:
    """The new network's modules: the old containers, with typed modules in place of bare weights.

    Attributes:
        root: the module to build the network on.
    """

    def __init__(self, lifted: fx.GraphModule) -> None:
        self.root = nn.Module()
        self._settings: dict[str, tuple[Any, ...]] = {}
        for path, container in lifted.named_modules():
            if path:
                self._container(path)
            owner = self.root.get_submodule(path)
            for name, parameter in container._parameters.items():
                owner.register_parameter(name, parameter)
            for name, buffer in container._buffers.items():
                kept = None if buffer is None else buffer.detach()  # a file may say that it wants gradients
                owner.register_buffer(name, kept, name not in container._non_persistent_buffers_set)
            for name, value in vars(container).items():
                if isinstance(value, Tensor):
                    owner.register_buffer(name, value.detach(), persistent=False)

    def of(self, node: fx.Node) -> tuple[str, tuple[Any, ...]] | None:
        """Make the module that an operator stands for.

        Returns:
            Its path and what it is called with; None where the operator stays what it is.
        """
        given = arguments(node)
        source = given.get("input", given.get("self"))
        if not isinstance(source, fx.Node):
            return None
        if node.target in RECURRENT:
            path = self._recurrent(node, given)
            return (path, (source, given["hx"])) if path is not None else None
        if node.target in DROPOUTS:
            return self._add(_dropout_path(node), DROPOUTS[node.target](float(given["p"]))), (source,)
        if node.target in _NORMS:
            path = self._norm(node, given)
        elif node.target is aten.linear.default:
            path = self._weighted(given, _linear(given))
        else:
            path = self._weighted(given, _convolution(node, given))
        return (path, (source,)) if path is not None else None

    def _weighted(self, given: dict[str, Any], made: _ClassAndArguments | None) -> str | None:
        weight = given.get("weight")
        if made is None or not isinstance(weight, fx.Node):
            return None
        path = str(weight.target).rpartition(".")[0]
        return path if self._layer(path, *made, {name: given[name] for name in ("weight", "bias")}) else None

    def _norm(self, node: fx.Node, given: dict[str, Any]) -> str | None:
        mean = given["running_mean"]
        if not isinstance(mean, fx.Node):
            return None
        value = node.meta["val"]
        if isinstance(value, tuple | list):
            if any(user.target is not getitem or user.args[1] != 0 for user in node.users):
                return None
            value = value[0]
        kind = _NORM_BY_RANK.get(value.dim())
        if kind is None:
            return None
        path = str(mean.target).rpartition(".")[0]
        wanted = {
            "num_features": mean.meta["val"].shape[0],
            "eps": given["eps"],
            "momentum": given["momentum"],
            "affine": given["weight"] is not None,
        }
        reads = {name: given[name] for name in ("weight", "bias", "running_mean", "running_var")}
        if not self._layer(path, kind, wanted, reads):
            return None
        buffers = self.root.get_submodule(path)._buffers
        counted = buffers[_COUNTER]
        if counted is None or counted.is_meta:
            buffers[_COUNTER] = torch.tensor(0)
        return path

    def _recurrent(self, node: fx.Node, given: dict[str, Any]) -> str | None:
        """Put a recurrent layer around its weights; None where they are not one layer's, each of the shape it has."""
        first = given["params"][0] if given["params"] else None
        path = str(first.target).rpartition(".")[0] if isinstance(first, fx.Node) else ""
        if not path or given["num_layers"] > len(given["params"]):
            return None
        shapes = _shapes(self.root.get_submodule(path)._parameters)
        if any(len(shape) != 1 + name.startswith("weight") for name, shape in shapes.items()):
            return None
        kind, gates, words = RECURRENT[node.target]
        wanted = {
            "input_size": shapes.get("weight_ih_l0", (0,))[-1],
            "hidden_size": shapes.get("weight_hh_l0", (0,))[0] // gates,
            "num_layers": given["num_layers"],
            "bias": given["has_biases"],
            "batch_first": given["batch_first"],
            "dropout": given["dropout"],
            "bidirectional": given["bidirectional"],
            **({"proj_size": shapes["weight_hr_l0"][0]} if "weight_hr_l0" in shapes else {}),
            **words,
        }
        model = _made(kind, wanted)
        names = model._flat_weights_names if isinstance(model, nn.RNNBase) else []
        if len(names) != len(given["params"]):
            return None
        if not self._layer(path, kind, wanted, dict(zip(names, given["params"], strict=True))):
            return None
        found: nn.RNNBase = self.root.get_submodule(path)  # type: ignore[assignment]
        for value in found.parameters():
            value.data = value.data.contiguous()
        found._init_flat_weights()
        return path

    def _layer(
        self, path: str, kind: Callable[..., nn.Module], wanted: dict[str, Any], reads: Mapping[str, Any]
    ) -> bool:
        """Put a module around the weights at a path, where it reads just what the operator does.

        Args:
            path: of the weights.
            kind: class of the module.
            wanted: its arguments.
            reads: what the operator is given, by the name that the module has for it; None where it is given nothing.

        Returns:
            False where the module would read anything else, or something else uses the weights already.
        """
        given = {name: node for name, node in reads.items() if node is not None}
        if not all(isinstance(node, fx.Node) and node.target == f"{path}.{name}" for name, node in given.items()):
            return False
        settings = (kind, *wanted.values(), *given)
        if path in self._settings:
            return self._settings[path] == settings
        old, new = self.root.get_submodule(path), _made(kind, wanted)
        if not path or new is None or type(old) is not nn.Module:
            return False
        statistics = {name: shape for name, shape in _shapes(new._buffers).items() if name != _COUNTER}
        held = _shapes(old._buffers)
        fits = (
            given.keys() == _shapes(new._parameters).keys() | statistics.keys()
            and _shapes(old._parameters) == _shapes(new._parameters)
            and statistics.items() <= held.items()
            and not any(hasattr(new, name) for name in (*old._modules, *(held.keys() - new._buffers.keys())))
        )
        if not fits:
            return False
        for name, child in old.named_children():
            new.add_module(name, child)
        for name in new._parameters:
            new._parameters[name] = old._parameters.get(name)
        for name, buffer in old._buffers.items():
            new.register_buffer(name, buffer, name not in old._non_persistent_buffers_set)
        self.root.set_submodule(path, new)
        self._settings[path] = settings
        return True

    def _add(self, path: str, module: nn.Module) -> str:
        """Put a module without weights at a path, or beside it where that is taken; return where."""
        name, number = path, 0
        while name in self._settings or not self._free(name):
            number += 1
            name = f"{path}_{number}"
        self._container(name)
        self.root.set_submodule(name, module)
        self._settings[name] = ()
        return name

    def _free(self, path: str) -> bool:
        try:
            found = self.root.get_submodule(path)
        except AttributeError:
            return not hasattr(self.root, path)
        return path != "" and type(found) is nn.Module and not found._modules and not found._parameters

    def _container(self, path: str) -> None:
        owner = self.root
        for part in path.split("."):
            if part not in owner._modules:
                owner.add_module(part, nn.Module())
            owner = owner.get_submodule(part)


def _dropout_path(node: fx.Node) -> str:
    """Return the path of the Dropout module that was exported, or a new one beside a functional dropout."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path, kind = stack[-1] if stack else ("", "")
    path = path if is_plain(path) else ""
    if path and str(kind).rpartition(".")[2].endswith("Dropout"):
        return str(path)
    return f"{path}.dropout".lstrip(".")


def _made(kind: Callable[..., nn.Module], wanted: dict[str, Any]) -> nn.Module | None:
    """Make a module without numbers; None where there is none of such arguments."""
    try:
        return kind(**wanted, device="meta")
    except (ValueError, TypeError):
        return None


def _shapes(tensors: Mapping[str, Tensor | None]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in tensors.items() if value is not None}


def _shape(given: dict[str, Any]) -> tuple[int, ...] | None:
    """Return the shape of the weight that an operator reads, None where it is computed."""
    weight = given.get("weight")
    known = isinstance(weight, fx.Node) and weight.op == "get_attr"
    return tuple(weight.meta["val"].shape) if known else None  # type: ignore[union-attr]


def _linear(given: dict[str, Any]) -> _ClassAndArguments | None:
    shape = _shape(given)
    if shape is None or len(shape) != 2:
        return None
    return nn.Linear, {"in_features": shape[1], "out_features": shape[0], "bias": given["bias"] is not None}


def _convolution(node: fx.Node, given: dict[str, Any]) -> _ClassAndArguments | None:
    """Return the class and the arguments of a convolution's module, None for other operators."""
    shape = _shape(given)
    if shape is None:
        return None
    if node.target is aten.convolution.default:
        kind: Any = _BY_RANK.get(len(shape), (None, None))[bool(given["transposed"])]
    else:
        kind = _CONVOLUTIONS.get(node.target)  # type: ignore[call-overload]
    if kind is None:
        return None
    transposed = kind in (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    rank, groups = len(shape) - 2, given["groups"]
    wanted = {name: _spread(given[name], rank) for name in ("stride", "padding", "dilation")}
    if transposed:
        wanted["output_padding"] = _spread(given["output_padding"], rank)
    return kind, {
        "in_channels": shape[0] if transposed else shape[1] * groups,
        "out_channels": shape[1] * groups if transposed else shape[0],
        "kernel_size": shape[2:],
        **wanted,
        "groups": groups,
        "bias": given["bias"] is not None,
    }


def arguments(node: fx.Node) -> dict[str, Any]:
    """Return an operator's arguments by name, defaults filled in."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return {}
    given = {argument.name: argument.default_value for argument in schema.arguments}
    given.update(zip(given, node.args, strict=False))
    return {**given, **node.kwargs}


def _spread(value: Any, rank: int) -> Any:
    """Give a setting for every dimension: ATen takes one number for all."""
    if isinstance(value, str):
        return value
    return tuple(value) * rank if len(value) == 1 else tuple(value)
