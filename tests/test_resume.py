"""Runs that were interrupted go on to the same result; runs that were complete say so; each epoch is in the log."""

import dataclasses
import json
import sys
import time
import types
from pathlib import Path

import pytest
import torch

import slimkit
from slimkit import models, training
from slimkit.cli import main
from slimkit.errors import SpecError, TrainingError
from slimkit.progress import Moment
from slimkit.report.progress import described
from slimkit.runs import compress as compress_run
from slimkit.runs import train as train_run
from slimkit.training import trackers
from tests.test_train import FEW, net, toy  # noqa: F401

EARLY = ("--method", "early-bird", "--at", "1")
TRAIN = ("train", "--arch", "zoo:resnet8", "--data", "digits", "--epochs", "2", "--device", "cpu", *EARLY)
ROWS = {"doing", "epoch", "step", "loss", "accuracy", "learning_rate", "seconds"}


@dataclasses.dataclass(frozen=True)
class Eager(training.Store):
    """Keeps a state after every step."""

    seconds: float = 0.0


class Killed(BaseException):
    """Ends a run as SIGKILL would, but for what the folder of the output cleans up."""


def killed_at(step: int):
    """Return a watcher that ends the run after so many steps."""

    def watch(moment: Moment) -> None:
        if moment.step >= step:
            raise Killed

    return watch


def rows(log: Path) -> list[dict[str, object]]:
    """Return the lines of a log, without their times."""
    found = [json.loads(line) for line in log.read_text().splitlines()]
    assert all(set(row) == ROWS and row.pop("seconds") > 0 for row in found)
    return found


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(autouse=True)
def _saved_at_every_chance(monkeypatch):
    monkeypatch.setattr(training, "Store", Eager)


def test_a_training_that_was_killed_ends_as_the_whole_one_with_the_same_log(toy, tmp_path):  # noqa: F811
    settings = {"at": 1, **FEW}
    whole = train_run.train(net(), toy, 0.5, out=tmp_path / "whole", **settings)
    for step in (3, 8, 17):
        with pytest.raises(Killed):
            train_run.train(
                net(), toy, 0.5, out=tmp_path / "out", resume=step > 3, watchers=[killed_at(step)], **settings
            )
        assert listing(tmp_path) == ["out.state", "whole"]
    assert len(rows(tmp_path / "out.state" / "train.log")) == 17 // 6
    with pytest.raises(TrainingError, match="holds the state of a run"):
        train_run.train(net(), toy, 0.5, out=tmp_path / "out", **settings)
    assert len(rows(tmp_path / "out.state" / "train.log")) == 17 // 6
    again = train_run.train(net(), toy, 0.5, out=tmp_path / "out", resume=True, **settings)
    assert listing(tmp_path) == ["out", "whole"]
    torch.testing.assert_close(again.model.state_dict(), whole.model.state_dict(), rtol=0, atol=0)
    told = rows(tmp_path / "out" / "train.log")
    assert told == rows(tmp_path / "whole" / "train.log")
    assert [(row["doing"], row["epoch"], row["step"]) for row in told] == [("training", n, 6 * n) for n in range(1, 5)]
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [row["accuracy"] for row in told] == [entry["validation_accuracy"] for entry in report["search"]["history"]]


@pytest.mark.long
@pytest.mark.parametrize("settings", [{"ratio": 0.5}, {"max_drop": 40.0}], ids=["ratio", "max-drop"])
def test_a_compression_that_was_killed_while_retraining_ends_as_the_whole_one(settings, toy, tmp_path):  # noqa: F811
    given = {"dataset": toy, "epochs": 2, "batch_size": 32, "round_to": 1, "device": "cpu", **settings}
    given |= {"minimise": "macs"} if "max_drop" in settings else {}
    example = torch.zeros(1, 1, 8, 8)
    whole = slimkit.compress(net(), example, out=tmp_path / "whole", **given)
    for step in (2, 9):
        with pytest.raises(Killed):
            slimkit.compress(net(), example, out=tmp_path / "out", resume=step > 2, watchers=[killed_at(step)], **given)
        assert listing(tmp_path) == ["out.state", "whole"]
    with pytest.raises(TrainingError, match="holds the state of a run"):
        slimkit.compress(net(), example, out=tmp_path / "out", progress=pytest.fail, **given)
    again = slimkit.compress(net(), example, out=tmp_path / "out", resume=True, **given)
    assert listing(tmp_path) == ["out", "whole"]
    torch.testing.assert_close(again.model.state_dict(), whole.model.state_dict(), rtol=0, atol=0)
    told = rows(tmp_path / "out" / "train.log")
    assert told == rows(tmp_path / "whole" / "train.log")
    assert told[-1]["doing"] == "retraining" and told[-1]["epoch"] == 2


@pytest.mark.long
@pytest.mark.parametrize("epochs", [0.3, 1, 1.5])
def test_epochs_that_are_cut_short_have_the_number_that_the_report_gives_them(epochs, toy, tmp_path):  # noqa: F811
    given = {"dataset": toy, "epochs": epochs, "batch_size": 32, "round_to": 1, "device": "cpu", "ratio": 0.5}
    moments = []
    found = slimkit.compress(
        net(), torch.zeros(1, 1, 8, 8), out=tmp_path / "out", watchers=[moments.append], **given
    ).report.recovery.history
    wanted = [entry.epoch for entry in found]
    assert wanted and [row["epoch"] for row in rows(tmp_path / "out" / "train.log")] == wanted
    lines = [described(moment) for moment in moments if moment.whole]
    assert [line.split(", ")[0].split(" of ")[0] for line in lines] == [f"epoch {number}" for number in wanted]


def relabelled(dataset):
    """Return the data of the same name and size with others as targets."""
    train = dataclasses.replace(dataset.train, labels=(dataset.train.labels + 1) % 3)
    return dataclasses.replace(dataset, train=train)


def test_a_training_does_not_go_on_with_other_data(toy, tmp_path):  # noqa: F811
    def trained(dataset, **how):
        settings = {"at": 1, **FEW, **how}
        return train_run.train(net(), dataset, 0.5, out=tmp_path / "out", **settings)

    with pytest.raises(Killed):
        trained(toy, watchers=[killed_at(3)])
    with pytest.raises(TrainingError, match=r"another run: inputs or targets differ(.|\n)*the same settings and data"):
        trained(relabelled(toy), resume=True)
    assert trained(toy, resume=True)


@pytest.mark.long
def test_a_retraining_does_not_go_on_with_other_data(toy, tmp_path):  # noqa: F811
    def retrained(dataset, **how):
        settings = {"epochs": 2, "batch_size": 32, "ratio": 0.5, "round_to": 1, "device": "cpu", "dataset": dataset}
        return slimkit.compress(net(), torch.zeros(1, 1, 8, 8), out=tmp_path / "out", **settings, **how)

    with pytest.raises(Killed):
        retrained(toy, watchers=[killed_at(3)])
    with pytest.raises(TrainingError, match="another run: inputs or targets differ"):
        retrained(relabelled(toy), resume=True)
    assert retrained(toy, resume=True)


OTHERS = {
    "another mask": {"ratio": 0.4},
    "a retraining that begins with other weights": {"constants": "zero", "recover": False},
    "another budget": {"ratio": None, "max_macs": 0.5},
    "another network": {},
}


@pytest.mark.long
@pytest.mark.parametrize("kind", OTHERS)
def test_a_retraining_does_not_begin_in_the_place_of_another(kind, toy, tmp_path):  # noqa: F811
    def retrained(model=None, **how):
        settings = {"epochs": 2, "batch_size": 32, "round_to": 1, "device": "cpu", "dataset": toy, "ratio": 0.5, **how}
        return slimkit.compress(model or net(), torch.zeros(1, 1, 8, 8), out=tmp_path / "out", **settings)

    with pytest.raises(Killed):
        retrained(watchers=[killed_at(3)])
    [state] = tmp_path.glob("out.state/*/state.bin")
    before, other = state.read_bytes(), net()
    if kind == "another network":
        next(other.parameters()).data.add_(0.01)
    with pytest.raises(TrainingError, match=f"another run: .*{next(iter(OTHERS[kind]), 'weights')}"):
        retrained(other, resume=True, **OTHERS[kind])
    assert state.read_bytes() == before and listing(tmp_path) == ["out.state"]
    assert retrained(resume=True)


@pytest.mark.parametrize("resume", [False, True])
def test_a_training_does_not_begin_in_the_place_of_another_whose_stages_have_other_names(resume, toy, tmp_path):  # noqa: F811
    def trained(method, **how):
        return train_run.train(net(), toy, 0.5, out=tmp_path / "out", **{**FEW, "method": method}, **how)

    with pytest.raises(Killed):
        trained("lottery-ticket", watchers=[killed_at(3)])
    states = sorted(tmp_path.glob("out.state/**/state.bin"))
    before = [path.read_bytes() for path in states]
    with pytest.raises(TrainingError, match="method" if resume else "holds the state of a run"):
        trained("scratch", resume=resume)
    assert states and [path.read_bytes() for path in states] == before


def test_a_training_that_is_complete_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = (*TRAIN, "--out", "out")
    assert main([*words, "--resume"]) == 0
    said = capsys.readouterr()
    lines = [line for line in said.err.splitlines() if line.startswith("slimkit: training, epoch ")]
    assert len(lines) == 2 and "epoch 1 of 2, loss " in lines[0] and "accuracy " in lines[0] and " left" in lines[0]
    before = {path.name: path.stat().st_mtime_ns for path in Path("out").iterdir()}
    monkeypatch.setattr(train_run, "_train", pytest.fail)
    for more in ((), ("--force",)):
        assert main([*words, "--resume", *more]) == 0
        said = capsys.readouterr()
        assert said.err == "slimkit: out: this run is complete, nothing was left to do.\n"
        assert "Report: out/report.html" in said.out
    assert main([*words, "--resume", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(Path("out/report.json").read_text())
    assert {path.name: path.stat().st_mtime_ns for path in Path("out").iterdir()} == before
    assert main([*words, "--resume", "--seed", "3"]) == 2
    assert "out: another run is complete there (seed was 0, is 3)" in capsys.readouterr().err
    assert main(list(words)) == 2 and "exists already" in capsys.readouterr().err


@pytest.mark.long
def test_a_compression_that_is_complete_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("net.safetensors").write_bytes(Path(slimkit.zoo.CHECKPOINTS["resnet8-digits"]).read_bytes())
    words = ["compress", "net.safetensors", "--ratio", "0.5", "--resume"]
    assert main(words) == 0
    capsys.readouterr()
    (tmp_path / "net-slim.state" / "retraining").mkdir(parents=True)  # of a process killed as it was tidying up
    (tmp_path / "net-slim.state" / "retraining" / "state.bin").write_bytes(b"x")
    with monkeypatch.context() as patch:
        patch.setattr(compress_run, "finished", pytest.fail)
        assert main(words) == 0
    assert capsys.readouterr().err == "slimkit: net-slim: this run is complete, nothing was left to do.\n"
    assert listing(tmp_path) == ["net-slim", "net.safetensors"]
    models.save(models.build("zoo:resnet8", classes=10, input_shape=(1, 8, 8)).model, Path("net.safetensors"))
    assert main(words) == 2
    assert "net.safetensors has changed since" in capsys.readouterr().err
    Path("net-slim/report.json").write_text("{}")  # no complete run of ours any more
    assert main(words) == 2 and "exists already" in capsys.readouterr().err


DATA_THAT_CHANGES = """
import torch

def make():
    images = torch.randint(0, 256, (96, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels = (torch.arange(96) + SHIFT) % 3
    return {"train": (images[:48], labels[:48]), "validation": (images[48:], labels[48:])}
"""
OF_CHANGING_DATA = {
    "train": ["train", "--arch", "zoo:resnet8", "--epochs", "1", "--ratio", "0.3", "--device", "cpu", *EARLY],
    "compress": ["compress", "net.safetensors", "--ratio", "0.5", "--device", "cpu"],
    "sweep": ["compress", "net.safetensors", "--ratio", "0.5,0.3", "--device", "cpu"],
}


@pytest.mark.long
@pytest.mark.parametrize("command", OF_CHANGING_DATA)
def test_a_complete_run_of_other_data_is_another_run_as_an_interrupted_one_is(command, tmp_path, monkeypatch, capsys):
    """A folder whose labels were mended was said to be done with."""
    monkeypatch.chdir(tmp_path)

    def shifted(by):
        Path("mine.py").write_text(f"SHIFT = {by}\n{DATA_THAT_CHANGES}")

    models.save(net(), Path("net.safetensors"))
    words = [*OF_CHANGING_DATA[command], "--data", "mine.py:make", "--out", "out", "--resume"]
    shifted(0)
    assert main(words) == 0
    capsys.readouterr()
    before = {path: path.read_bytes() for path in Path("out").rglob("*") if path.is_file()}
    with monkeypatch.context() as patch:
        patch.setattr(train_run, "_train", pytest.fail)
        patch.setattr(compress_run, "begin", pytest.fail)
        assert main(words) == 0
        shifted(1)
        assert main(words) == 2
    assert "another run is complete there (inputs or targets changed)" in capsys.readouterr().err
    assert all(path.read_bytes() == was for path, was in before.items() if path.name != "comparison.html")
    assert main([*words[:-1], "--force"]) == 0 and main(words) == 0


def test_what_lies_there_unmarked_is_no_complete_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("out").mkdir()
    Path("out/report.json").write_text("{}")
    assert main([*TRAIN, "--out", "out", "--resume"]) == 2
    assert "exists already" in capsys.readouterr().err


def some_moments(watch) -> None:
    """Tell a watcher of a training of two epochs of two steps."""
    for step in (1, 2, 2, 3, 4, 4):
        whole = step % 2 == 0
        watch(
            Moment(
                doing="training", step=step, steps=4, epoch=step // 2, epochs=2, loss=1 / step, learning_rate=0.1,
                quality=0.25 * step if whole else None, metric="accuracy", unit="share", seconds=step, whole=whole,
            )
        )  # fmt: skip


@pytest.mark.filterwarnings("ignore")
def test_tensorboard_gets_the_figures(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with trackers.opened(["tensorboard", "tensorboard"], tmp_path / "out", {}) as [watcher]:
        some_moments(watcher)
    events = EventAccumulator(str(tmp_path / "out.tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("training/accuracy")][-1] == (4, 1.0)
    assert {e.step for e in events.Scalars("training/loss")} == {1, 3}


@pytest.mark.filterwarnings("ignore")
def test_weights_and_biases_gets_the_figures_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.chdir(tmp_path)
    for name, value in {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "HOME": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    with trackers.opened(["wandb"], tmp_path / "out", {"ratio": 0.5}) as [watcher]:
        some_moments(watcher)
    [log] = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    wanted = (b"training/accuracy", b"training/loss", b"ratio")
    until = time.monotonic() + 60  # a process of its own writes
    while not all(name in log.read_bytes() for name in wanted):
        assert time.monotonic() < until, log.read_bytes()
        time.sleep(0.1)


def test_weights_and_biases_is_told_how_a_run_ended(monkeypatch):
    ends = []
    run = types.SimpleNamespace(log=lambda row: None, finish=lambda exit_code: ends.append(exit_code))
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=lambda **given: run, Settings=dict))
    with trackers.wandb():
        pass
    with pytest.raises(Killed), trackers.wandb():
        raise Killed
    assert ends == [0, 1]


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_tracker_that_is_not_installed_is_said_before_any_work(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, name, None)
    assert main([*TRAIN, "--track", name]) == 2
    said = capsys.readouterr().err
    assert f"pip install 'slimkit[{name}]'" in said and "epoch" not in said
    assert listing(tmp_path) == []


def test_an_unknown_tracker_is_refused(tmp_path):
    with pytest.raises(SpecError, match="tensorboard, wandb"), trackers.opened(["mlflow"], tmp_path, {}):
        pass


def test_a_log_that_cannot_be_written_is_said(toy, tmp_path):  # noqa: F811
    (tmp_path / "out.state").mkdir()
    (tmp_path / "out.state" / "train.log").mkdir()
    with pytest.raises(slimkit.OutputError, match="train.log"):
        train_run.train(net(), toy, 0.5, out=tmp_path / "out", **FEW)


def test_the_state_of_a_training_alone_is_refused_unasked(tmp_path):
    training.state.write(training.Store(tmp_path / "x" / "pass1"), {})
    with pytest.raises(TrainingError, match="holds the state"):
        training.state.refuse_unasked(training.Store(tmp_path / "x" / "pass1"))
    assert training.state.anywhere(training.Store(tmp_path / "x"))


def test_what_somebody_has_put_beside_the_states_stays(toy, tmp_path):  # noqa: F811
    """A `train.log` in any folder there went."""
    with pytest.raises(Killed):
        train_run.train(net(), toy, 0.5, out=tmp_path / "out", watchers=[killed_at(3)], **FEW)
    mine = tmp_path / "out.state" / "mine" / "train.log"
    mine.parent.mkdir()
    mine.write_text("notes")
    train_run.train(net(), toy, 0.5, out=tmp_path / "out", resume=True, **FEW)
    assert listing(tmp_path / "out.state") == ["mine"] and mine.read_text() == "notes"
