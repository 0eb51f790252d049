"""The benchmarks of one MoE layer and of a whole ViT: what they print, what they keep, and what their figures mean."""

import json
import sys

import pytest
import torch
from benchmark_scripts import SCRIPTS, run_script


@pytest.fixture
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))


def lines_of(markdown):
    """The cells of every table line by their first cell."""
    rows = [[cell.strip() for cell in line.strip("| \n").split(" | ")] for line in markdown.splitlines()]
    return {cells[0]: cells for cells in rows if len(cells) > 1}


def test_a_run_prints_ratios_names_what_is_absent_and_can_be_rebuilt_from_its_rounds(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "mixture_of_experts", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mixture_of_experts.py").write_text("raise ImportError('no', name='mixture_of_experts')")
    kept = tmp_path / "run.json"
    peers = "naive_mask,transformers_grouped,lucid_moe,all_experts"
    options = ("--workloads", "tiny_e4k2,tiny_e4k1_skew", "--dtypes", "float32", "--rounds", 2, "--peers", peers)
    printed = run_script("moe_layer", *options, "--json", kept, "--markdown", tmp_path / "run.md")

    assert printed == (tmp_path / "run.md").read_text()
    rows = lines_of(printed)
    assert rows["lucid_moe"][1] == "absent (mixture_of_experts is not installed)"
    for name in ("moezoo auto", "naive_mask", "transformers_grouped", "all_experts"):
        median, interval = rows[name][1].split(" ")
        low, high = interval.strip("()").split("-")
        assert 0 < float(low) <= float(median) <= float(high)
        assert rows[name][3:6:2] == ["the same", "none"]
    assert "tiny_e4k1_skew, float32, training" in printed

    data = json.loads(kept.read_text())
    assert [(c["workload"]["name"], c["mode"]) for c in data["cells"]] == [
        (name, mode) for name in ("tiny_e4k2", "tiny_e4k1_skew") for mode in ("infer", "train")
    ]
    for cell in data["cells"]:
        assert {"eager floor", "moezoo auto", "naive_mask"} <= set(cell["samples"])
        assert all(len(rounds) == 2 and min(rounds) > 0 for rounds in cell["samples"].values())
        assert ("packed floor" in cell["samples"] or "packed floor" in cell["absent"]) == (cell["mode"] == "infer")
    training = data["cells"][1]["rows"]
    assert all(row["saved_bytes"] > 0 for row in training.values())
    assert training["all_experts"]["saved_bytes"] > training["naive_mask"]["saved_bytes"]
    assert run_script("moe_layer", "--rebuild", kept) == printed


def test_the_profile_splits_the_time_into_pieces():
    printed = run_script("moe_layer", "--workloads", "tiny_e4k2", "--dtypes", "float32", "--profile", "--rounds", 2)
    for mode in ("infer", "train"):
        pieces = lines_of(printed.partition(f"tiny_e4k2, float32, {mode}, path auto")[2])
        assert all(float(pieces[piece][1]) > 0 for piece in ("routing", "products", "gather and combine"))
        # In inference it may be part of the product.
        assert mode == "infer" or float(pieces["activation"][1]) > 0


def test_the_vit_is_compared_with_a_twin_of_the_same_flops(tmp_path):
    options = ("--model", "test_vit", "--batches", "1,2", "--dtypes", "float32", "--rounds", 2, "--top-k", "2")
    printed = run_script("moe_vit", *options, "--json", tmp_path / "vit.json")
    data = json.loads((tmp_path / "vit.json").read_text())
    assert [(c["mode"], c["batch"]) for c in data["cases"]] == [("infer", 1), ("infer", 2), ("train", 2)]
    for case in data["cases"]:
        assert {"dense", "moe"} <= set(case["samples"])
        assert 1.0 < case["moe_flops"] / case["dense_flops"] < 1.05  # the routers are on top
    assert "| 2 | float32 | train | 2 | plain |" in printed


@pytest.mark.usefixtures("scripts")
@pytest.mark.parametrize(
    ("option", "allowed"), [("workloads", "vits, vitb"), ("paths", "auto"), ("peers", "naive_mask"), ("modes", "train")]
)
def test_an_unknown_name_is_refused_with_what_is_allowed(option, allowed):
    import typer
    from moe_layer import main

    with pytest.raises(typer.BadParameter, match=allowed):
        main(**{option: "nonsense"})


@pytest.mark.usefixtures("scripts")
def test_the_interval_of_a_median_is_the_bootstraps():
    from moe_timing import bootstrap_median, paired

    # Of two values a resample holds the low one, both, or the high one: 1/4, 1/2, 1/4.
    two = bootstrap_median([1.0, 3.0])
    assert (two.median, two.low, two.high, two.rounds) == (2.0, 1.0, 3.0, 2)
    same = bootstrap_median([1.5] * 7)
    assert (same.median, same.low, same.high) == (1.5, 1.5, 1.5)
    # Of n values in a row: n / 2 plus or minus 1.645 sqrt(n) / 2 by the normal approximation.
    many = bootstrap_median([float(i) for i in range(101)])
    assert many.median == 50
    assert many.low == pytest.approx(50 - 8.3, abs=1.5)
    assert many.high == pytest.approx(50 + 8.3, abs=1.5)
    # Ratios are of the same round, and rounds that one of them sat out do not count.
    assert paired([2.0, None, 30.0], [1.0, 5.0, 10.0]).median == 2.5


@pytest.mark.usefixtures("scripts")
@pytest.mark.parametrize("name", ["tiny_e4k2", "tiny_e4k1_skew", "tiny_e8k2_skew"])
def test_the_plain_peers_compute_what_our_layer_computes(name):
    from moe_layer import _ours
    from moe_peers import PEERS
    from moe_workloads import Problem, parse_workload

    problem = Problem(parse_workload(name), torch.float32)

    def results(module):
        x = problem.x.clone().requires_grad_()
        out = module(x)
        out.backward(problem.grad)
        return out, x.grad

    ours = results(_ours(problem, "auto"))
    assert problem.relative_error(ours[0]) < 1e-6
    for peer in ("naive_mask", "all_experts", "transformers_eager", "transformers_grouped", "transformers_batched"):
        for theirs, expected in zip(results(PEERS[peer](problem)), ours, strict=True):
            torch.testing.assert_close(theirs, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("scripts")
def test_drops_are_seen_whatever_the_weights():
    from moe_workloads import Problem, parse_workload

    problem = Problem(parse_workload("tiny_e4k2"), torch.float32)
    truth_TD, part_TKD = problem.truth
    assert problem.dropped_share(truth_TD) == 0
    assert problem.dropped_share(part_TKD[:, 0] * 0.3 + part_TKD[:, 1] * 2) == 0
    less_TKD = part_TKD.clone()
    less_TKD[:6, 1] = 0  # 6 of 48
    assert problem.dropped_share(less_TKD.sum(1)) == 0.125
    assert problem.relative_error(less_TKD.sum(1)) > 0.01


@pytest.mark.usefixtures("scripts")
def test_a_skewed_workload_has_the_load_it_is_asked_for():
    from moe_workloads import Problem, parse_workload

    even, skewed = (Problem(parse_workload(name), torch.float32) for name in ("small_e8k2", "small_e8k2_skew"))
    assert even.load < 1.6
    assert skewed.load == pytest.approx(3.5, abs=0.1)
    assert torch.equal(even.x, skewed.x)


@pytest.mark.usefixtures("scripts")
def test_a_limit_is_missed_when_the_whole_interval_is_above_it():
    from moe_tables import tables
    from moe_workloads import parse_workload

    def verdict(name, mode, ours, base="packed floor", dtype="float32"):
        work = vars(parse_workload(name)) | {"tokens": parse_workload(name).tokens, "load": 1.0}
        rows = {"eager floor": {"floor": True}, "moezoo auto": {"floor": False, "error": 0.0, "dropped": 0.0}}
        samples = {"eager floor": [1.0] * 5, "moezoo auto": ours}
        if base == "packed floor":
            rows["packed floor"], samples["packed floor"] = {"floor": True}, [1.0] * 5
        cell = {"workload": work, "dtype": dtype, "mode": mode, "samples": samples, "rows": rows, "absent": {}}
        place = {"processor": "", "cores": 1, "threads": 1, "torch": "", "device": "cpu"}
        data = {"cells": [cell], "machine": place, "allocator": {}, "moezoo": "", "command": ""}
        return tables(data).partition("## Limits")[2].splitlines()[4].split(" | ")

    assert verdict("vits_e8k2", "infer", [1.13] * 5)[4:] == ["1.12 x packed floor", "1.13 (1.13-1.13)", "MISSED |"]
    assert verdict("vits_e8k2", "infer", [1.1, 1.2, 1.3, 1.2, 1.1])[-1] == "met within the interval |"
    assert verdict("small_e8k1", "infer", [1.44] * 5)[-1] == "met |"
    assert verdict("vits_e64k2", "infer", [1.41] * 5)[-1] == "MISSED |"
    assert verdict("vits_e8k2", "train", [1.15] * 5, "eager floor")[-1] == "MISSED |"
    assert verdict("vits_e8k2", "train", [1.15] * 5, "eager floor", "bfloat16")[-1] == "met |"
    assert verdict("vits_e8k2", "infer", [1.0] * 5, "none")[-1] == "not run |"
