"""The train journey on tiny networks: what a cut keeps, what a run costs, how a killed run ends."""

import copy
import dataclasses
import functools
import json

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import cross_entropy

from slimkit import models, provenance, training, zoo
from slimkit.channels import trace
from slimkit.cli import main
from slimkit.data.augmentation import Augmentation
from slimkit.data.dataset import Dataset
from slimkit.data.tensor_split import in_memory
from slimkit.errors import BudgetError, DataError, MaskError, ProofError, SpecError, TrainingError
from slimkit.measure.macs import count_macs
from slimkit.methods import EarlyBirdConfig, penalised
from slimkit.methods.looks import looks_of
from slimkit.progress import quiet
from slimkit.recovery import fold
from slimkit.results import MeasuredBudget, ledger
from slimkit.runs import begin
from slimkit.runs import train as train_run
from slimkit.runs.job import job_of
from slimkit.runs.plan import plan
from slimkit.selection import exact
from slimkit.selection.mask import Mask, apply_
from slimkit.selection.measured import agreed, remembered
from slimkit.surgery.remove import kept_indices, remove
from slimkit.training.penalty import gammas

FEW = {"method": "early-bird", "epochs": 4, "batch_size": 32, "round_to": 1, "device": "cpu", "precision": "fp32"}


def images(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Three classes: a bright left half, right half, or neither, under noise."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    x = torch.randint(0, 120, (count, 1, 8, 8), generator=random)
    x[labels == 0, :, :, :4] += 60
    x[labels == 1, :, :, 4:] += 60
    return x.to(torch.uint8), labels


@pytest.fixture(scope="module")
def toy() -> Dataset:
    return in_memory("toy", images(192, 0), images(96, 2), images(96, 1), classes=3, augmentation=Augmentation())


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    arguments = {"num_classes": 3, "in_channels": 1, "width": 8}
    model = zoo.resnet8(**arguments)
    known = provenance.Provenance(arch="zoo:resnet8", arguments=arguments, input_shape=(1, 8, 8), classes=3)
    provenance.attach(model, known)
    return model


def test_a_run_draws_shrinks_and_accounts_for_it(toy, tmp_path):
    dense = net()
    before = copy.deepcopy(dense.state_dict())
    result = train_run.train(dense, toy, 0.5, out=tmp_path / "out", **FEW | {"method": EarlyBirdConfig(at=1)})
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    shape = toy.input_shape
    full, small = count_macs(dense, shape), count_macs(result.model, shape)
    assert result.mask.removed == report["channels"]["removed"] == round(0.5 * len(result.mask.keep))
    assert report["cost"]["search_macs"] == 3 * full * 192
    assert report["cost"]["training_macs"] == 3 * small * 192 * 3
    assert report["cost"]["share_of_dense_training"] == pytest.approx((1 + 3 * small / full) / 4)
    assert report["cost"]["train_prune_retrain_macs"] == 3 * 192 * 4 * (full + small)
    assert report["search"]["drawn_epoch"] == 1 and len(report["search"]["history"]) == 4
    assert report["after"]["accuracy"]["test"] > 0.6 and report["before"]["accuracy"] is None
    files = {path.name for path in (tmp_path / "out").iterdir()}
    written = {"model.onnx", "model.safetensors", "report.json", "report.html", "run.toml", "train.log"}
    assert files == {*written, ".manifest.json"}
    assert not list(tmp_path.glob("*.state")) and not list(tmp_path.glob(".*"))
    torch.testing.assert_close(dense.state_dict(), before, rtol=0, atol=0)


def found(toy, tmp_path, settings, *, store=None, progress=quiet, ratio=0.4, model=None):
    """Search and train, without the files."""
    budget = {} if {"max_macs", "max_latency"} & set(settings) else {"ratio": ratio}
    asked = plan({"arch": "zoo:resnet8", "data": "toy", **FEW, **budget, **settings})
    network = models.as_network(model or net(asked.spec.seed), toy.input_shape)
    fresh = functools.partial(net, asked.spec.seed + 1)
    job = job_of(network, fresh, toy, asked, store, progress)
    return asked.method(job, asked.config), job


def test_early_bird_watches_several_ratios(toy, tmp_path):
    settings = {"epochs": 8, "threshold": 1.0, "watch": (0.3, 0.7)}
    run, _ = found(toy, tmp_path, settings, ratio=0.5)
    search = run.search.to_dict()
    assert {"0.5", "0.3", "0.7"} == set(search["ratios"])
    size = len(search["epochs"])
    assert [len(row) for row in search["matrix"]] == [size] * size
    assert all(search["matrix"][i][i] == 0 for i in range(size))
    assert 2 <= search["drawn_epoch"] == search["ratios"]["0.5"]["epoch"] < 4 and search["penalty"]["strength"] > 0
    assert search["ratios"]["0.5"]["settled"]  # at half of the steps it would have been drawn in any case
    channels = sum(len(gamma) for _, gamma in gammas(net()))
    assert [sum(entry["counts"]) for entry in search["gamma_history"]] == [channels] * size


def test_reported_distances_are_shares_of_the_channels_that_can_go(toy, tmp_path):
    run, job = found(toy, tmp_path, {"method": "lottery-ticket", "epochs": 2, "interval": 2, "keep": ("conv1",)})
    free = job.graph.units - int(job.selection.fixed(job.graph).sum())
    search = run.search
    shares = [one for row in search.matrix for one in row] + [look.distance for look in search.distances[1:]]
    assert free < job.graph.units and max(shares) > 0
    assert [share * free for share in shares] == pytest.approx([round(share * free) for share in shares], abs=1e-3)


@pytest.mark.parametrize(("norm", "watched"), [(nn.BatchNorm2d, "gamma"), (nn.Identity, "group-norm")])
@pytest.mark.parametrize("method", [{"method": "lottery-ticket"}, {"method": "network-slimming", "penalty": "group"}])
def test_looks_that_only_report_rank_by_what_is_cheap(method, norm, watched, toy, tmp_path):
    layers = [nn.Conv2d(1, 8, 3), norm(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU()]
    plain = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    run, _ = found(toy, tmp_path, {"epochs": 1, "ranking": "taylor", **method}, model=plain)
    assert run.search.watched == watched and run.search.matrix


def test_momentum_follows_so_that_training_goes_on_as_in_the_masked_network():
    model = net().train()
    graph = trace(model, torch.zeros(1, 1, 8, 8))
    x, y = (t[:64] for t in images(64, 3))
    x = x.float() / 60 - 1
    recipe = training.Recipe(epochs=1, learning_rate=0.05)
    sgd = training.make_optimizer(model, recipe)

    def losses(network, optimizer, steps):
        found = []
        for _ in range(steps):
            optimizer.zero_grad()
            loss = cross_entropy(network(x), y)
            loss.backward()
            optimizer.step()
            found.append(loss.item())
        return found

    losses(model, sgd, 8)
    mask = exact.masks(graph, torch.rand(graph.units), [0.4], 0.9)[0.4]
    kept = kept_indices(graph, mask)
    small = remove(model, graph, mask).train()
    followed = training.follow(sgd, model, small, kept)
    forgetful = copy.deepcopy(small)
    apply_(model, graph, mask)  # the reference: silent channels, and their momentum at rest
    shadow = copy.deepcopy(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            dict(shadow.named_parameters())[name].copy_(sgd.state[parameter]["momentum_buffer"])
        apply_(shadow, graph, mask)
        for name, parameter in model.named_parameters():
            sgd.state[parameter]["momentum_buffer"].copy_(dict(shadow.named_parameters())[name])
    wanted = losses(model, sgd, 10)
    assert losses(small, followed, 10) == pytest.approx(wanted, abs=2e-4)
    without = losses(forgetful, training.make_optimizer(forgetful, recipe), 10)
    assert max(abs(a - b) for a, b in zip(without, wanted, strict=True)) > 0.01


class Killed(BaseException):
    """Ends a run as SIGKILL would: nothing is caught, nothing is cleaned up."""


def killed(toy, tmp_path, settings, steps):
    """Run for some steps, saving the state after each, and kill the run."""
    left = steps

    def progress(message, share):
        nonlocal left
        left -= "training" in message
        if left < 0:
            raise Killed

    store = training.Store(tmp_path / "state", identity={"settings": str(settings)}, seconds=0.0)
    with pytest.raises(Killed):
        found(toy, tmp_path, settings, store=store, progress=progress)
    return dataclasses.replace(store, resume=True)


@pytest.mark.long
@pytest.mark.parametrize("settings", [
    {"at": 1},
    {"method": "early-bird", "threshold": 1.0, "epochs": 20},
    {"at": 2, "init": "rewind", "rewind_step": 3},
    {"method": "network-slimming", "epochs": 2, "passes": 2},
    {"at": 1, "search_precision": "int8-emulated"},
    {"at": 1, "penalty": "group", "ranking": "group-norm"},
])  # fmt: skip
def test_a_killed_run_ends_as_if_it_had_not_been(toy, tmp_path, settings):
    whole, _ = found(toy, tmp_path, settings)
    store = killed(toy, tmp_path, settings, 21 if "passes" in settings else 16)
    resumed, _ = found(toy, tmp_path, settings, store=store)
    torch.testing.assert_close(resumed.model.state_dict(), whole.model.state_dict(), rtol=0, atol=0)
    assert torch.equal(resumed.slimmed.mask.keep, whole.slimmed.mask.keep)
    assert (resumed.search.to_dict(), resumed.legs) == (whole.search.to_dict(), whole.legs)
    for part in ("gammas", "after", "budget"):
        assert getattr(resumed.cut, part) == getattr(whole.cut, part)


@pytest.mark.parametrize(
    ("how", "removed"),
    [
        ({"at": 2}, 0.4),
        ({"method": "scratch", "control": "scratch-E"}, 0.3),
        ({"method": "network-slimming"}, 0.4),
    ],
)
def test_a_killed_run_goes_on_with_what_its_budget_measured(toy, tmp_path, monkeypatch, how, removed):
    """A latency budget is measured: the ratio that it comes to would be another each time."""
    shares = iter([0.3, 0.4])
    said = MeasuredBudget(kind="latency", asked=0.5, original=2.0, target=1.0, reached=0.9)

    class Measuring:
        def __call__(self, graph, scores, widths, fixed):
            return exact.masks(graph, scores, [share := next(shares)], widths.cap, fixed)[share]

        def record(self):
            return said

    monkeypatch.setattr("slimkit.runs.job.measured_budget", lambda *_: Measuring())
    settings = {"max_latency": 0.5, "epochs": 3, **how}
    store = killed(toy, tmp_path, settings, 25 if "slimming" in str(how) else 9)  # of 18 steps and 18 more
    resumed, job = found(toy, tmp_path, settings, store=store)
    total = job.graph.units
    assert resumed.slimmed.mask.removed == round(removed * total) and resumed.cut.budget == said
    ratios = resumed.search.to_dict()["ratios"]
    assert [float(ratio) for ratio in ratios] == [round(0.3 * total) / total] * ("control" not in how)


def test_states_of_other_runs_and_damaged_ones(toy, tmp_path):
    settings = {"at": 1}
    store = killed(toy, tmp_path, settings, 14)
    with pytest.raises(TrainingError, match="Give `resume=True`"):
        found(toy, tmp_path, settings, store=dataclasses.replace(store, resume=False))
    with pytest.raises(TrainingError, match="state of another run: settings differ"):
        found(toy, tmp_path, settings, store=dataclasses.replace(store, identity={"settings": "others"}))
    newest = tmp_path / "state" / "state.bin"
    newest.write_bytes(newest.read_bytes()[:-9])
    resumed, _ = found(toy, tmp_path, settings, store=store)
    whole, _ = found(toy, tmp_path, settings)
    torch.testing.assert_close(resumed.model.state_dict(), whole.model.state_dict(), rtol=0, atol=0)
    assert any("damaged" in warning for warning in resumed.warnings)
    newest.unlink()
    newest.mkdir()  # what cannot be read is damaged too
    assert "state.bin was damaged" in str(training.state.read(store)[1])


def test_a_share_that_the_epochs_exceed_is_warned_of(toy):
    result = train_run.train(net(), toy, 0.5, **FEW | {"epochs": 1, "spend": 0.01, "deadline": 0.5})
    [said] = (warning for warning in result.report.warnings if "spend" in warning)
    cost = result.report.cost
    searched = cost.search_macs / cost.dense_training_macs
    assert f"costs {cost.share_of_dense_training:.2f} of one dense training without being lengthened" in said
    assert f"the search {searched:.2f}" in said and "Spend more, draw sooner, or remove more" in said
    times = result.report.cost.times
    assert 0 < times.search.seconds < times.search.seconds + times.training.seconds < result.report.cost.seconds
    assert 0 < times.training.energy_kj < result.report.cost.energy_kj.value


def test_what_a_control_may_spend_at_least_is_told_with_what_helps(toy):
    """Fewer epochs were advised, of which each costs a larger share."""

    def trained(epochs):
        settings = {**FEW, "epochs": epochs, "method": "scratch", "spend": 0.1}
        report = train_run.train(net(), toy, 0.5, **settings).report
        return report.cost.share_of_dense_training, [warning for warning in report.warnings if "spend" in warning]

    share, [said] = trained(1)
    assert f"a single epoch of this network costs {share:.2f} of one dense training of 1" in said
    assert "Give more `epochs`" in said
    assert trained(8)[0] < share and not trained(8)[1]


def test_time_before_a_kill_is_accounted_for(toy, tmp_path):
    store = killed(toy, tmp_path, {"at": 1}, 16)
    resumed, job = found(toy, tmp_path, {"at": 1}, store=store)
    spent = [sum(getattr(leg, name) for leg in resumed.legs) for name in ("seconds", "cpu_seconds")]
    assert all(0 < before < whole for before, whole in zip(resumed.earlier, spent, strict=True))
    whole, _ = found(toy, tmp_path, {"at": 1})
    assert whole.earlier == (0, 0)


def test_another_network_or_other_images_are_another_run(toy):
    wide = zoo.resnet8(num_classes=3, in_channels=1, width=16)
    fewer = dataclasses.replace(toy, train=toy.validation)
    known = [
        begin.about(model, dataset) for model, dataset in ((net(), toy), (net(1), toy), (wide, toy), (net(), fewer))
    ]
    assert known[0] == known[1] and known[0] != known[2] and known[0] != known[3]


def test_the_last_good_state_is_kept_where_training_diverges(toy, tmp_path):
    store = training.Store(tmp_path / "state", identity={"settings": "{}"}, seconds=0)
    with pytest.raises(TrainingError, match=r"(?s)the loss is nan at step.*`resume=True` goes on from it"):
        found(toy, tmp_path, {"method": "network-slimming", "learning_rate": 1e9}, store=store)
    kept, _ = training.state.read(dataclasses.replace(store, folder=store.folder / "pass1", resume=True))
    assert all(tensor.isfinite().all() for tensor in kept["model"].values())
    spoilt = training.Store(tmp_path / "spoilt", identity={"settings": "{}"}, seconds=0)
    with pytest.raises(TrainingError, match=r"gammas are not finite after step 1 of 24") as found_bad:
        found(toy, tmp_path, {"method": "network-slimming", "learning_rate": 1e39}, store=spoilt)
    assert "resume=True" not in str(found_bad.value) and not training.state.exists(spoilt)  # no good state to promise
    with pytest.raises(ProofError, match=r"(?s)after step 1 of 24, at a learning rate of 8.33e\+29: .*have diverged"):
        found(toy, tmp_path, {"learning_rate": 1e30, "deadline": 0.02})


def test_what_the_user_keeps_beside_the_states_stays(toy, tmp_path):
    kept = tmp_path / "run.state" / "notes.txt"
    kept.parent.mkdir()
    kept.write_text("precious")
    (kept.parent / "plans").mkdir()
    train_run.train(net(), toy, out=tmp_path / "run", **FEW | {"epochs": 1, "method": "network-slimming"})
    left = sorted(path.name for path in kept.parent.iterdir())
    assert kept.read_text() == "precious" and left == ["notes.txt", "plans"]


def test_initial_weights(toy, tmp_path, monkeypatch):
    begun = {}
    original = training.Run.replace

    def spy(run, model, *more):
        original(run, model, *more)
        begun["weights"], begun["step"] = copy.deepcopy(model.state_dict()), run.step

    monkeypatch.setattr(training.Run, "replace", spy)
    results = {}
    for init in ("inherit", "rewind", "fresh"):
        run, _ = found(toy, tmp_path, {"at": 3, "init": init})
        results[init] = (run, dict(begun))
    start = net()
    graph = trace(start, torch.zeros(1, 1, 8, 8))
    small = remove(start, graph, results["rewind"][0].slimmed.mask).state_dict()
    torch.testing.assert_close(results["rewind"][1]["weights"], small, rtol=0, atol=0)
    assert [begun["step"] for _, begun in results.values()] == [18, 0, 18]
    key = "layer3.0.conv1.weight"
    assert not torch.equal(results["fresh"][1]["weights"][key], small[key])
    images = {init: sum(leg.images for leg in run.legs) for init, (run, _) in results.items()}
    assert images == {"inherit": 4 * 192, "rewind": 7 * 192, "fresh": 4 * 192}
    last = {init: run.search.history[-1].validation_accuracy for init, (run, _) in results.items()}
    assert last["inherit"] >= last["fresh"] + 0.02  # the released code's "continue" starts from fresh weights


def test_other_budgets_and_what_may_be_spent(toy, tmp_path):
    run, job = found(toy, tmp_path, {"max_macs": 0.5, "spend": 0.9, "epochs": 6, "deadline": 0.2})
    graph, mask = job.graph, run.slimmed.mask
    full, small = graph.macs(Mask.full(graph).keep), graph.macs(mask.keep)
    assert small <= 0.5 * full
    spent = sum(leg.cost for leg in run.legs) / (3 * full * 6 * 192)
    assert 0.9 - small / full / 6 <= spent <= 0.9  # to the epoch
    assert len(run.search.history) > 6


EARLY = {"at": 1, "epochs": 2}
DYING = {"method": "progressive", "removal": 2, "penalty_total": 8.0, "dead": 0.9, "until": 0.9, "epochs": 2}


@pytest.mark.parametrize(("settings", "late"), [(EARLY, 9), (DYING, 10)])
def test_rewinding_past_the_draw_inherits_and_says_so(toy, tmp_path, settings, late):
    run, job = found(toy, tmp_path, {**settings, "init": "rewind", "rewind_step": late})
    assert sum(leg.images for leg in run.legs) == 2 * 192
    assert any(f"before rewind_step = {late}" in warning for warning in run.warnings)
    inherited, _ = found(toy, tmp_path, settings)
    assert run.search.init == "inherit" and run.cut.after == inherited.cut.after
    torch.testing.assert_close(run.model.state_dict(), inherited.model.state_dict(), rtol=0, atol=0)
    with pytest.raises(SpecError, match="rewind_step is 12: the"):
        found(toy, tmp_path, {**settings, "init": "rewind", "rewind_step": 12})


@pytest.mark.parametrize(
    ("settings", "fresh"),
    [
        (EARLY, {"init": "fresh"}),
        (EARLY, {"init": "rewind", "rewind_step": 2}),
        (DYING, {"init": "fresh"}),
        ({"method": "network-slimming", "epochs": 1}, {"init": "fresh"}),
        ({"method": "scratch", "control": "fine-tune", "epochs": 1}, {"control": "scratch-E"}),
    ],
)
def test_constants_are_folded_where_it_is_said_that_they_are(toy, tmp_path, monkeypatch, settings, fresh):
    folded = []
    real = fold.fold_
    monkeypatch.setattr(fold, "fold_", lambda *given: folded.append(1) or real(*given))
    for more, constants in (({}, "fold"), (fresh, "zero")):
        folded.clear()
        run, _ = found(toy, tmp_path, {**settings, **more})
        assert (run.cut.after.constants, bool(folded)) == (constants, constants == "fold")


def test_draws_at_the_beginning_and_at_the_end(toy, tmp_path):
    first, _ = found(toy, tmp_path, {"method": "scratch", "control": "scratch-E", "weights": "initial", "epochs": 1})
    assert [leg.search for leg in first.legs] == [False] and first.search.history
    last, _ = found(toy, tmp_path, {"method": "network-slimming", "passes": 2, "epochs": 2, "watch": (0.3,)}, ratio=0.5)
    assert len(last.search.history) == 6  # two passes and the retraining
    assert [leg.search for leg in last.legs] == [True, True, False]
    mask = last.slimmed.mask
    assert mask.removed == pytest.approx(0.5 * len(mask.keep), abs=1)
    assert last.model(torch.zeros(2, 1, 8, 8)).shape == (2, 3)


def test_solved_strength_shrinks_gammas_where_the_papers_does_not(toy, tmp_path):
    means = {}
    for name, penalty in (("solved", {"penalty_total": 2.0}), ("raw", {"l1": 1e-4}), ("none", {"l1": 0.0})):
        run, _ = found(toy, tmp_path, {"method": "network-slimming", "epochs": 2} | penalty)
        seen = run.search.gamma_history[-1]
        means[name] = sum(low * count for low, count in zip(seen.edges, seen.counts, strict=False))
    assert means["solved"] < 0.5 * means["none"]
    assert means["raw"] == pytest.approx(means["none"], rel=0.05)


def test_groups_are_penalised_until_the_draw_in_every_pass(toy, tmp_path, monkeypatch):
    seen = []
    original = training.penalise_groups_

    def spy(model, graph, strength):
        assert strength > 0 and graph.shapes.items() == {n: tuple(p.shape) for n, p in model.named_parameters()}.items()
        seen.append(graph.units)
        original(model, graph, strength)

    monkeypatch.setattr(penalised, "penalise_groups_", spy)
    monkeypatch.setattr(penalised, "penalise_gamma_", lambda *_: pytest.fail("gamma is not to be penalised"))
    settings = {"penalty": "group", "ranking": "group-norm", "epochs": 3, "penalty_total": 0.3}
    run, job = found(toy, tmp_path, settings | {"method": "network-slimming", "passes": 2})
    assert len(seen) == 2 * 3 * 6 and set(seen[:18]) == {job.graph.units}
    assert len(set(seen[18:])) == 1 and run.slimmed.mask.keep.sum() < seen[-1] < job.graph.units
    assert run.search.penalty.kind == "group" and run.search.penalty.pull == pytest.approx(0.3)
    seen.clear()
    found(toy, tmp_path, settings | {"at": 1})
    assert len(seen) == 6


def test_of_several_processes_the_first_one_measures(tmp_path):
    """The others get its mask, or its refusal, in a broadcast."""
    keep, answers = torch.tensor([True, False]), iter([0, BudgetError("out of reach")])

    class Solver:
        def __call__(self, *of):
            assert of == (1, 2, 3, 4)
            if isinstance(answer := next(answers), BudgetError):
                raise answer
            return Mask(keep)

        def record(self):
            return {"kind": "latency"}

    alone = Solver()
    assert agreed(alone, "cpu") is alone and agreed(None, "cpu") is None
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1)
    try:
        together = agreed(alone, "cpu")
        assert together is not alone and together.record() == {"kind": "latency"}
        assert torch.equal(together(1, 2, 3, 4).keep, keep)
        with pytest.raises(BudgetError, match="out of reach"):
            together(1, 2, 3, 4)
    finally:
        dist.destroy_process_group()


def test_bad_input(toy, tmp_path):
    with pytest.raises(TrainingError, match=r"the loss is (nan|inf) at step \d+ of 24 \(learning rate"):
        train_run.train(net(), toy, 0.5, out=tmp_path / "a", **FEW | {"at": 1, "learning_rate": 1e30})
    assert not (tmp_path / "a").exists()
    with pytest.raises(DataError, match="3 classes, the network 5"):
        train_run.train(zoo.resnet8(num_classes=5, in_channels=1), toy, 0.5, **FEW)
    with pytest.raises(DataError, match="images have 1 channels|1 channels"):
        train_run.train(zoo.resnet8(num_classes=3, in_channels=3), toy, 0.5, **FEW)
    with pytest.raises(BudgetError, match=r"ratio is 0\.95: .* 0\.\d+ is the most that can be removed"):
        train_run.train(net(), toy, 0.95, **FEW)
    with pytest.raises(MaskError, match="no gamma to rank them by"):
        train_run.train(NoNorm(), toy, 0.5, **FEW)
    with pytest.raises(MaskError, match="no BatchNorm of this network has a scale"):
        train_run.train(NoNorm(), toy, 0.5, ranking="group-norm", **FEW)


class NoNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 8, 3, padding=1), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(torch.relu(self.a(x)).mean((2, 3)))


def test_the_command_refuses_and_leaves_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--arch", "zoo:resnet8", "--data", "nothing-here", "--epochs", "1"]) == 2
    assert "no data set of that name" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_after_network_slimming_training_begins_where_init_says(toy, tmp_path, monkeypatch):
    begun = []
    original = training.train

    def spy(model, split, settings, **more):
        begun.append((copy.deepcopy(model.state_dict()), more["first_step"]))
        return original(model, split, settings, **more)

    monkeypatch.setattr(training, "train", spy)
    key = "layer3.0.conv1.weight"
    for init, passes in (("inherit", 1), ("rewind", 2), ("fresh", 1)):
        begun.clear()
        settings = {"epochs": 2, "method": "network-slimming", "init": init, "passes": passes}
        run, job = found(toy, tmp_path, settings | ({"rewind_step": 3} if init == "rewind" else {}))
        assert [step for _, step in begun] == [0, *[3 * (init == "rewind")] * passes]
        start = {"fresh": net(1), "rewind": None}.get(init, net())
        if start is None:  # three steps of the same training, from the same weights
            steps = iter(range(3))
            hook = training.Hook(
                after_step=lambda run, s=steps: None if next(s) < 2 else (_ for _ in ()).throw(Stop(run))
            )
            with pytest.raises(Stop) as stopped:
                pen = penalised.penalty_of(job, penalised.Penalised(), "gamma").hook(lambda graph=job.graph: graph)
                original(net(), toy.train, job.recipe, hooks=[pen, hook])
            start = stopped.value.args[0].model
        small = remove(start.cpu(), job.graph, run.slimmed.mask).state_dict()
        assert torch.equal(begun[-1][0][key], small[key]) is (init != "inherit")


class Stop(Exception):
    """Ends a run in the middle."""


@pytest.mark.parametrize(("settings", "words"), [
    ({"method": "network-slimming", "spend": 0.5}, "'spend' .*'network-slimming' has.*early-bird, progressive"),
    ({"method": "scratch", "search_precision": "bf16"}, "'search_precision' .*'scratch' has no such"),
    ({"method": "scratch", "rewind_step": 2}, "'rewind_step' .*'scratch' has no such"),
    ({"passes": 2}, "(?s)'passes' .*'early-bird' has no such.*It is one of network-slimming"),
    ({"tresh": 0.2}, "Did you mean threshold"),
    ({"epoch": 2}, "Did you mean epochs"),
    ({"method": "early"}, "method is 'early': it must be 'early-bird' or"),
    ({"at": 2, "deadline": 0.5}, "at is 2 and deadline is 0.5: both say when"),
    ({"draw": "late"}, "draw is 'late': it was early-bird, end, epoch:K or init"),
    ({"draw": "end", "method": "scratch"}, "draw is 'end', and method is 'scratch': both say how"),
    ({"method": "scratch", "control": "fine-tune", "weights": "initial"}, "weights is 'initial' and control"),
])  # fmt: skip
def test_what_a_method_has_no_use_for_is_refused(settings, words):
    with pytest.raises(SpecError, match=f"(?s){words}"):
        plan({"arch": "zoo:resnet8", "data": "digits", **({} if "draw" in settings else FEW), **settings})


@pytest.mark.parametrize(("old", "method", "config"), [
    ({"draw": "end", "passes": 2}, "network-slimming", {"passes": 2}),
    ({"draw": "epoch:3", "init": "rewind"}, "early-bird", {"at": 3, "init": "rewind"}),
    ({"draw": "early-bird", "passes": 1}, "early-bird", {}),
    ({"draw": "init", "spend": 0.5}, "scratch", {"control": "scratch-E", "weights": "initial", "spend": 0.5}),
    ({"draw": "epoch:0", "init": "fresh", "rule": "consecutive"}, "scratch", {"control": "scratch-E"}),
    ({"draw": "end", "deadline": 0.02, "spend": None}, "network-slimming", {}),
])  # fmt: skip
def test_old_words_still_work_and_say_the_new_ones(caplog, old, method, config):
    made = plan({"arch": "zoo:resnet8", "data": "digits", **old})
    assert made.method.name == made.spec.method == method
    assert made.config == made.method.config(**config)
    assert f"draw = {old['draw']} is now method = {method}" in caplog.text


def test_a_network_drawn_before_training_spends_its_share(toy, tmp_path):
    run, _ = found(
        toy,
        tmp_path,
        {"method": "scratch", "control": "scratch-E", "spend": 0.5},
    )
    cost = sum(leg.cost for leg in run.legs) / (3 * run.slimmed.graph.macs(Mask.full(run.slimmed.graph).keep) * 4 * 192)
    assert 0.4 < cost <= 0.5
    assert ledger.times(run.legs)["search"] is None
    assert len(run.search.history) > 4


def test_frozen_gammas_are_not_said_to_be_penalised_or_settled(toy, tmp_path):
    model = net()
    for _, gamma in gammas(model):
        gamma.requires_grad_(False)
    run, _ = found(toy, tmp_path, {"deadline": 0.5}, model=model)
    assert run.search.penalty.pull == 0 and run.search.penalty.gap is None
    assert [w for w in run.warnings if "no gamma has moved" in w] and not [w for w in run.warnings if "no gap" in w]
    with pytest.raises(TrainingError, match="(?s)no gamma has moved away from the others.*deadline. or .at"):
        found(toy, tmp_path, {}, model=model)  # nobody has asked for a draw by chance


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"penalty_total": 0, "epochs": 1}, "no gamma has moved away from the others after 3 of 6 steps"),
        ({"epochs": 1, "learning_rate": 1e-3}, "no gamma has moved away from the others"),
        ({"epochs": 1, "ranking": "group-norm", "penalty_total": 0}, "no channel's score has moved away"),
    ],
)
def test_by_default_no_mask_is_drawn_while_what_ranks_channels_lies_where_it_began(toy, tmp_path, settings, words):
    """All gammas at 0.5 but for the noise of a few steps; under a penalty they fall, but all alike."""
    with pytest.raises(TrainingError, match=words):
        found(toy, tmp_path, settings)
    run, _ = found(toy, tmp_path, {**settings, "deadline": 0.5})  # asked for, it is drawn all the same
    assert run.slimmed.mask.removed


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_gammas_that_begin_at_zero_have_not_moved_either(toy, tmp_path, share):
    model = net()
    with torch.no_grad():
        for _, gamma in gammas(model):
            gamma[: round(share * len(gamma))] = 0.0
    with pytest.raises(TrainingError, match="no gamma has moved away from the others"):
        found(toy, tmp_path, {"learning_rate": 1e-9}, model=model)


@pytest.mark.parametrize(
    ("fallen", "standing", "apart"),
    [(0.01, 0.3, True), (0.01, 0.01, False), (0.3, 0.45, False), (0.5, 0.5, False)],
)
def test_a_few_gammas_that_stand_while_most_have_fallen_say_which_to_keep(toy, tmp_path, fallen, standing, apart):
    _, job = found(toy, tmp_path, {"epochs": 1, "deadline": 0.5})
    looks = looks_of(job, EarlyBirdConfig(), None)
    model = copy.deepcopy(job.dense)  # all gammas at 0.5
    with torch.no_grad():
        for _, gamma in gammas(model):
            gamma.fill_(fallen)
            gamma[: len(gamma) // 12] = standing
    assert looks.apart(model) is apart


def test_a_mask_that_has_settled_among_scores_that_lie_still_is_waited_for(toy, tmp_path):
    """Norms of weights differ from the start, so that their masks agree before anything was learnt."""
    slow = {"ranking": "group-norm", "penalty_total": 0, "learning_rate": 1e-4, "epochs": 10}
    with pytest.raises(TrainingError, match="no channel's score has moved away from the others after 30 of 60"):
        found(toy, tmp_path, slow)


def test_a_cut_without_a_gap_is_warned_of_whatever_drew_it(toy, tmp_path):
    for how in ({"at": 1}, {"method": "network-slimming"}):
        run, _ = found(toy, tmp_path, {"epochs": 2, **how})
        assert any("no gap at this ratio" in warning for warning in run.warnings)
    run, job = found(toy, tmp_path, {"epochs": 2, "deadline": 0.5})
    assert run.search.penalty.pull < run.search.penalty.pull_of_schedule


@pytest.mark.long
@pytest.mark.parametrize(("ratio", "pull"), [(0.2, 2), (0.6, 2 * 1.5), (0.85, 2 * 4)])
def test_early_bird_pulls_the_harder_the_more_is_to_go_and_within_its_first_steps(toy, tmp_path, ratio, pull):
    settings = {
        "epochs": 60,
        "at": 59,
        "ratio": ratio,
        "round_to": 1,
    }  # of 6 steps: all of them, as there are below 450
    run, _ = found(toy, tmp_path, settings)
    assert run.search.penalty.pull_of_schedule == pytest.approx(pull)
    assert run.search.penalty.pull == pytest.approx(pull, rel=1e-3)
    longer, _ = found(toy, tmp_path, settings | {"epochs": 90})
    assert longer.search.penalty.strength == run.search.penalty.strength
    assert longer.search.penalty.pull_of_schedule > 1.4 * pull
    run, _ = found(toy, tmp_path, settings | {"penalty_total": 3.0})
    assert run.search.penalty.pull_of_schedule == pytest.approx(3)


@pytest.mark.parametrize(
    ("settings", "full", "steps", "epochs"),
    [
        ({"method": "progressive"}, 1, 9, 1),
        ({"method": "network-slimming"}, 2, 18, 3),
        ({"method": "network-slimming", "penalty": "group", "ranking": "group-norm"}, 1, 18, 3),
        ({"at": 2}, 2, 18, 2),
        ({"at": 2, "penalty": "group", "ranking": "group-norm"}, 1, 18, 2),
    ],
)
def test_a_penalty_by_default_pulls_less_where_there_are_few_steps(settings, full, steps, epochs, toy, tmp_path):
    """Else it takes from a network what it has not learnt yet, see `penalised.FEWEST`; at this rate that is nothing."""
    run, job = found(toy, tmp_path, {"epochs": 3, "learning_rate": 1e-6, **settings})
    penalty = run.search.penalty
    reached = penalty.pull if settings.get("method") == "progressive" else penalty.pull_of_schedule
    assert reached == pytest.approx(full * steps / 225)
    hardly = run.search.history[epochs - 1].validation_accuracy <= 0.4
    assert any("guessing among 3 classes gets 33.3 %: what is" in warning for warning in run.warnings) is hardly
    long = dataclasses.replace(job, recipe=dataclasses.replace(job.recipe, epochs=60))
    for asked, pull in ((None, full), (0.3, 0.3)):
        config = penalised.Pulled(penalty_total=asked)
        assert penalised.penalty_of(long, config, penalty.kind).total() == pytest.approx(pull)
    assert penalised.penalty_of(job, config, penalty.kind).total() == pytest.approx(0.3)  # as it was asked for


def test_a_process_that_does_not_measure_still_has_a_record(tmp_path):
    """Of several processes only the first one's solver is asked for a mask; all write down what it says."""

    said = MeasuredBudget(kind="latency", asked=0.5, original=0, target=0, reached=0)

    class Unasked:
        def record(self):
            return said

    assert remembered(Unasked(), training.Store(tmp_path)).record() == said
    assert remembered(None, training.Store(tmp_path)) is None
