"""The distribution of a space's errors, and the trainings behind it, none of which is done twice."""

import csv
import json

import numpy as np
import pytest
import search_toys
from hypothesis import given
from hypothesis import strategies as st

from moezoo.errors import CheckpointError, ConfigError, InputError, OutputError
from moezoo.search import compare_spaces, error_edf, sample_space
from moezoo.search import trial as search_trial
from moezoo.viz import edf_figure

search_toys.add()
ERRORS = st.lists(st.integers(0, 20).map(lambda n: n / 20), min_size=1, max_size=40)


@given(ERRORS, st.integers(-1, 21).map(lambda n: n / 20))
def test_the_edf_is_the_share_of_errors_below(errors, e):
    edf = error_edf(errors)
    assert edf(e) == sum(each < e for each in errors) / len(errors)
    assert (edf.min, edf.mean) == (min(errors), pytest.approx(np.mean(errors)))
    assert sum(each <= edf.quantile(0.5) for each in errors) * 2 >= len(errors)


@pytest.mark.parametrize("errors", [[], [0.1, float("nan")], [float("inf")]])
def test_errors_that_are_none_are_refused(errors):
    with pytest.raises(InputError, match="finite"):
        error_edf(errors)


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """Two designs of the tiny space, and one of another."""
    out = tmp_path_factory.mktemp("edf")
    search_toys.Untouchable.looked_at = 0
    report = compare_spaces([search_toys.SPACE, "tiny_too"], out, samples=2, epochs=2, data=search_toys.DATA)
    return report, out, search_toys.Untouchable.looked_at


def test_every_design_is_trained_and_in_the_table(compared):
    report, out, looked = compared
    assert looked == 0, "designs are compared by the validation images"
    assert [each.values for each in report.spaces["tiny"]] == [d.values for d in sample_space("tiny", 2)]
    with (out / "edf.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    stored = json.loads((out / "edf.json").read_text())["spaces"]
    assert [row["space"] for row in rows] == ["tiny", "tiny", "tiny_too", "tiny_too"]
    for row, each in zip(rows, [*report.spaces["tiny"], *report.spaces["tiny_too"]], strict=True):
        assert float(row["error"]) == each.error == 1 - each.score
        assert int(row["flops"]) == each.flops > 0
        assert each.epochs == 2
        assert all(row[key] for key in each.values)
    for name, edf in ((name, report.edf(name)) for name in report.spaces):
        assert (stored[name]["min_error"], stored[name]["mean_error"]) == (edf.min, edf.mean)
    picture = edf_figure(report.errors())
    assert picture.data["tiny"]["min"] == report.edf("tiny").min


def test_more_samples_train_only_the_new_ones(compared, monkeypatch):
    report, out, _ = compared
    trained = []
    fit = search_trial.fit
    monkeypatch.setattr(search_trial, "fit", lambda *args, **kw: trained.append(kw["out"].name) or fit(*args, **kw))
    options = {"epochs": 2, "data": search_toys.DATA}
    again = compare_spaces(["tiny", "tiny_too"], out, samples=2, **options)
    assert again.spaces == report.spaces
    assert trained == []
    more = compare_spaces(["tiny", "tiny_too"], out, samples=3, **options)
    assert len(trained) == 2
    assert {name: found[:2] for name, found in more.spaces.items()} == report.spaces
    broken = next(out.glob("designs/*/design.json"))
    text = broken.read_text()
    broken.write_text("{")
    with pytest.raises(OutputError, match="trained again"):
        compare_spaces(["tiny", "tiny_too"], out, samples=3, **options)
    broken.write_text(text)


def test_another_search_in_the_folder_and_bad_arguments_are_refused(compared, tmp_path):
    out = compared[1]
    with pytest.raises(CheckpointError, match=r"holds another search: seed: 0 there, 1 now"):
        compare_spaces(["tiny", "tiny_too"], out, samples=2, epochs=2, data=search_toys.DATA, seed=1)
    for options, message in (
        ({"jobs": 0}, "jobs=0 is not allowed"),
        ({"jobs": 1.5}, "jobs=1.5 is not allowed"),
        ({"samples": 0}, "samples=0"),
        ({"epochs": 0}, "epochs=0"),
        ({"assignments": ["training.epoch=2"]}, "unknown field 'epoch'"),
        ({"flops_window": (1, 2)}, "flops_window"),
        ({"spaces": ["tinny"]}, "Did you mean: tiny"),
        ({"spaces": ["tiny", "tiny"]}, "each once"),
    ):
        with pytest.raises(ConfigError, match=message):
            compare_spaces(**{"spaces": ["tiny"], "out": tmp_path / "new", "samples": 1, **options})
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_several_processes_find_what_one_finds(tmp_path):
    options = {"samples": 3, "epochs": 1, "assignments": ["training.device=cpu"]}
    alone = compare_spaces("regnetx.small", tmp_path / "alone", **options)
    together = compare_spaces("regnetx.small", tmp_path / "together", jobs=2, **options)
    assert alone.errors() == together.errors()
