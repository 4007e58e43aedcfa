"""A study on a Ray cluster that loses a node; where Ray is installed."""

from pathlib import Path
from typing import Any

import pytest

from slimkit.results import study_file
from slimkit.runs import study as studying
from slimkit.runs.arms import ray_workers
from slimkit.settings import study_spec
from tests.study_sample import SETTINGS, tells


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of Ray's own making
def test_a_cluster_that_loses_a_node_writes_what_one_process_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    asked = study_spec({**SETTINGS, "methods": ["lottery-ticket", "uniform", "dense"], "ratio": [0.5], "seeds": 4})
    alone = studying.study(asked, tmp_path / "alone", workers=0)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    node = cluster.add_node(num_cpus=1)
    append, written = study_file.append, []

    def lose(path: Path, arm: Any) -> None:
        append(path, arm)
        written.append(arm)
        if len(written) == 3:
            cluster.remove_node(node, allow_graceful=False)

    monkeypatch.setattr(study_file, "append", lose)
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    try:
        found = studying.study(asked, tmp_path / "cluster", workers="ray")
    finally:
        cluster.shutdown()
    assert found.arms == alone.arms  # but for their clocks, which are not compared
    assert len(found.arms) == 12


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(("device", "gpus", "seen"), [("auto", 2, {"0", "1"}), ("cpu", 2, {""}), ("auto", 0, {""})])
def test_a_task_has_a_gpu_of_its_own_where_networks_are_to_be_on_one(
    device: str, gpus: int, seen: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = pytest.importorskip("ray")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    ray.init(num_cpus=4, num_gpus=gpus, log_to_driver=False, include_dashboard=False)
    monkeypatch.setattr(ray, "init", lambda **settings: None)
    with ray_workers.cluster("ray", tells, device) as workers:
        assert workers.free == (gpus if seen != {""} else 4) + 2
        for name in "ab":
            workers.begin(name, str(tmp_path / "flag"))
        (tmp_path / "flag").touch()
        told: list[str] = []
        while len(told) < 2:
            told += [seen_there or "" for _, (_, seen_there) in workers.finished()]
    assert set(told) == seen
