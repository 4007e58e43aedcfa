"""Networks that return a dict whose keys are no text keep them in memory, and files say them."""

import enum
import json
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import slimkit
from slimkit.errors import CheckpointError
from slimkit.returned import form_of, rebuilt
from slimkit.tasks.task import heads
from tests.blocks import conv_bn


class Scale(enum.Enum):
    FINE, COARSE = "fine", "coarse"


KEYS: dict[str, tuple[list[Any], list[Any]]] = {  # as a network returns them, and as files have them
    "tuples": ([("disp", 0), ("disp", 1)], [("disp", 0), ("disp", 1)]),
    "nested tuples": ([(0, (1, "a")), ()], [(0, (1, "a")), ()]),
    "numbers": ([0, 1], [0, 1]),
    "others": ([None, True], [None, True]),
    "members": ([Scale.FINE, Scale.COARSE], ["fine", "coarse"]),
    "members in tuples": ([("disp", Scale.FINE), ("disp", Scale.COARSE)], [("disp", "fine"), ("disp", "coarse")]),
    "text": (["a", "aux"], ["a", "aux"]),
}


class Depth(nn.Module):
    def __init__(self, keys: list[Any], table: Callable[..., Any] = dict) -> None:
        super().__init__()
        self.first, self.second, self.out = conv_bn(3, 8), conv_bn(8, 8), nn.Conv2d(8, 1, 1)
        self.keys, self.table = keys, table

    def forward(self, x: Tensor) -> Any:
        y = self.out(self.second(self.first(x)))
        return self.table(zip(self.keys, (y, y[..., ::2, ::2]), strict=True))


@pytest.mark.long
@pytest.mark.parametrize("name", KEYS)
def test_keys_are_kept_and_read_again(name: str, tmp_path: Path) -> None:
    keys, written = KEYS[name]
    net, x = Depth(keys).eval(), torch.randn(1, 3, 16, 16)
    given = {"calibration": torch.randn(16, 3, 16, 16), "epochs": 1, "onnx": name == "tuples"}
    found = slimkit.compress(net, x, 0.5, out=tmp_path / "out", **given)
    assert list(found.model(x)) == keys
    again = slimkit.load(tmp_path / "out" / "model.pt2")(x)
    assert list(again) == written
    torch.testing.assert_close(list(again.values()), list(found.model(x).values()))


def test_an_ordered_dict_is_one_again(tmp_path: Path) -> None:
    net, x = Depth([("a", 0), 1], OrderedDict).eval(), torch.randn(1, 3, 16, 16)
    slimkit.compress(net, x, 0.5, out=tmp_path / "out", onnx=False, recover=False)
    assert list(slimkit.load(tmp_path / "out" / "model.pt2")(x)) == [("a", 0), 1]


@pytest.mark.parametrize("name", KEYS)
def test_the_form_of_a_dict_survives_json(name: str) -> None:
    keys, written = KEYS[name]
    returned = dict(zip(keys, torch.randn(2, 3), strict=True))
    assert len(heads(returned)) == (2 if name == "text" else 1)
    again = rebuilt(json.loads(json.dumps(form_of(returned))), list(returned.values()))
    assert list(again) == written


@pytest.mark.parametrize("key", [{"__enum__": True, "fqn": "planted:Scale", "name": "FINE"}])
@pytest.mark.parametrize("within", [lambda key: key, lambda key: [key]])
def test_a_key_of_a_file_imports_nothing(
    key: Any, within: Callable[[Any], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "planted.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Scale: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    program = torch.export.export(Depth(["a", "b"]).eval(), (torch.randn(2, 3, 16, 16),))
    torch.export.save(program, tmp_path / "net.pt2")
    planted(tmp_path / "net.pt2", within(key))
    with pytest.raises(CheckpointError, match="the key .*planted"):
        slimkit.models.load(tmp_path / "net.pt2")
    assert not (tmp_path / "ran").exists()


def planted(path: Path, key: Any) -> None:
    """Put a key in place of the first one of the outputs."""
    import zipfile

    with zipfile.ZipFile(path) as old:
        members = [(one, old.read(one)) for one in old.infolist()]
    with zipfile.ZipFile(path, "w") as new:
        for one, data in members:
            if one.filename.endswith("models/model.json"):
                described = json.loads(data)
                call = described["graph_module"]["module_call_graph"][0]["signature"]
                call["out_spec"] = call["out_spec"].replace(
                    json.dumps(json.dumps(["a", "b"])), json.dumps(json.dumps([key, "b"]))
                )
                assert "planted" in call["out_spec"]
                data = json.dumps(described).encode()
            new.writestr(one, data)
