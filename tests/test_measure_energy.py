"""Energy: hardware counters (imitated), the model, and what it says of itself."""

import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from slimkit.measure import energy, latency, power
from slimkit.measure.engines import Port, Runner
from slimkit.measure.latency import Latency
from slimkit.measure.power import NvmlMeter, RaplMeter, processor_meters
from slimkit.measure.stages import Stages, stages_on

LATENCY = Latency(
    median_ms=12.0,
    q25_ms=11.0,
    q75_ms=13.0,
    fastest_ms=10.0,
    cpu_ms=8.0,
    engine="onnxruntime 1",
    threads=1,
    batch=4,
    repeats=11,
    noisy=False,
    cpu="a processor",
)


@pytest.fixture
def package(tmp_path):
    """One processor package with a part of its own, and a platform counter, as the kernel shows them."""
    for name, kind in (("intel-rapl:0", "package-0"), ("intel-rapl:0:0", "core"), ("intel-rapl:1", "psys")):
        domain = tmp_path / name
        domain.mkdir()
        (domain / "name").write_text(kind + "\n")
        (domain / "max_energy_range_uj").write_text("999999\n")
        (domain / "energy_uj").write_text("900000\n")
    return tmp_path


def test_only_whole_packages_are_read_and_the_counter_may_wrap(package):
    (meter,) = processor_meters(package)
    counter = package / "intel-rapl:0" / "energy_uj"
    assert meter.joules() == 0
    counter.write_text("950000")
    assert meter.joules() == pytest.approx(0.05)
    counter.write_text("20000")  # one turn of a million microjoules
    assert meter.joules() == pytest.approx(0.12)


class Counted(RaplMeter):
    """Counts how many times it was read."""

    reads = 0

    def joules(self):
        found = super().joules()
        self.reads += 1
        return found


def test_a_counter_that_turns_within_a_stage_is_read_along(package, monkeypatch):
    counter = package / "intel-rapl:0" / "energy_uj"
    monkeypatch.setattr(power, "SECONDS", 0.005)
    meter, until = Counted(package / "intel-rapl:0"), time.monotonic() + 60
    stages = Stages(meters=[meter])
    with stages.stage("training"):
        for step in range(25):  # 2.5 turns
            counter.with_suffix(".new").write_text(str((900_000 + 100_000 * (step + 1)) % 1_000_000))
            counter.with_suffix(".new").replace(counter)
            before = meter.reads
            while meter.reads < before + 2:  # one may have been under way when the counter went on
                assert time.monotonic() < until, "nobody reads along"
                time.sleep(0.001)
    assert energy.of_run(1, stages.meters).value == pytest.approx(2.5e-3)


def test_without_a_readable_counter_there_is_no_meter(package, tmp_path):
    assert processor_meters(tmp_path / "missing") == []
    (package / "intel-rapl:0" / "energy_uj").write_text("")
    assert processor_meters(package) == []


def test_an_inference_is_modelled_from_its_cpu_time_per_image():
    found = energy.per_inference(LATENCY)
    assert found.value == pytest.approx(8.0 / 4 * 6.0)  # ms x W = mJ
    assert (found.unit, found.method) == ("mJ", "modelled (CPU time x 6 W per core)")
    assert found.constants == {"watts_per_core": 6.0} and "memory" in found.leaves_out


def test_a_measured_inference_says_so():
    found = energy.per_inference(replace(LATENCY, energy_mj=50.0))
    assert (found.value, found.method, found.constants) == (12.5, "measured (RAPL)", {})


@pytest.fixture
def machine(monkeypatch):
    """A machine of two equal files, 1 ms an inference, 10 W: `machine(begin, end)` gives what is measured of them while
    something else takes 40 W more from one second to another of the readings."""

    def measured(begin, end):
        now = [0.0]
        taken = {"machine": 0.0}

        def run(image):
            since = now[0] - started[0] if started else -1.0
            now[0] += 1e-3
            taken["machine"] += 1e-3 * (50 if begin <= since < end else 10)

        def open_meters():
            started.append(now[0])
            return [SimpleNamespace(joules=lambda: taken["machine"])]

        started = []
        runner = Runner(run, (Port("x", (None, 3), np.dtype("f4")),), "fake 1")
        clock = SimpleNamespace(perf_counter=lambda: now[0], process_time=lambda: now[0])
        monkeypatch.setattr(latency, "open_runner", lambda path, engine, threads: runner)
        monkeypatch.setattr(latency, "processor_meters", open_meters)
        monkeypatch.setattr(latency, "time", clock)
        return latency.measure(["a", "b"], seconds=0)

    return measured


@pytest.mark.parametrize("begin", [0.0, 0.3, 0.9, 1.05, 1.1, 1.15, 1.2, 1.6, 2.0])
@pytest.mark.parametrize("lasts", [0.5, 9.0])
def test_a_neighbour_is_charged_to_no_file_more_than_to_another(begin, lasts, machine):
    one, other = machine(begin, begin + lasts)
    assert other.energy_mj == pytest.approx(one.energy_mj, rel=0.02)
    if lasts < 1 or begin >= 1.15:  # half of the readings had nobody beside them
        assert one.energy_mj == pytest.approx(10.0, rel=0.02)
    assert one.noisy is other.noisy


@pytest.mark.parametrize(("begin", "noisy"), [(9.0, False), (0.9, True), (1.6, True)])
def test_energy_that_scatters_is_called_noisy(begin, noisy, machine):
    assert [found.noisy for found in machine(begin, 9.0)] == [noisy, noisy]


def test_latency_reads_the_counter_where_there_is_one(package, monkeypatch):
    counter = package / "intel-rapl:0" / "energy_uj"
    monkeypatch.setattr(latency, "processor_meters", lambda: [RaplMeter(package / "intel-rapl:0")])

    def run(image):
        counter.write_text(str((int(counter.read_text()) + 2000) % 1000000))

    runner = SimpleNamespace(run=run)
    assert latency.joules_a_run([runner], [None], seconds=0.002) == pytest.approx(0.002)
    monkeypatch.setattr(latency, "processor_meters", lambda: [])
    assert latency.joules_a_run([runner], [None]) is None


def test_a_run_is_modelled_in_kilojoules_or_measured_by_all_its_meters():
    assert energy.of_run(5000).value == pytest.approx(30.0)  # s x W / 1000 = kJ
    processor = SimpleNamespace(name="RAPL", joules=lambda: 1500.0)
    gpu = SimpleNamespace(name="NVML", joules=lambda: 500.0)
    found = energy.of_run(5000, [processor, gpu])
    assert (found.value, found.unit, found.method) == (2.0, "kJ", "measured (NVML + RAPL)")


def test_a_gpu_is_read_through_nvml_in_millijoules():
    readings = iter([7_000, 9_500])
    nvml = SimpleNamespace(nvmlDeviceGetTotalEnergyConsumption=lambda handle: next(readings))
    assert NvmlMeter(nvml, "handle").joules() == 2.5


def test_without_a_gpu_there_is_no_meter(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert power.gpu_meters(torch.device("cuda")) == []


def test_a_run_on_the_processor_leaves_the_gpu_alone(monkeypatch):
    opened = []
    nvml = SimpleNamespace(nvmlInit=lambda: opened.append("nvml"), nvmlDeviceGetHandleByUUID=opened.append)
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(torch.cuda, "get_device_properties", opened.append)
    assert len(stages_on("cpu").meters) == len(processor_meters())
    assert opened == []
