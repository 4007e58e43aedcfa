"""Stages of a run, the environment it ran in, accuracy."""

import getpass
import re
import resource
import socket
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from slimkit.errors import DataError
from slimkit.export import export_onnx
from slimkit.measure import environment
from slimkit.measure.quality import quality as accuracy
from slimkit.measure.stages import Stages, peak_mb


def test_stages_record_wall_time_cpu_time_and_memory():
    stages = Stages()
    before = peak_mb()
    with stages.stage("sleep"):
        time.sleep(0.05)
    with stages.stage("work"):
        end = time.process_time() + 0.05
        while time.process_time() < end:
            pass
    with stages.stage("allocate"):
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6
        block = torch.ones(int(before - resident + 100) * 250_000)  # 100 MB above the peak so far
        del block
    sleep, work, allocate = stages.finished
    assert sleep.seconds >= 0.05 and sleep.cpu_seconds < 0.8 * sleep.seconds
    assert work.seconds >= work.cpu_seconds * 0.9 and work.cpu_seconds >= 0.05
    assert before <= sleep.peak_mb <= work.peak_mb < allocate.peak_mb
    assert allocate.peak_mb > before + 50
    assert [stage.name for stage in stages.finished] == ["sleep", "work", "allocate"]


def test_a_stage_that_fails_is_recorded():
    stages = Stages()
    with pytest.raises(KeyError), stages.stage("fails"):
        raise KeyError
    assert [stage.name for stage in stages.finished] == ["fails"]


def test_the_environment_names_versions_and_nothing_private():
    found = environment.environment()
    assert {"cpu", "cores", "avx512", "os", "python", "torch", "onnxruntime"} <= set(found)
    assert found["torch"] == torch.__version__.partition("+")[0] or found["torch"] == torch.__version__
    text = " ".join(str(value) for value in found.values()).lower()
    for private in (socket.gethostname().lower(), str(Path.home()).lower() + "/"):
        assert private not in text
    assert not re.search(rf"\b{re.escape(getpass.getuser())}\b", text)


@pytest.mark.parametrize(("capability", "step"), [("AVX512", 16), ("AVX2", 8), ("DEFAULT", 8)])
def test_steps_are_as_wide_as_the_vectors(monkeypatch, capability, step):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert environment.preferred_step() == step


class Split:
    """Six images whose pixel says their class; two labels are wrong."""

    def __init__(self, labels=(0, 1, 2, 0, 0, 0)):
        self.labels = torch.tensor(labels)

    def batches(self, batch_size):
        images = nn.functional.one_hot(torch.tensor([0, 1, 2, 0, 1, 2]), 3).float().view(6, 3, 1, 1)
        return zip(images.split(batch_size), self.labels.split(batch_size), strict=True)


@pytest.mark.parametrize("batch_size", [1, 4, 6])
def test_accuracy_of_a_network_and_of_its_onnx_file(tmp_path, batch_size):
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.9)).train()
    assert accuracy(model, Split(), batch_size=batch_size) == 4 / 6  # dropout is off
    assert model.training
    export_onnx(model, tmp_path / "net.onnx", torch.zeros(1, 3, 1, 1))
    assert accuracy(tmp_path / "net.onnx", Split(), batch_size=batch_size) == 4 / 6


def test_accuracy_refuses_what_it_cannot_judge():
    with pytest.raises(DataError, match="class scores"):
        accuracy(nn.Identity(), Split())
    empty = Split()
    empty.batches = lambda batch_size: iter(())
    with pytest.raises(DataError, match="no images"):
        accuracy(nn.Flatten(), empty)
