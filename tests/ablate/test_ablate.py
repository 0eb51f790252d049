"""What an ablation trains, measures and writes."""

import csv
import json
import os
import signal

import ablation_toys
import pytest
from torch_threads import one_thread  # noqa: F401

from moezoo.ablate import ablate, resolve_plan
from moezoo.ablate import run as ablate_run
from moezoo.ablate.progress import Unwatched
from moezoo.data import input_options, load_dataset
from moezoo.errors import CheckpointError, ConfigError, Interrupted, OutputError, RunLockedError
from moezoo.eval import evaluate
from moezoo.factory import create_model
from moezoo.moe import set_threshold
from moezoo.train.lock import own_run_folder
from moezoo.train.progress import Silent

NAME = "attention_routing/digits"
SAME = (f"data.name={ablation_toys.NAME}", "training.epochs=2", "training.batch_size=10", "training.device=cpu")
SAME += ("patch_grid_size=4", "aggregator=concat")
VARY = ("patch_grid_size=2,8", "variant=base,full_compute", "threshold=0.3,0.7", "budget=0,0.5,1")


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """An ablation and its folder."""
    out = tmp_path_factory.mktemp("ablation")
    return ablate(resolve_plan(NAME, vary=VARY, assignments=SAME), out), out


@pytest.fixture
def no_training(monkeypatch):
    def refuse(*args, **options):
        raise AssertionError("nothing was to be trained")

    monkeypatch.setattr(ablate_run, "train_recipe", refuse)


def row(found, factor, value):
    (match,) = [each for each in found.rows if (each.factor, each.value) == (factor, value)]
    return match


def test_one_factor_changes_at_a_time_and_the_base_is_trained_once(done):
    found, out = done
    assert [(r.factor, r.value) for r in found.rows] == [
        ("base", ""),
        *(("patch_grid_size", value) for value in (2, 4, 8)),
        *(("variant", value) for value in ("base", "full_compute")),
        *(("threshold", value) for value in (0.3, 0.7)),
        *(("budget", value) for value in (0, 0.5, 1)),
    ]
    trained = sorted(path.parent.parent.name for path in out.glob("runs/*/seed-0/metrics.json"))
    assert trained == ["base", "patch_grid_size=2", "patch_grid_size=8", "variant=full_compute"]
    for name, changed in (("patch_grid_size=8", {"patch_grid_size": 8}), ("variant=full_compute", {"compute": "full"})):
        base, own = (
            json.loads((out / "runs" / n / "seed-0/config.json").read_text())["config"] for n in ("base", name)
        )
        assert {key: own[key] for key in own if own[key] != base[key]} == changed
    assert row(found, "patch_grid_size", 4).results == row(found, "base", "").results
    assert [r.value for r in found.rows if r.is_base] == ["", 4, "base"]
    assert found.base_values() == {"patch_grid_size": 4, "variant": "base"}


def test_dials_are_evaluations_of_the_trained_base(done):
    found, out = done
    for value in (0, 0.5, 1):
        assert row(found, "budget", value).mean("routing_ratio") == value
        assert row(found, "budget", value).mean("routing_ratio_sd") == 0
    costs = [row(found, "budget", value).mean("flops_p50") for value in (0, 0.5, 1)]
    assert costs == sorted(set(costs))
    model = create_model(f"local-dir:{out / 'runs/base/seed-0'}", pretrained=True)
    data = load_dataset(ablation_toys.NAME, **input_options(model, ablation_toys.NAME))
    set_threshold(model, 0.7)
    wanted = evaluate(model, data.test)
    assert row(found, "threshold", 0.7).mean("test") == wanted.classification.top1
    assert row(found, "threshold", 0.7).mean("routing_ratio") == wanted.budget.ratio.mean
    assert row(found, "threshold", 0.7).mean("routing_ratio_sd") == wanted.budget.ratio.sd


def test_files_hold_accuracy_ratio_flops_and_time_of_every_setting(done):
    found, out = done
    with (out / "ablation.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(found.rows) == len(json.loads((out / "ablation.json").read_text())["rows"])
    for line in rows:
        assert 0 <= float(line["val_accuracy"]) <= 1
        assert 0 <= float(line["test_accuracy"]) <= 1
        assert 0 <= float(line["routing_ratio"]) <= 1
        assert 0 < float(line["flops_p50"]) <= float(line["flops_p95"])
        assert float(line["seconds"]) > 0
        assert (out / "runs" / line["run"] / "model.safetensors").is_file()
        assert not (out / "runs" / line["run"] / "checkpoints" / "step-00000004").exists()
    metrics = json.loads((out / "runs/patch_grid_size=8/seed-0/metrics.json").read_text())
    (line,) = [line for line in rows if (line["factor"], line["value"]) == ("patch_grid_size", "8")]
    assert float(line["test_accuracy"]) == metrics["test"]["classification"]["top1"]
    assert float(line["val_accuracy"]) == metrics["val_accuracy"]


def test_the_choice_is_by_validation_and_one_per_factor(done):
    found, _ = done
    for factor in dict.fromkeys(r.factor for r in found.rows if r.factor != "base"):
        own = [r for r in found.rows if r.factor == factor]
        (chosen,) = [r for r in own if r.chosen]
        best = max(r.mean("val") for r in own)
        assert chosen.mean("val") == best
        assert chosen.mean("flops_p50") == min(r.mean("flops_p50") for r in own if r.mean("val") == best)


def test_a_finished_ablation_is_read_and_may_be_added_to(done, no_training):
    found, out = done
    again = ablate(resolve_plan(NAME, vary=VARY, assignments=SAME), out)
    assert again == found
    less = ablate(resolve_plan(NAME, vary=VARY, only=["budget"], assignments=(*SAME, "training.num_workers=1")), out)
    assert [r.results for r in less.rows[1:]] == [r.results for r in found.rows if r.factor == "budget"]
    more = ablate(resolve_plan(NAME, vary=["budget=0.25,1"], assignments=SAME), out)
    assert [r.mean("routing_ratio") for r in more.rows[1:]] == [0.25, 1]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("training.epochs=3", "training.epochs: 2 there, 3 now"),
        ("aggregator=mean", "model.aggregator: 'concat' there, 'mean' now"),
        ("data.images=21", "data.images: 20 there, 21 now"),
    ],
)
def test_another_recipe_in_the_same_folder_is_refused_with_the_difference(done, no_training, change, said):
    with pytest.raises(CheckpointError) as error:
        ablate(resolve_plan(NAME, vary=VARY, assignments=(*SAME, change)), done[1])
    assert said in str(error.value)


def test_overwrite_drops_the_runs_of_an_ablation_and_no_others(tmp_path):
    mine = tmp_path / "runs" / "mine" / "checkpoints" / "model.safetensors"
    mine.parent.mkdir(parents=True)
    mine.touch()
    kept = tmp_path / "runs" / "base" / "seed-0"
    kept.mkdir(parents=True)
    (kept / "ablation_cell.json").write_text('{"pretrained": true}')
    plan = resolve_plan(NAME, vary=["budget=1"], assignments=[*SAME, "training.epochs=1"])
    with pytest.raises(CheckpointError, match="pretrained: True there, False now"):
        ablate(plan, tmp_path)
    assert len(ablate(plan, tmp_path, overwrite=True).rows) == 2
    assert mine.exists()
    (kept / "ablation_result.json").write_text("[")
    with pytest.raises(OutputError, match=r"ablation_result.json' cannot be read"):
        ablate(plan, tmp_path)


def test_seeds_are_runs_of_their_own_and_give_a_spread(tmp_path):
    plan = resolve_plan(NAME, vary=["budget=0,1"], assignments=[*SAME, "training.seed=5"], seeds=2)
    found = ablate(plan, tmp_path)
    assert sorted(path.name for path in (tmp_path / "runs/base").iterdir()) == ["seed-5", "seed-6"]
    one, two = (each.test for each in found.rows[1].results)
    assert found.rows[1].mean("test") == pytest.approx((one + two) / 2)
    assert found.rows[1].sd("test") == pytest.approx(abs(one - two) / 2**0.5)


def test_one_ablation_at_a_time_owns_a_folder(tmp_path, no_training):
    plan = resolve_plan(NAME, vary=["budget=1"], assignments=SAME)
    with own_run_folder(tmp_path), pytest.raises(RunLockedError, match="in use"):
        ablate(plan, tmp_path)


class Stopping(Unwatched):
    """Sends SIGTERM in the second step of a run."""

    def run(self, title):
        class Steps(Silent):
            steps = 0

            def step(self, *args, **more):
                self.steps += 1
                if self.steps == 2:
                    os.kill(os.getpid(), signal.SIGTERM)

        return Steps()


def test_a_signal_stops_it_in_order_and_the_same_call_goes_on(tmp_path):
    plan = resolve_plan(NAME, vary=["budget=1"], assignments=SAME)
    with pytest.raises(Interrupted, match=r"base/seed-0; the same command goes on") as stopped:
        ablate(plan, tmp_path, watcher=Stopping())
    assert stopped.value.exit_code == 143
    assert (tmp_path / "runs/base/seed-0/checkpoints/step-00000002").is_dir()
    assert len(ablate(plan, tmp_path).rows) == 2


def test_what_cannot_be_done_is_found_before_anything_is_trained(tmp_path, no_training, monkeypatch):
    same = [f"data.name={ablation_toys.NAME}"]
    with pytest.raises(ConfigError, match="budget"):
        ablate(resolve_plan("entity_moe/test_vit", vary=["budget=0.5"], assignments=same), tmp_path)
    for vary, said in (("budget=0.5,1.5", "1.5"), ("threshold=0.5,1", "threshold"), ("patch_grid_size=5", "=5")):
        with pytest.raises(ConfigError, match=said):
            ablate(resolve_plan(NAME, vary=[vary], assignments=same), tmp_path)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="one process"):
        ablate(resolve_plan(NAME, vary=["budget=0.5"], assignments=same), tmp_path)
