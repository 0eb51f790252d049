"""The benchmarks for a GPU, run on a CPU: what they store and show, and that they stop in time."""

import json

import pytest
import torch
from benchmark_scripts import SCRIPTS, run_script, script
from rich.console import Console

AUTOCAST = "fp32, autocast to bf16"


@pytest.fixture
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))


@pytest.fixture
def uncompiled(monkeypatch):
    """``torch.compile`` takes longer than everything else here, and is tested elsewhere."""
    monkeypatch.setattr(torch, "compile", lambda module, **_: module)
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **_: None)


def rows_of(markdown):
    head, _, *lines = markdown.partition("\n\n")[0].splitlines()
    titles, *rows = ([cell.strip() for cell in line.strip("|").split(" | ")] for line in (head, *lines))
    return [dict(zip(titles, row, strict=True)) for row in rows]


@pytest.mark.usefixtures("uncompiled")
def test_a_layer_is_measured_in_every_way_and_shown_over_its_dense_floor(tmp_path):
    options = ("--device", "cpu", "--works", "tiny3_e4k2", "--more", "", "--rounds", 2)
    printed = run_script("moe_gpu", *options, "--out", tmp_path, PEERS=["naive_mask"])
    data = json.loads((tmp_path / "moe_gpu.json").read_text())
    ways = [(cell["workload"]["name"], cell["dtype"], cell["mode"]) for cell in data["cells"]]
    assert len(ways) == len(set(ways)) == 6
    assert {cell["workload"]["tokens"] for cell in data["cells"]} == {36}
    assert data["command"] == "python benchmarks/moe_gpu.py --device cpu --works tiny3_e4k2 --more '' --rounds 2"
    for row in rows_of(printed):
        assert " x (" in row["moezoo"]
        assert "another function" not in "".join(row.values())
        usual = (row["types"], row["mode"]) in {("bf16", "infer"), (AUTOCAST, "train")}
        assert (" x" in row["compiled: moezoo"]) == usual
    autocast = next(cell for cell in data["cells"] if cell["dtype"] == "autocast" and cell["mode"] == "train")
    # The products are made in bfloat16, the routing is not: one token elsewhere would be an error near 1.
    assert 1e-4 < autocast["rows"]["moezoo auto"]["error"] < 3e-2
    assert autocast["rows"]["moezoo auto"]["dropped"] == 0


@pytest.mark.usefixtures("uncompiled")
def test_models_stand_beside_their_twins_and_what_fails_does_not_end_the_run(tmp_path):
    small = {"model_name": "test_vit", "img_size": 32, "top_k": 1}
    with script("models_gpu") as module:
        case = module.Case
    cases = (
        case("vmoe/vit_tiny.last2", small, ("vmoe/vit_tiny.dense", tuple(small.items()))),
        case("vmoe/vit_tiny.nonsense"),
        case("vmoe/vit_tiny.last2", small, compiled=True),
        case("diff_moe/digits", batch=3),
    )
    options = ("--device", "cpu", "--batch", 2, "--rounds", 1, "--out", tmp_path)
    image, failed, text = rows_of(run_script("models_gpu", *options, CASES=cases))
    assert (image["images"], text["images"]) == ("2", "3")
    for row in (image, text):
        assert [row["inference, images/s"].isdigit(), row["training, images/s"].isdigit()] == [True, True]
        assert float(row["executed FLOPs over the twin's"].removesuffix(" x")) == pytest.approx(1, abs=0.2)
    assert [" x (" in row["compiled: training"] for row in (image, text)] == [True, False]
    assert "nonsense" in failed["inference, images/s"]
    stored = json.loads((tmp_path / "models_gpu.json").read_text())
    assert stored["command"] == "python benchmarks/models_gpu.py --device cpu --batch 2 --rounds 1"
    assert stored["rows"][0]["parameters"][0]["total"] > stored["rows"][0]["parameters"][1]["total"]


@pytest.mark.usefixtures("scripts")
def test_the_budget_ends_a_run_between_two_measurements(monkeypatch):
    import budgeted

    clock = iter([0.0, 50.0, 90.0, 101.0])
    monkeypatch.setattr(budgeted.time, "monotonic", lambda: next(clock))
    console = Console(record=True, width=100)
    assert list(budgeted.within(100.0, ["a", "b", "c", "d"], console)) == ["a", "b"]
    assert "2 are left out" in console.export_text()


@pytest.mark.usefixtures("scripts")
def test_the_important_cells_come_first_and_each_once():
    from moe_gpu import FIRST, MORE, ordered
    from moe_workloads import parse_workload

    cells = ordered(FIRST.split(","), MORE.split(","))
    keys = [(cell.work, cell.dtype, cell.mode) for cell in cells]
    assert len(keys) == len(set(keys))
    assert {work for work, *_ in keys[:12]} == set(FIRST.split(","))
    assert sum(cell.compiled for cell in cells) == 4
    assert {parse_workload(cell.work).images for cell in cells} == {256, 64, 8, 1}


@pytest.mark.usefixtures("scripts")
def test_a_token_between_two_experts_is_not_judged():
    from moe_workloads import Problem, parse_workload

    problem = Problem(parse_workload("tiny_e4k1"), "float32")
    assert problem.decided.all()
    out_TD = problem.truth[0].clone()
    out_TD[3] = 7.0
    assert problem.relative_error(out_TD) > 0.1
    assert problem.dropped_share(out_TD * 0) == 1

    tied = Problem(parse_workload("tiny_e4k1"), "float32")
    tied.x[3, 1:] = 0.0  # every logit of this token is 0
    out_TD = tied.truth[0].clone()
    out_TD[3] = 7.0
    assert tied.decided.tolist() == [token != 3 for token in range(24)]
    assert tied.relative_error(out_TD) < 1e-12


@pytest.mark.usefixtures("scripts")
def test_autocast_leaves_the_peers_routes_alone():
    from moe_workloads import Problem, parse_workload, route

    problem = Problem(parse_workload("small_e8k2"), "autocast")
    plain = route(problem.x, problem.router, 2)
    with problem.precision():
        assert torch.is_autocast_enabled("cpu")
        for got, wanted in zip(route(problem.x, problem.router, 2), plain, strict=True):
            assert torch.equal(got, wanted)
