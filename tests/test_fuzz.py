"""Changed files of every kind that is read: a message comes of it, or nothing; 500 of the 10,000 of tools/fuzz.py."""

import json
import random

import pytest

from tools import fuzz


@pytest.mark.fuzz
@pytest.mark.filterwarnings("ignore")
def test_nothing_but_a_message_comes_of_a_changed_file(tmp_path):
    table = fuzz.run(500, seed=1, out=tmp_path / "fuzz.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "fuzz.jsonl").read_text().splitlines()]
    bad = [str(row) for row in rows if row["outcome"] not in fuzz.HARMLESS]
    assert not bad, "\n".join([fuzz.show(table), *bad])


def outcome(read, tmp_path, monkeypatch):
    monkeypatch.setitem(fuzz.READ, "run.toml", read)
    return fuzz.one("run.toml", b"x", tmp_path / "input")["outcome"]


def runs_away(path):
    while True:
        pass


def dies(path):
    import os
    import signal

    os.kill(os.getpid(), signal.SIGSEGV)


def takes(path):
    bytearray(2**33)


def refuses(path):
    raise fuzz.SlimkitError("no")


def fails(path):
    raise KeyError("x")


@pytest.mark.parametrize(
    ("read", "wanted"),
    [
        (lambda path: None, "ok"),
        (refuses, "refused"),
        (lambda path: open("/tmp/../var/tmp/slimkit", "w").close(), "code run"),
        (lambda path: __import__("os").mkdir(fuzz.CANARY), "code run"),
        (lambda path: __import__("os").system("true"), "code run"),
        (lambda path: __import__("subprocess").run(["true"]), "code run"),
        (lambda path: __import__("antigravity_that_is_not_there"), "code run"),
        (dies, "signal"),
        (fails, "traceback"),
        (runs_away, "hang"),
        (takes, "memory"),
    ],
)
def test_the_fuzzer_sees_every_outcome(read, wanted, tmp_path, monkeypatch):
    monkeypatch.setattr(fuzz, "SECONDS", 1)
    assert outcome(read, tmp_path, monkeypatch) == wanted


def test_the_same_seed_gives_the_same_inputs():
    data = b"ratio = 0.5\n" * 9
    once, again = ([fuzz.change("run.toml", data, random.Random(f"3 {i}")) for i in range(50)] for _ in range(2))
    assert once == again
    assert len(set(once)) > 40
