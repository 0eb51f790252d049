"""What each image cost, where the big expert was spent, and one model at many budgets."""

import dataclasses
import io
import re

import pytest
import torch
from rich.console import Console
from routing_toys import BIG, COLUMNS, ROWS, SMALL, Bright, routing_toy
from torch.utils.data import Subset

import moezoo
from moezoo.errors import ConfigError
from moezoo.eval import budget_latency, compare_models, evaluate, evaluate_front
from moezoo.eval.boxes import BoxCounter, cell_overlap
from moezoo.eval.compute import compute_use, short_number
from moezoo.eval.routing import short_name
from moezoo.eval.tables_budget import budget_table, comparison_table, front_table
from moezoo.measure import flops
from moezoo.measure.image_cost import image_cost
from moezoo.parts import metrics as registered

TOKENS = ROWS * COLUMNS
BIG_FLOPS, SMALL_FLOPS = (2 * (4 * h + h * 6) for h in (BIG, SMALL))


@pytest.fixture(scope="module")
def data():
    return Bright(30)


def bright_model():
    """Scores are high where the image is bright."""
    model = routing_toy()
    with torch.no_grad():
        model.encoder.weight.fill_(1.0)
        model.encoder.bias.zero_()
        model.attention.weight.fill_(1.0)
        model.attention.bias.fill_(-10.0)
    return model


def test_every_image_costs_what_its_own_routing_makes_it(data):
    model = routing_toy()
    images = data.images[:10]
    report = evaluate(model, Subset(data, range(10)), batch_size=7).budget
    one_by_one = [flops(model, image[None]) for image in images]
    assert [each.analytic for each in one_by_one] == [each.executed for each in one_by_one]
    one_by_one = torch.tensor([each.analytic for each in one_by_one], dtype=torch.float64)
    assert len(set(one_by_one.tolist())) > 3
    found = report.flops_per_image
    assert found.mean == pytest.approx(one_by_one.mean().item(), rel=1e-12)
    assert found.sd == pytest.approx(one_by_one.std(correction=0).item(), rel=1e-9)
    for name, share in (("p5", 0.05), ("p50", 0.5), ("p95", 0.95)):
        assert getattr(found, name) == pytest.approx(one_by_one.quantile(share).item(), rel=1e-12)
    chosen = (model.scores(images) >= 0.5).double().mean(1)
    assert (report.ratio.mean, report.ratio.p95) == pytest.approx((chosen.mean().item(), chosen.quantile(0.95).item()))
    head = 2 * 6 * TOKENS * 4
    choosing = 2 * TOKENS * (3 * 4 + 3)
    assert report.full_flops == head + choosing + TOKENS * BIG_FLOPS
    assert report.cheap_flops == head + choosing + TOKENS * SMALL_FLOPS
    assert report.without_encoder.p50 == found.p50 - choosing
    assert report.images == 10
    assert report.share_of_full == found.mean / report.full_flops


def test_the_load_of_a_layer_gives_the_same_flops_as_the_counter(data):
    model = bright_model()
    cost = image_cost(model, data.images[:1])
    report = evaluate(model, data)
    use = compute_use(cost, report.routing)
    assert use.flops_per_image == pytest.approx(flops(model, data.images).analytic / len(data), rel=1e-12)
    assert use.routing_ratio == pytest.approx(report.budget.ratio.mean)
    assert compute_use(cost, ()) is None


def test_a_big_expert_spent_on_the_object_beats_chance_by_as_much_as_the_object_is_small(data):
    model = bright_model()
    overlap = evaluate(model, data, batch_size=11).budget.box_overlap
    # One cell of 16 is chosen: the bright one.
    assert (overlap.images, overlap.inside, overlap.covered, overlap.iou) == pytest.approx((30, 1, 1, 1))
    assert overlap.chance == pytest.approx(1 / 16)
    assert overlap.lift == pytest.approx(16)
    assert overlap.iou_chance < 0.3
    moezoo.set_budget(model, 1.0)
    everywhere = evaluate(model, data).budget.box_overlap
    assert (everywhere.lift, everywhere.inside, everywhere.covered) == pytest.approx((1, 1 / 16, 1))
    moezoo.set_budget(model, 0.0)
    nowhere = evaluate(model, data)
    assert nowhere.budget.ratio.mean == nowhere.budget.box_overlap.covered == 0
    assert nowhere.to_dict()["budget"]["box_overlap"]["lift"] is None


def test_a_box_that_is_not_on_the_grid_is_shared_by_its_cells():
    shared = cell_overlap(torch.tensor([[0.25, 0.0, 0.75, 1.0]]), (1, 2))
    assert shared.tolist() == [[0.25, 0.25]]
    counter = BoxCounter(lambda index: (0.0, 0.0, 0.75, 1.0))
    counter.add(torch.tensor([[False, True]]), (1, 2), 0)
    found = counter.report()
    assert (found.inside, found.chance, found.covered) == pytest.approx((0.5, 0.75, 1 / 3))
    assert found.iou == pytest.approx(0.25 / 1.0)
    assert BoxCounter(lambda index: (0, 0, 1, 1)).report() is None


def test_one_model_at_many_budgets_and_its_dial_afterwards(data):
    model = bright_model()
    moezoo.set_threshold(model, 0.9)
    points = evaluate_front(model, data, (0.0, 0.25, 1.0, None), metrics=("macro_f1",))
    assert [point.setting for point in points] == [0.0, 0.25, 1.0, None]
    assert [point.ratio for point in points] == pytest.approx([0, 0.25, 1, 1 / 16])
    assert [p.flops for p in points[:3]] == sorted(p.flops for p in points[:3])
    assert points[2].flops == points[2].budget.full_flops
    assert all(set(point.metrics) == {"macro_f1"} for point in points)
    assert (model.moe.router.budget, model.moe.router.threshold_override) == (None, 0.9)
    with pytest.raises(ConfigError, match=r"budgets\[1\]=1.5"):
        evaluate_front(model, data, (0.5, 1.5))
    with pytest.raises(ConfigError, match="no router"):
        evaluate_front(torch.nn.Linear(2, 2), data, (0.5,))


def test_numbers_and_tables_fit_where_they_are_shown(data):
    names = ("blocks.0.mlp.token_routing.moe", "blocks.3.entity_moe.moe", "moe")
    assert [short_name(name) for name in names] == ["blocks.0.mlp", "blocks.3", "moe"]
    assert [short_number(n) for n in (0, 999.4, 999.6, 999_600, 1.5e12)] == ["0 ", "999 ", "1 k", "1 M", "1.5 T"]
    model = bright_model()
    (nothing,) = points = evaluate_front(model, data, (0.0,), metrics=None)
    found = compare_models({"attention_routing": model}, data, rounds=1, baseline="attention_routing")
    (only,) = found.models
    dear = dataclasses.replace(only.flops_per_image, p50=999.6e9, p95=1.234e12)
    slow = dataclasses.replace(only.latency, p50=1234.56)
    other = dataclasses.replace(only, title=".random_routing", flops_per_image=dear, latency=slow)
    found = dataclasses.replace(found, models=(only, other))
    console = Console(file=io.StringIO(), width=80)
    for table in (front_table(points), comparison_table(found, "compared"), budget_table(nothing.budget)):
        console.print(table)
    printed = console.file.getvalue()
    assert "…" not in printed
    assert "nan" not in printed  # of no chosen cell nothing is on the object
    assert "TFLOPs" in printed  # one unit for all
    assert re.search(r"0\.000 +0\.000 .*\n.*1\.000 +1\.23", printed)


def test_timing_leaves_the_dial_where_it_was(data):
    model = bright_model()
    moezoo.set_threshold(model, 0.9)
    timed = budget_latency(model, data.images[:5], rounds=2)
    assert (timed.batch, model.moe.router.budget, model.moe.router.threshold_override) == (5, None, 0.9)
    with pytest.raises(ConfigError, match="no router"):
        budget_latency(torch.nn.Linear(2, 2), data.images[:5])


def test_a_model_that_spends_the_same_on_every_token_has_no_budget(data):
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 4))
    report = evaluate(model, data)
    assert report.budget is None
    assert "budget" not in report.to_dict()
    model.routing_ratio = 1.0  # says so of itself: a baseline of a routed one
    constant = evaluate(model, data).budget
    assert (constant.ratio.mean, constant.flops_per_image.sd) == (1.0, 0.0)
    assert constant.flops_per_image.p95 == constant.full_flops == 2 * 64 * 4


def test_a_metric_of_ones_own_stands_beside_the_budget(data, monkeypatch):
    monkeypatch.setattr(registered, "_items", dict(registered._items))

    @moezoo.register_metric("confident_share")
    def confident_share(logits, labels):
        return (logits.softmax(-1).amax(-1) > 0.5).float().mean()

    report = evaluate(bright_model(), data, metrics=None)
    assert 0 <= report.metrics["confident_share"] <= 1
    assert report.to_dict()["metrics"]["confident_share"] == report.metrics["confident_share"]
    assert report.budget is not None
