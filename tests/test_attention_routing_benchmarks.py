"""The scripts that measure attention routing: what they train and time, what they keep, and what their tables say."""

import copy
import io
import json
import math
from pathlib import Path
from statistics import mean

import pytest
import torch
from rich.console import Console

import moezoo

ROOT = Path(__file__).parent.parent
TINY = (
    *("data.train_images=32", "data.val_images=12", "data.test_images=12", "training.epochs=1"),
    *("training.warmup_epochs=0", "model.big_hidden_dim=32", "model.small_hidden_dim=2", "model.encoder_channels=8"),
)


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def test_variants_are_trained_alike_kept_and_read_back(tmp_path):
    from attention_routing import BUDGETS, FULL, ROUTED, compared, dialled, figures, front, one, recipe_of

    wanted = (ROUTED, FULL, "dense twin")
    for variant in wanted:
        assert figures(tmp_path, "cluttered_digits", variant, 0, TINY) is None
        assert "MFLOPs an image" in one("cluttered_digits", variant, 0, TINY, tmp_path)
        assert one("cluttered_digits", variant, 0, TINY, tmp_path).endswith("was done")
    plain, full = (recipe_of("cluttered_digits", variant, 0, TINY) for variant in (ROUTED, FULL))
    assert (plain.training, plain.data_options) == (full.training, full.data_options)
    with pytest.raises(SystemExit, match="remove it, or take another --folder"):
        figures(tmp_path, "cluttered_digits", ROUTED, 0, (*TINY, "training.lr=1"))

    found = {v: [figures(tmp_path, "cluttered_digits", v, 0, TINY)] for v in wanted}
    (routed,), (all_big,), (dense,) = found.values()
    assert routed["without_encoder"]["p50"] < routed["flops"]["p50"]
    assert all_big["ratio"] == {"mean": 1.0, "sd": 0.0}
    assert dense["ratio"] is None
    assert dense["flops"]["p50"] < routed["dial"][-1]["flops"]
    dial = routed["dial"]
    assert [point["budget"] for point in dial] == list(BUDGETS)
    cells = moezoo.model_config("attention_routing/cluttered_digits").num_cells
    assert [point["ratio"] for point in dial] == pytest.approx([math.ceil(b * cells) / cells for b in BUDGETS])
    assert [point["flops"] for point in dial] == sorted({point["flops"] for point in dial})
    assert dial[-1]["flops"] >= all_big["flops"]["p50"]
    drawn = front(found).data
    assert [each.setting for each in drawn["curves"]["attention, by its dial"]] == list(BUDGETS)
    assert drawn["points"]["dense twin"][0].accuracy == dense["accuracy"]
    for data in (compared(found), dialled(found[ROUTED])):
        assert json.loads(json.dumps(data, allow_nan=False)) == data


def run(accuracy, mean, flops, lift=None):
    return {
        "accuracy": accuracy,
        "ratio": None if mean is None else {"mean": mean, "sd": 0.02},
        "flops": {"mean": flops, "p50": flops, "p95": 1.5 * flops},
        "without_encoder": {"mean": flops, "p50": 0.9 * flops, "p95": 1.4 * flops},
        "box": None if lift is None else {"lift": lift},
        "test_images": 500,
        "recipe": "",
    }


def test_figures_of_the_seeds_become_tables():
    import cards
    from attention_routing import compared, dialled

    found = {
        "attention": [run(0.95, 0.10, 4e6, 5.0), run(0.93, 0.14, 6e6, 6.0)],
        "full compute": [run(0.94, 1.0, 2e7, 1.0), run(0.95, 1.0, 2e7, 1.0)],
        "dense twin": [run(0.90, None, 5e6), run(0.90, None, 5e6)],
    }
    data = {"data": "cluttered digits", "seeds": [0, 1], **compared(found)}
    head, _, routed, full, dense, *_ = cards.routed_table(data).splitlines()
    assert head.startswith("| cluttered digits, 500 test images, 2 seeds | accuracy | over full, points |")
    assert routed == (
        "| attention | 94.00% ± 1.41% | -0.50 | 12.0% ± 2.0% | 5.0 M / 7.5 M | 25% | 4.5 M / 7.0 M | 5.5 x |"
    )
    assert full.startswith("| full compute | 94.50% ± 0.71% | - | 100.0% ± 2.0% | 20.0 M / 30.0 M | 100% |")
    assert dense.endswith("| -4.50 | - | 5.0 M / 7.5 M | 25% | 4.5 M / 7.0 M | - |")
    for each in found["attention"]:
        each["dial"] = [{"budget": 0.0, "accuracy": 0.5, "ratio": 0.0, "flops": 1e6}]
    dial = {"data": "digits", "seeds": [0, 1], **dialled(found["attention"])}
    *_, trained, least = cards.dial_table(dial).splitlines()
    assert trained == "| as trained | 12.0% | 94.00% ± 1.41% | 5.0 M |"
    assert least == "| budget 0 | 0.0% | 50.00% ± 0.00% | 1.0 M |"


def test_the_clock_runs_on_equal_outputs_and_tells_time_beside_flops():
    import cards
    from attention_routing_clock import FULL, RATIOS, check_equal, clocked, with_weights_of

    name = "attention_routing/digits"
    found = clocked(name, 4, 2, 0, Console(file=io.StringIO()))
    assert found["flops"] == sorted(found["flops"])
    assert found["flops"][0] < 0.5
    for what in ("inference", "step"):
        assert len(found[what]["over_full"]) == len(RATIOS)
        assert set(found[what]["samples"]) == {FULL, *map(str, RATIOS)}
        assert min(found[what]["over_full"]) > 0
    table = cards.clock_table(found).splitlines()
    assert table[2].startswith(f"| 10% of the cells | {found['flops'][0]:.2f} x |")
    assert table[-1].startswith("| full compute | 1.0 M |")

    routed = moezoo.create_model(name)
    full = with_weights_of(routed, moezoo.create_model(f"{name}.full_compute"))
    images = torch.randn(3, 1, 16, 16)
    check_equal(routed, full, images)
    other = copy.deepcopy(full)
    with torch.no_grad():
        other.plain.big.layers[0].weight += 0.01
    with pytest.raises(AssertionError, match="not equal"):
        check_equal(routed, other, images)


def test_sizes_stand_at_both_ends_of_the_dial_and_at_the_target():
    import cards
    import sizes

    row = sizes.measure("attention_routing/digits")
    assert row["flops_at_0"] < row["flops"] < row["flops_at_1"]
    assert row["plain_flops"] < row["flops_at_1"]  # nobody reads the encoder there
    head, _, line = cards.sizes_table({"rows": [row]}).splitlines()
    assert "| FLOPs per image, budget 0 | at the target | budget 1 |" in head
    assert f"({row['target']:.0%})" in line
    assert "| `patch_grid_size` | 4 | cells along each side" in cards.config_table("attention_routing")


def stored(name):
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text(encoding="utf-8"))


def test_what_is_claimed_of_cluttered_digits_was_measured():
    data = stored("attention_routing_cluttered_digits")
    routed, random = (data["variants"][name] for name in ("attention", "random routing"))
    assert len(data["seeds"]) >= 3
    assert mean(routed["over_full"]) >= -0.005
    assert mean(each["p50"] for each in routed["flops"]) <= 0.5 * data["full_flops"]  # with the encoder
    assert mean(each["lift"] for each in routed["box"]) >= 3
    assert mean(random["over_attention"]) <= -0.05
    assert mean(each["mean"] for each in random["ratio"]) >= mean(each["mean"] for each in routed["ratio"])
    points = stored("attention_routing_cluttered_digits_dial")["points"]
    accuracies = [mean(point["accuracy"]) for point in points]
    assert len(points) >= 10
    assert all(later >= max(accuracies[: i + 1]) - 0.005 for i, later in enumerate(accuracies[1:]))


@pytest.mark.parametrize(("arch", "at_quarter", "apart"), [("cluttered_digits", 0.45, 0.15), ("cifar10", 0.6, 0.25)])
def test_what_is_claimed_of_the_clock_was_measured(arch, at_quarter, apart):
    data = stored(f"attention_routing_clock_{arch}")
    quarter = data["ratios"].index(0.25)
    assert data["inference"]["over_full"][quarter] <= at_quarter
    assert data["step"]["over_full"][quarter] <= at_quarter
    for flops, time in zip(data["flops"], data["inference"]["over_full"], strict=True):
        assert abs(time - flops) <= apart


@pytest.mark.slow
def test_cluttered_digits_are_found_by_the_packaged_recipe(tmp_path):
    from attention_routing import ROUTED, figures, one

    settings = ("data.test_images=1000",)
    one("cluttered_digits", ROUTED, 5, settings, tmp_path)
    found = figures(tmp_path, "cluttered_digits", ROUTED, 5, settings)
    assert found["accuracy"] > 0.93
    assert found["ratio"]["mean"] < 0.15
    assert found["box"]["lift"] > 3
