"""Searches: what they choose, that they learn, stop what is bad, go on where they were, and test once."""

import csv
import json
import shutil
import statistics
import sys

import pytest
import search_toys

from moezoo.errors import CheckpointError, ConfigError, MissingPackageError, OutputError
from moezoo.factory import create_model
from moezoo.search import ArchitectureSearch, Found, pareto_front
from moezoo.search import trial as search_trial
from moezoo.search.cost import Cost
from moezoo.search.nas import trials as search_trials
from moezoo.search.trial import Trained
from moezoo.train.result import EpochMetrics

search_toys.add()
TINY = {"trials": 5, "epochs": 2, "seed": 1}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A finished search, its folder, and how often its test images were read."""
    out = tmp_path_factory.mktemp("nas") / "out"
    search_toys.Untouchable.looked_at = 0
    return ArchitectureSearch("tiny", **TINY, out=out).search(), out, search_toys.Untouchable.looked_at


@pytest.fixture
def trained(monkeypatch):
    """Folders of designs that were trained."""
    names = []
    fit = search_trial.fit
    monkeypatch.setattr(search_trial, "fit", lambda *args, **kw: names.append(kw["out"].name) or fit(*args, **kw))
    return names


def found(score, flops, number=0, pruned=False):
    return Found(number, {}, score, flops, 1, 1, 1.0, pruned, None)


def test_the_best_is_by_validation_and_tested_once(done):
    result, out, looked = done
    assert len(result.trials) == 5
    assert len({str(each.values) for each in result.trials}) == 5
    whole = [each for each in result.trials if not each.pruned]
    assert result.best[0].score == max(each.score for each in whole)
    assert looked == 24, "the test images were read once"
    assert set(result.test) == {"test_top1", "test_calibration_error"}
    with (out / "search.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["score"]) for row in rows] == [each.score for each in result.trials]
    assert [row["on_front"] == "True" for row in rows] == [each in result.front for each in result.trials]
    stored = json.loads((out / "result.json").read_text())
    assert stored["test"] == result.test
    assert stored["best"]["number"] == result.best[0].number


def test_a_journal_that_lost_its_end_is_gone_on_with(done, trained, tmp_path):
    result, out, _ = done
    shutil.copytree(out, tmp_path / "out")
    journal = tmp_path / "out" / "journal.log"
    whole = journal.read_bytes()
    journal.write_bytes(whole[:-7])  # of the last trial's end
    again = ArchitectureSearch("tiny", **TINY, out=tmp_path / "out", resume=True).search()
    assert [each.score for each in again.trials] == [each.score for each in result.trials]
    assert trained == []
    assert all(json.loads(line) for line in journal.read_text().splitlines())


def test_a_search_that_goes_on_repeats_nothing(done, trained):
    result, out, _ = done
    search_toys.Untouchable.looked_at = 0
    again = ArchitectureSearch("tiny", **TINY, out=out, resume=True).search()
    assert again.trials == result.trials
    assert again.test == result.test
    assert trained == []
    assert search_toys.Untouchable.looked_at == 0, "and does not test again"
    more = ArchitectureSearch("tiny", **{**TINY, "trials": 7}, out=out, resume=True).search()
    assert more.trials[:5] == result.trials
    assert len(more.trials) == 7
    assert len(trained) == len(set(trained)) == 2


def test_a_folder_with_another_search_is_left_alone(done):
    out = done[1]
    before = (out / "journal.log").read_bytes()
    for options, error, message in (
        ({}, OutputError, r"holds a search already.*--resume"),
        ({"seed": 2, "resume": True}, CheckpointError, r"another search.*seed: 1 there, 2 now"),
        ({"constraints": ["depth=1"], "resume": True}, CheckpointError, r"constraints: \[\] there, \['depth=1'\] now"),
        ({"sampler": "random", "resume": True}, CheckpointError, "sampler: 'tpe' there, 'random' now"),
    ):
        with pytest.raises(error, match=message):
            ArchitectureSearch("tiny", **{**TINY, **options}, out=out).search()
    with pytest.raises(CheckpointError, match=r"space: 'tiny' there, 'regnetx.small' now"):
        ArchitectureSearch("regnetx.small", **TINY, out=out, resume=True).search()
    assert (out / "journal.log").read_bytes() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"space": "tinny"}, "Did you mean: tiny"),
        ({"trials": 0}, "trials=0"),
        ({"workers": 0}, "workers=0"),
        ({"workers": "2"}, "workers='2'"),
        ({"sampler": "tpee"}, "Did you mean: tpe"),
        ({"flops_penalty": -1.0}, "flops_penalty=-1.0"),
        ({"flops_window": (9, 1)}, "flops_window"),
        ({"constraints": ["widht>=8"]}, "Did you mean: width"),
        ({"resume": True}, "give out"),
        ({"epochs": 0}, "epochs=0"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_trained(options, message):
    with pytest.raises(ConfigError, match=message):
        ArchitectureSearch(**{"space": "tiny", **options})


def test_an_impossible_window_and_a_missing_package_are_errors(tmp_path, monkeypatch):
    monkeypatch.setattr("moezoo.search.sample.COUNTED", 3)
    with pytest.raises(ConfigError, match="theirs are from"):
        ArchitectureSearch("tiny", flops_window=(1, 2), out=tmp_path / "out").search()
    assert not (tmp_path / "out").exists()
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingPackageError, match=r"moezoo\[search\]"):
        ArchitectureSearch("tiny").search()


def test_the_front_is_what_nothing_beats():
    designs = [found(s, f, n) for n, (s, f) in enumerate([(0.5, 10), (0.6, 10), (0.6, 20), (0.9, 30), (0.4, 5)])]
    assert [each.number for each in pareto_front(designs)] == [4, 1, 3]
    beaten = [
        a for a in designs if any(b.score >= a.score and b.flops <= a.flops and b is not a and b != a for b in designs)
    ]
    assert set(range(5)) - {4, 1, 3} == {each.number for each in beaten}


def planted(values):
    """The best design is 160 wide, 2 deep, with gelu."""
    return 0.9 - 0.01 * abs(values["width"] / 4 - 40) - 0.1 * abs(values["depth"] - 2) - 0.1 * (values["act"] == "relu")


@pytest.fixture
def known_scores(monkeypatch):
    """Designs are not trained: their epochs give the planted score at once."""
    shown = []

    def train(space, design, folder, assignments, observer):
        score = planted(design.values)
        observer.start(4, 1)
        for epoch in range(1, 5):
            metrics = EpochMetrics(epoch, 0.0, 0.0, 0.0, 0.0, 0.0, score, 1.0, ())
            shown.append(design.key)
            observer.epoch(metrics, metrics)
        return Trained(dict(design.values), score, "accuracy", 4, 1, 1000 * design.values["width"], 1, 4.0)

    monkeypatch.setattr(search_trials, "train_design", train)
    monkeypatch.setattr(search_trials, "design_cost", lambda space, v, _: Cost(1000 * v["width"], 1))
    monkeypatch.setattr(ArchitectureSearch, "_test_best", lambda self, task, best: {})
    return shown


def test_search_learns_where_good_designs_are(known_scores):
    def mean_of_the_last(sampler, seed):
        options = {"trials": 24, "pruning": False, "seed": seed}
        trials = ArchitectureSearch("tiny", sampler=sampler, **options).search().trials
        return statistics.fmean(each.score for each in trials[12:])

    learnt = [mean_of_the_last("tpe", seed) for seed in range(2)]
    drawn = [mean_of_the_last("random", seed) for seed in range(2)]
    assert min(learnt) > max(drawn)
    assert statistics.fmean(learnt) > statistics.fmean(drawn) + 0.02


def test_bad_designs_are_stopped_early_and_are_no_candidates(known_scores):
    result = ArchitectureSearch("tiny", trials=16, seed=0).search()
    stopped = [each for each in result.trials if each.pruned]
    assert stopped
    assert all(each.epochs < 4 for each in stopped)
    assert len(known_scores) == sum(each.epochs for each in result.trials) < 4 * 16
    assert not set(map(id, stopped)) & set(map(id, (*result.best, *result.front)))
    middle = statistics.median(each.score for each in result.trials)
    assert all(each.score <= middle + 0.05 for each in stopped)


@pytest.mark.slow
def test_a_penalty_on_flops_prefers_small_designs(known_scores):
    def width(penalty):
        trials = ArchitectureSearch("tiny", trials=24, seed=0, pruning=False, flops_penalty=penalty).search().trials
        return statistics.fmean(each.values["width"] for each in trials[12:])

    assert width(0.2) < 0.7 * width(0.0)


def test_a_space_with_few_designs_ends_the_search(known_scores, monkeypatch):
    monkeypatch.setattr(search_trials, "DRAWS", 50)
    monkeypatch.setattr("moezoo.search.sample.DRAWS", 200)
    result = ArchitectureSearch("tiny", trials=9, constraints=["width=8", "depth=1"], pruning=False).search()
    assert len(result.trials) == 2


@pytest.mark.slow
def test_a_registered_model_is_searched_and_the_best_can_be_loaded(tmp_path):
    vary = ["num_experts=2,4", "expert_k=1,2"]
    options = {"assignments": ["img_size=8", "backbone_args.depth=1", "backbone_args.embed_dim=16"], "epochs": 1}
    result = ArchitectureSearch("entity_moe/digits", vary=vary, trials=3, workers=2, out=tmp_path, **options).search()
    assert len(result.trials) == 3
    model = create_model(f"local-dir:{tmp_path / 'best'}", pretrained=True)
    assert model.moezoo_config.num_experts == result.best[0].values["num_experts"]
    assert "--set num_experts=" in result.best[0].command
