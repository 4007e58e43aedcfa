"""More files made to do harm: hashing, copying, links, pipes, other programs, and settings that look harmless."""

import gzip
import io
import json
import os
import pickle
import resource
import shutil
import struct
import subprocess
import sys
import zipfile
import zlib
from collections import OrderedDict
from pathlib import Path

import numpy
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from PIL import Image
from torch import nn

from slimkit import data, models
from slimkit.cli import main
from slimkit.errors import SlimkitError, SpecError, TrainingError
from slimkit.models import pickles
from slimkit.pickled import machine, torch_file, values
from slimkit.report import rebuild
from slimkit.settings import read_config
from slimkit.training import Store, state, train
from tests.clock import least_seconds
from tests.training_sample import network, recipe, stripes

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "tests" / "reports" / "compress-1.json"


def archive(path: Path, pickled: bytes) -> Path:
    """Write what torch.save writes, with another pickle in it."""
    torch.save({"w": torch.ones(1)}, path)
    with zipfile.ZipFile(path) as old:
        members = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w") as new:
        for name, content in members.items():
            new.writestr(name, pickled if name.endswith("data.pkl") else content)
    return path


def within(seconds: float, gigabytes: float, *words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run slimkit in a process of its own, with a bound on CPU time and memory."""
    before = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_CPU, ({0}, {0})); "
        "from slimkit.cli import main; import torch; "
        "room = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize(); "
        "resource.setrlimit(resource.RLIMIT_AS, (room + {1}, room + {1})); sys.exit(main(sys.argv[1:]))"
    )
    code = before.format(int(seconds), int(gigabytes * 2**30))
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, timeout=20 * seconds,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert all(word in done.stderr for word in words), done.stderr


def unread(path: Path, why: str | None = None) -> None:
    with pytest.raises(SlimkitError, match=why):
        models.load(path)


# Pickles: one that is read as data can still cost time and memory --------------------------------------------


@pytest.mark.long
def test_a_key_of_a_million_tuples_within_each_other(tmp_path):
    """Python hashes nested tuples without asking how deep: the stack ends, and the process with it."""
    nested = b"\x80\x02}" + b")" + b"\x85" * 1_000_000 + b"K\x01s."
    refused(within(60, 4, "inspect", archive(tmp_path / "net.pt", nested)), "damaged")
    in_a_set = b"\x80\x04\x8f(" + b")" + b"\x85" * 1_000_000 + b"\x90."
    refused(within(60, 4, "inspect", archive(tmp_path / "net.pt", in_a_set)), "damaged")


@pytest.mark.long
def test_keys_that_all_have_one_hash(tmp_path):
    """Numbers a multiple of 2^61 - 1 hash to 0, so a table of them is searched from end to end for each."""
    prime = 2**61 - 1
    keys = {number * prime: None for number in range(300)}
    pickled = b"\x80\x02}(" + b"".join(pickle.dumps(key, 2)[2:-1] + b"N" for key in keys) + b"u."
    with pytest.raises(Exception, match="64 bits"):
        machine.run(io.BytesIO(pickled), values.value, lambda identity: None)
    refused(within(60, 4, "inspect", archive(tmp_path / "net.pt", pickled)), "64 bits")


@pytest.mark.long
@pytest.mark.parametrize("how", ["encode", "list", "array", "bytes"])
def test_one_value_copied_without_end(how, tmp_path):
    """A short pickle that makes a copy of a long value again and again."""
    length, times = 10_000_000, 2_000
    text = b"X" + struct.pack("<I", length) + b"a" * length
    blob = b"B" + struct.pack("<I", length) + b"a" * length
    again, many = b"h\x01h\x00\x85R" * times, b"K\x01" * 1_000_000
    array = b"h\x02(h\x00h\x01J" + struct.pack("<i", length) + b"\x85X\x01\x00\x00\x00CtR"
    one = {
        "encode": text + b"q\x000c_codecs\nencode\nq\x010(" + again,
        "bytes": blob + b"q\x000cbuiltins\nbytearray\nq\x010(" + again,
        "list": b"](" + many + b"eq\x000cbuiltins\nlist\nq\x010(" + again,
        "array": blob
        + b"q\x000cnumpy\ndtype\nX\x02\x00\x00\x00u1\x85Rq\x010cnumpy.core.numeric\n_frombuffer\nq\x020("
        + array * times,
    }[how]
    refused(within(120, 6, "inspect", archive(tmp_path / "net.pt", b"\x80\x03" + one + b"l.")), "more than")


TWICE = b"X\x01\x00\x00\x00aq\x00" + b"h\x00\x86q\x00" * 25  # 2^25 letters, written out


@pytest.mark.parametrize(
    "pickled",
    [
        b"cpathlib\nPosixPath\n" + TWICE + b"\x85R.",
        b"ctorch\nSize\n" + TWICE + b"\x85\x85R.",
        b"cnumpy\ndtype\n" + TWICE + b"\x85R.",
        b"(" + TWICE + b"NX\x01\x00\x00\x00kX\x03\x00\x00\x00cpuK\x01tQ.",
        b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\n" + TWICE + b"X\x03\x00\x00\x00cpuK\x01tQ.",
        b"ctimm.layers.format\nFormat\n" + TWICE + b"\x85R.",
    ],
    ids=["path", "size", "dtype", "persistent", "storage", "format"],
)
def test_a_short_pickle_that_is_an_endless_text(pickled, tmp_path):
    """Two that are the same two, and so on, must be refused before anything writes it out, in a message even."""
    path = archive(tmp_path / "net.pt", b"\x80\x02" + pickled)
    assert least_seconds(lambda: unread(path), 2) < 2


@pytest.mark.long
def test_keys_that_are_one_long_text_many_times(tmp_path):
    """Such keys were listed in the message that asks which of them holds the weights."""
    text, weights = "a" * 1_000_000, {"w": numpy.ones(1)}
    pickled = pickle.dumps({(number, *[text] * 15): weights for number in range(500)}, 4)
    refused(within(60, 4, "inspect", archive(tmp_path / "net.pt", pickled)), "more than")


def pushed(value) -> bytes:
    return pickle.dumps(value, 2)[2:-1]


# 6,000 tuples of one hash, since all multiples of 2^61 - 1 have one, and what has 4 in each place has 4^7.
ALIKE = b"(" + b"".join(
    b"(" + b"".join(pushed((2**61 - 1) * (number >> 2 * place & 3)) for place in range(7)) + b"t"
    for number in range(6_000)
) + b"tq\x00"  # fmt: skip
PAIRS = b"](" + b"".join(b"h" + bytes([0]) + b"%c\x86" % 78 for _ in range(400_000)) + b"eq\x01"
LONG = b"X" + struct.pack("<I", 10**6) + b"a" * 10**6
NAME = b"X" + struct.pack("<I", 10**6) + b"ultralytics.utils.".ljust(10**6, b"a")
WIDE = pushed({"training": False, "_parameters": {}, "_buffers": {}, "_modules": {}} | dict.fromkeys(
    [f"a{number}" for number in range(5_000)]
)) + b"r" + struct.pack("<I", 10**6) + b"0"  # fmt: skip


@pytest.mark.parametrize(
    ("pickled", "why"),
    [
        (b"}" + b"".join(b"p%d\n" % (number * (2**61 - 1)) for number in range(1, 3_000)), "32 bits"),
        (b"}p-7\n", "32 bits"),
        (b"cbuiltins\nset\nq\x01" + ALIKE + b"\x85q\x02" + b"0h\x01h\x02R" * 3, "compared"),
        (b"\x80\x04" + (ALIKE[:-3] + b"\x91") * 3, "compared"),
        ((ALIKE[:-3].replace(b"t", b"tN") + b"d") * 3, "compared"),
        ((b"}" + ALIKE[:-3].replace(b"t", b"tN") + b"u") * 3, "compared"),
        (b"\x80\x04" + (b"\x8f" + ALIKE[:-3] + b"\x90") * 3, "compared"),
        (b"X\x01\x00\x00\x00aq\x00" + PAIRS + b"\x85q\x020cbuiltins\ndict\nq\x03" + b"h\x03h\x02R0" * 40, "copies"),
        (LONG + b"q\x00" + LONG + b"q\x01}(" + b"h\x00Nh\x01N" * 10_000 + b"u", "compared"),
        (NAME + b"q\x00X\x01\x00\x00\x00aq\x01" + b"\x80\x04h\x00h\x01\x930" * 400, "letters"),
        (WIDE + b"ctorch.nn.modules.linear\nIdentity\nq\x00](" + b"h\x00)\x81j@B\x0f\x00b" * 5_000 + b"e", "values"),
    ],
    ids=["memo", "below-0", "set", "frozenset", "dict", "setitems", "additems", "pairs", "texts", "names", "modules"],
)  # fmt: skip
def test_what_one_opcode_may_do_is_not_done_again_and_again(pickled, why, tmp_path):
    """Limits of one table, or one call, are none where a few bytes more are a table, or a call, more."""
    path = archive(tmp_path / "net.pt", b"\x80\x02" + pickled + b".")
    assert least_seconds(lambda: unread(path, why), 6) < 6


def test_one_table_of_keys_of_one_hash_takes_no_second(tmp_path):
    """Keys whose hashes differ may be more; so may those that many small tables share."""
    digits = b"".join(
        b"(" + b"".join(pushed((2**61 - 1) * (number >> 2 * place & 3)) for place in range(7)) + b"tN"
        for number in range(9_900)
    )
    path = archive(tmp_path / "net.pt", b"\x80\x02(" + digits + b"d.")
    assert least_seconds(lambda: unread(path, "compared"), 1) < 1
    plain = {"many": {(number, str(number)): number for number in range(9_000)}, "w": torch.ones(1)}
    plain["shared"] = [{(place, "of", 50): place for place in range(50)} for _ in range(1_000)]
    torch.save(plain, tmp_path / "plain.pt")
    assert pickles.read(tmp_path / "plain.pt", False)["shared"] == plain["shared"]


def test_an_old_file_of_many_tensors_is_read_in_time(tmp_path):
    def read(path):
        with path.open("rb") as file:
            torch_file.load(file, values.value)

    path, seconds = tmp_path / "net.pt", []
    for count in (2_000, 16_000):
        torch.save({f"w{i}": torch.zeros(1) for i in range(count)}, path, _use_new_zipfile_serialization=False)
        seconds.append(least_seconds(lambda: read(path), 0))
    assert seconds[1] < 20 * seconds[0]


@pytest.mark.long
@pytest.mark.parametrize("opcode", [b"\x96", b"\x8d", b"\x8e"], ids=["bytearray8", "binunicode8", "binbytes8"])
def test_a_value_that_says_it_is_longer_than_its_file(opcode, tmp_path):
    old = io.BytesIO()
    torch.save({"w": torch.ones(1)}, old, _use_new_zipfile_serialization=False)
    head = old.getvalue()[:100]
    whole = head[: head.index(b".", 15) + 1] + b"\x80\x02" + opcode + struct.pack("<Q", 2**33) + b"abc."
    (tmp_path / "net.pt").write_bytes(whole)
    refused(within(60, 4, "inspect", tmp_path / "net.pt"), "damaged")


def test_a_pickle_that_is_packed_small(tmp_path):
    """Twenty million opcodes that are twenty kilobytes of file."""
    path = archive(tmp_path / "net.pt", b"\x80\x02" + b"N0" * 10_000_000 + b"}.")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "packed.pt", "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    assert least_seconds(lambda: unread(tmp_path / "packed.pt", "packed"), 6) < 6


def test_four_megabytes_of_empty_fields_are_no_onnx_file(tmp_path):
    (tmp_path / "net.pt").write_bytes(b"\x08\x00" * 2_000_000)
    assert least_seconds(lambda: unread(tmp_path / "net.pt", "no checkpoint that slimkit knows"), 1) < 1


def test_a_large_checkpoint_is_read_as_it_is(tmp_path):
    """Keys of several values, large numbers, one value many times: allowances are far from what real files need."""
    name = "a long name of a layer, of more letters than a key has that costs nothing" * 2
    whole = {
        "state_dict": {f"layer.{number}.weight": torch.zeros(1) for number in range(2_000)},
        "pairs": {(number, number + 1): 0.5 for number in range(9_000)},
        "old": {140_000_000_000_000 + 64 * number: {"step": number} for number in range(5_000)},
        "records": [{name: number, "loss": 0.5} for number in range(20_000)],
        "sets": [{0, 1}, frozenset("ab")] * 5_000, "ordered": OrderedDict(a=1), "bytes": [bytes(1_000)] * 1_000,
    }  # fmt: skip
    torch.save(whole, tmp_path / "net.pt")
    with (tmp_path / "net.pt").open("rb") as file:
        found = torch_file.load(file, values.value)
    assert found == whole | {"state_dict": found["state_dict"]}
    assert list(found["state_dict"]) == list(whole["state_dict"])
    assert len(models.load(tmp_path / "net.pt", arch="tests.test_attacks_more:Weights").model.state_dict()) == 2_000


class Weights(nn.Module):
    """As many numbers as the file above has."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.ModuleList(nn.Module() for _ in range(2_000))
        for part in self.layer:
            part.weight = nn.Parameter(torch.zeros(1))


def test_an_archive_whose_members_bear_other_names_than_its_list_says(tmp_path):
    """The name beside a member, with the mark of UTF-8, is no text; the list of all members is as it should be."""
    torch.save({"w": torch.ones(1)}, tmp_path / "net.pt")
    whole = (tmp_path / "net.pt").read_bytes()
    place = whole.index(b"PK\x03\x04", 1)
    name = place + 30
    changed = whole[: place + 6] + b"\x00\x08" + whole[place + 8 : name] + b"\xf9\xff" + whole[name + 2 :]
    (tmp_path / "net.pt").write_bytes(changed)
    with pytest.raises(SlimkitError):
        models.load(tmp_path / "net.pt")


# Settings: words that look like a data set or a device, and are a module beside the file ----------------------


@pytest.mark.parametrize(
    "line",
    [
        'arch = "cuda:make"', 'arch = "folder:make"', 'arch = "epoch:make"', 'data = "zoo:make"', 'data = "timm:make"',
        'task = "folder:make"', 'task = "zoo:make"', 'calibration = "cuda:make"', 'task = "evil.py:make"',
        'calibration = "evil.py:make"', '[arms.a]\narch = "folder:make"', 'arch = "timm:hf-hub:somebody/resnet18"',
    ],
)  # fmt: skip
def test_a_settings_file_names_no_module(line, tmp_path, monkeypatch):
    for name in ("cuda", "folder", "epoch", "zoo", "timm", "evil"):
        (tmp_path / f"{name}.py").write_text("import os\ndef make(**_): os.mkdir('was-here')\nmake()\n")
    (tmp_path / "run.toml").write_text(f"{line}\n")
    monkeypatch.chdir(tmp_path)
    assert main(["compress", str(ROOT / "model_zoo" / "resnet8-digits.safetensors"), "--config", "run.toml"]) == 2
    assert not (tmp_path / "was-here").exists()
    if "hf-hub" not in line:
        with pytest.raises(SpecError, match="runs code"):
            read_config(Path("run.toml"))


@pytest.mark.long
def test_a_settings_file_without_end(tmp_path):
    refused(within(60, 4, "compress", "net.pt", "--config", "/dev/zero"), "/dev/zero")
    (tmp_path / "run.toml").symlink_to("/dev/zero")
    refused(within(60, 4, "compress", "net.pt", "--config", tmp_path / "run.toml"), "run.toml")


# Folders from elsewhere ---------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_report_that_is_no_file(tmp_path):
    for number, make in enumerate((lambda path: path.symlink_to("/dev/zero"), os.mkfifo, Path.mkdir)):
        folder = tmp_path / str(number)
        folder.mkdir()
        make(folder / "report.json")
        refused(within(60, 4, "report", folder), "report.json")


@pytest.mark.long
def test_a_report_whose_names_are_formulas_and_whose_numbers_are_vast(tmp_path):
    for number, name in enumerate((r"$\frac{", r"$\undefined$", "$$", r"a_{b", "%n%s{0}", "</script><script>alert(1)")):
        report = SAMPLE.read_text()
        found = json.loads(report)
        for group in found["groups"]:
            group["layers"] = [name] * len(group["layers"])
        for layer in found["layers"]:
            layer["name"] = layer.get("name") and name
        found["arch"]["name"] = name
        folder = tmp_path / (f"{number}" if "/" in name else name)
        folder.mkdir()
        (folder / "report.json").write_text(json.dumps(found))
        page = rebuild.rebuild([folder]).read_text()
        assert "<script>alert" not in page
        again = shutil.copytree(folder, tmp_path / f"again{number}")
        rebuild.rebuild([folder, again], folder / "both.html")
    for key, value in (("macs", 1e308), ("bytes", 10**30), ("params", -1), ("macs", 0), ("bytes", 1e-300)):
        found = json.loads(report)
        for side in ("before", "after"):
            found[side][key] = value
        (folder / "report.json").write_text(json.dumps(found))
        try:
            rebuild.rebuild([folder])
            rebuild.rebuild([folder, folder], folder / "both.html", force=True)
        except SlimkitError:
            continue


def images(folder: Path, count: int = 12) -> None:
    for kind in ("cat", "dog"):
        (folder / kind).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (16, 16), (20 * number, 9, 9)).save(folder / kind / f"{number}.png")


def opened(folder: Path, **options):
    return data.open(f"folder:{folder}", reading=data.Reading(input_shape=(3, 16, 16), **options))


def test_a_folder_that_links_to_itself_twice(tmp_path):
    """Each link doubles the ways through the folder: forty levels are a million million of them."""
    images(tmp_path / "photos")
    for name in ("a", "b", "c"):
        (tmp_path / "photos" / "cat" / name).symlink_to("..")
    assert least_seconds(lambda: opened(tmp_path / "photos"), 10) < 10
    found = opened(tmp_path / "photos")
    assert sum(len(part) for part in (found.train, found.validation)) > 10


def test_a_pipe_among_the_pictures(tmp_path):
    images(tmp_path / "photos")
    os.mkfifo(tmp_path / "photos" / "cat" / "z.png")
    with pytest.raises(SlimkitError, match=r"z\.png"):
        opened(tmp_path / "photos")
    assert len(opened(tmp_path / "photos", allow_bad=0.1).train) > 10


def test_a_picture_that_another_program_would_have_to_draw(tmp_path, monkeypatch):
    """PostScript is run by Ghostscript, whatever the file's name; a picture's suffix does not make it one."""
    images(tmp_path / "photos")
    ran = tmp_path / "ran"
    fake = tmp_path / "bin" / "gs"
    fake.parent.mkdir()
    fake.write_text(f"#!/bin/sh\ntouch {ran}\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\n%%EndComments\nshowpage\n%%EOF\n"
    (tmp_path / "photos" / "cat" / "z.png").write_bytes(script)
    with pytest.raises(SlimkitError, match=r"z\.png"):
        opened(tmp_path / "photos")
    assert not ran.exists()


def png(width: int, height: int) -> bytes:
    """Write a black PNG, row by row: a few hundred kilobytes for a hundred million pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(3 * width + 1)) for _ in range(height)) + packer.flush()
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
            + chunk(b"IDAT", rows) + chunk(b"IEND", b""))  # fmt: skip


@pytest.mark.slow
def test_many_vast_pictures_are_not_held_at_once(tmp_path):
    images(tmp_path / "photos")
    whole = png(13_000, 13_000)
    for number in range(8):
        (tmp_path / "photos" / "cat" / f"big{number}.png").write_bytes(whole)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    opened(tmp_path / "photos")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1.5e6, "kilobytes"


@pytest.mark.long
def test_a_data_set_that_unpacks_without_end(tmp_path):
    folder = tmp_path / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    packed = gzip.compress(bytes(2**24), 9) * 300  # 5 GB in 5 MB
    for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte"):
        (folder / f"{name}.gz").write_bytes(packed)
    words = ("compress", ROOT / "model_zoo" / "resnet8-digits.safetensors", "--data", "fashion-mnist", "--data-root")
    refused(within(60, 3, *words, tmp_path, "--out", tmp_path / "out"), "train-images-idx3-ubyte")


# A state to resume from, made by somebody ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"step": "x"}, {"step": -3}, {"step": 1.5}, {"step": None}, {"step": True}, {"done": "x"}, {"losses": ["x"]},
        {"losses": [None]}, {"loss": "x"}, {"history": [{"epoch": "x", "loss": [], "learning_rate": {},
        "validation_accuracy": "y"}]}, {"phases": []}, {"phases": [{"first_step": "x", "images": []}]}, {"notes": 3},
        {"notes": [3]}, {"random": torch.zeros(3)}, {"random": "x"}, {"hooks": "ab"}, {"model": []}, {"optimizer": []},
    ],
    ids=str,
)  # fmt: skip
def test_a_state_of_other_things_than_a_run_has(change, tmp_path):
    store = Store(tmp_path / "state", seconds=0)

    def stop(run):
        if run.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(network(), stripes(), recipe(), store=store, progress=stop)
    whole, _ = state.read(Store(tmp_path / "state", resume=True))
    (tmp_path / "state" / "state.previous.bin").unlink(missing_ok=True)
    state.write(store, {name: part for name, part in whole.items() if name != "identity"} | change)
    (tmp_path / "state" / "state.previous.bin").unlink(missing_ok=True)
    with pytest.raises(TrainingError, match="does not fit|damaged"):
        train(network(), stripes(), recipe(), store=Store(tmp_path / "state", resume=True))


# ONNX files ---------------------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("place", ["/dev/zero", "../secret", "/etc/passwd", "pipe", "w\x1b]0;owned\x07"])
def test_an_onnx_file_whose_weights_lie_elsewhere(place, tmp_path, capsys):
    (tmp_path / "secret").write_bytes(bytes(72))
    inside = tmp_path / "inside"
    inside.mkdir()
    os.mkfifo(inside / "pipe")
    weight = helper.make_tensor("w", TensorProto.FLOAT, [2, 1, 3, 3], [0.1] * 18)
    weight.ClearField("float_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in (("location", place), ("length", "72")):
        weight.external_data.add(key=key, value=value)
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 6, 6])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([helper.make_node("Conv", ["x", "w"], ["y"])], "net", [image], [result], [weight])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    (inside / "net.onnx").write_bytes(made.SerializeToString())
    assert main(["bench", str(inside / "net.onnx")]) == 2
    assert "\x1b" not in capsys.readouterr().err
    assert onnx.load(inside / "net.onnx", load_external_data=False)


# Networks that grow -------------------------------------------------------------------------------------------


class Doubles(nn.Module):
    """Puts its features beside themselves, again and again: 2^34 of them from an image."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.out = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 2, 1)

    def forward(self, x):
        y = self.stem(x)
        for _ in range(24):
            y = torch.cat([y, y], 2)
        return self.out(y)


@pytest.mark.long
def test_an_exported_program_that_doubles_its_features(tmp_path):
    program = torch.export.export(Doubles().eval(), (torch.zeros(2, 1, 8, 8),))  # traced without numbers
    torch.export.save(program, tmp_path / "net.pt2")
    refused(within(60, 6, "inspect", tmp_path / "net.pt2", "--input-shape", "1,8,8"))


def test_a_buffer_of_an_exported_program_that_wants_gradients(tmp_path):
    """Its running variance came back as a result of a calculation, which cannot be copied."""
    model = nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(216, 3)).eval()
    torch.export.save(torch.export.export(model, (torch.randn(2, 1, 8, 8),)), tmp_path / "net.pt2")
    with zipfile.ZipFile(tmp_path / "net.pt2") as old:
        members = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(tmp_path / "odd.pt2", "w") as new:
        for name, content in members.items():
            if name.endswith("model_weights_config.json"):
                content = content.replace(b'"requires_grad": false', b'"requires_grad": true')
                assert content != members[name]
            new.writestr(name, content)
    try:
        found = models.load(tmp_path / "odd.pt2").model
    except SlimkitError:
        return
    assert all(tensor.is_leaf for tensor in (*found.parameters(), *found.buffers()))


def test_a_state_that_has_no_end(tmp_path):
    (tmp_path / "state.bin").symlink_to("/dev/zero")
    with pytest.raises(TrainingError, match="damaged"):
        state.read(Store(tmp_path, resume=True))
