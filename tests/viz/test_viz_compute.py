"""Accuracy against compute, ablations, and how much was spent over the epochs: the very numbers."""

import json
from types import SimpleNamespace

import pytest
from matplotlib.colors import to_rgb

from moezoo.errors import InputError
from moezoo.train import EpochMetrics
from moezoo.viz import (
    FrontPoint,
    ablation_figure,
    front_figure,
    history_figures,
    read_history,
    save_figure,
    training_figure,
)
from moezoo.viz.front import readable
from moezoo.viz.style import ALERT


def test_seeds_of_a_setting_are_one_point_of_the_curve_with_a_band(tmp_path):
    points = [
        FrontPoint(4e6, 0.9, 0.5),
        FrontPoint(1e6, 0.6, 0.1),
        FrontPoint(2e6, 0.7, 0.1),
        FrontPoint(4e6, 0.96, 0.5),
    ]
    told = SimpleNamespace(flops=9e6, accuracy=0.97, setting=1.0)  # whatever has these three
    figure = front_figure(
        {"routed": [*points, told]},
        {"full compute": [FrontPoint(1e7, 0.98), FrontPoint(1e7, 0.96)], "cheap": [FrontPoint(5e5, 0.5)]},
        reference="full compute",
    )
    curve = figure.data["curves"]["routed"]
    assert [(each.setting, each.flops, each.seeds) for each in curve] == [(0.1, 1.5e6, 2), (0.5, 4e6, 2), (1.0, 9e6, 1)]
    assert [each.accuracy for each in curve] == pytest.approx([0.65, 0.93, 0.97])
    assert [(each.lowest, each.highest) for each in curve][:2] == [(0.6, 0.7), (0.9, 0.96)]
    (single,) = figure.data["points"]["full compute"]
    assert (single.accuracy, single.seeds) == (pytest.approx(0.97), 2)
    assert figure.data["reference"] == pytest.approx(0.97)
    (ax,) = figure.axes
    assert ax.get_xscale() == "log"
    assert [text.get_text() for text in ax.texts] == ["0.1", "0.5", "1"]
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["routed, 2 seeds", "full compute, 2 seeds\n97.0% at 10 M", "cheap\n50.0% at 500 k"]
    assert save_figure(figure, tmp_path / "front.png", dpi=30).stat().st_size > 1000
    plain = front_figure({"a": [FrontPoint(2e6, 0.6), FrontPoint(1e6, 0.5)]}, log=False)
    assert plain.axes[0].get_xscale() == "linear"
    assert [each.flops for each in plain.data["curves"]["a"]] == [1e6, 2e6]  # without a setting no seeds of each other


def test_a_front_of_nothing_or_of_what_cannot_be_drawn_is_an_error():
    with pytest.raises(InputError, match="at least one curve"):
        front_figure({})
    for points in ([], [FrontPoint(0.0, 0.5)], [FrontPoint(1e6, float("nan"))]):
        with pytest.raises(InputError, match="'a'"):
            front_figure({"a": points})
        with pytest.raises(InputError, match="'a'"):
            front_figure({}, {"a": points})
    with pytest.raises(InputError, match="reference='full' is none of 'a'"):
        front_figure({"a": [FrontPoint(1e6, 0.5)]}, reference="full")
    assert [readable(value) for value in (0, 12.0, 1234.0, 5e6, 7.5e9, 2e12)] == [
        "0",
        "12",
        "1.23 k",
        "5 M",
        "7.5 G",
        "2 T",
    ]


def test_an_ablation_has_a_column_per_factor_and_circles_the_base(tmp_path):
    rows = [
        {"factor": "threshold", "value": 0.9, "accuracy": 0.7, "flops_per_image": 1e6, "routing_ratio": 0.1},
        {"factor": "threshold", "value": "0.1", "accuracy": 0.9, "flops_per_image": 9e6, "routing_ratio": 0.8},
        {"factor": "patch_grid_size", "value": "4x8", "accuracy": 0.8, "flops_per_image": 2e6, "other": "x"},
        {"factor": "patch_grid_size", "value": 8, "accuracy": 0.9, "flops_per_image": 3e6},
        {"factor": "patch_grid_size", "value": 8, "accuracy": 0.8, "flops_per_image": 5e6},
        {"factor": "variant", "value": "no_routing", "accuracy": 0.9, "flops_per_image": None},
    ]
    figure = ablation_figure(rows, base={"threshold": 0.1, "patch_grid_size": 4})
    assert figure.data["threshold"] == {
        "values": [0.1, 0.9], "seeds": [[0.9], [0.7]], "accuracy": [0.9, 0.7], "base": 0, "flops_per_image": [9e6, 1e6],
    }  # fmt: skip
    grid = figure.data["patch_grid_size"]
    assert (grid["values"], grid["seeds"], grid["base"]) == (["4x8", 8.0], [[0.8], [0.9, 0.8]], None)
    assert grid["flops_per_image"] == [2e6, 4e6]
    accuracy = figure.axes[:3]
    assert [ax.get_title(loc="left") for ax in accuracy] == ["threshold", "patch grid size", "variant"]
    assert len({ax.get_ylim() for ax in accuracy}) == 1  # comparable
    rings = [[line for line in ax.lines if line.get_markeredgecolor() == ALERT] for ax in accuracy]
    assert [len(each) for each in rings] == [1, 0, 0]
    assert (rings[0][0].get_xdata()[0], rings[0][0].get_ydata()[0]) == (0.1, 0.9)
    assert [label.get_text() for label in figure.axes[4].get_xticklabels()] == ["4x8", "8"]
    assert save_figure(figure, tmp_path / "ablation.png", dpi=30).stat().st_size > 1000
    shares = [{**row, "flops_per_image": None} for row in rows]
    assert ablation_figure(shares).data["threshold"]["routing_ratio"] == [0.8, 0.1]
    bare = ablation_figure([{"factor": f"f{i}", "value": i, "accuracy": 0.5} for i in range(5)])
    assert [ax.get_visible() for ax in bare.axes] == [True] * 5 + [False]
    with pytest.raises(InputError, match="at least one row"):
        ablation_figure([])
    with pytest.raises(InputError, match="must have accuracy"):
        ablation_figure([{"factor": "a", "value": 1, "accuracy": None}])


def test_curves_show_the_share_routed_and_the_flops_where_epochs_tell_of_them(tmp_path):
    def epoch(number, **uses):
        return EpochMetrics(number, 1e-3, 1.0 / number, 0.0, 1.0, 0.5, 0.5, 1.0, (), **uses)

    routed = [
        epoch(i, routing_ratio=1 / i, flops_per_image=4e6 / i, val_routing_ratio=0.9 / i, val_flops_per_image=3e6 / i)
        for i in (1, 2)
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(each.to_dict()) + "\n" for each in routed))
    figure = history_figures("routed", read_history(tmp_path), tmp_path)["training"]
    data = figure.data["routed"]
    assert data["routing_ratio"] == [1.0, 0.5]
    assert data["val_flops_per_image"] == [3e6, 1.5e6]
    _, _, ratio, flops = figure.axes
    assert [list(line.get_ydata()) for line in ratio.lines] == [[1.0, 0.5], [0.9, 0.45]]
    labels = [text.get_text() for text in flops.get_legend().get_texts()]
    assert labels == ["routed: 2 M", "routed, validation: 1.5 M"]
    both = training_figure({"routed": routed, "dense": [epoch(1)]})
    assert "routing_ratio" not in both.data["dense"]
    assert to_rgb(both.axes[2].lines[0].get_color()) == to_rgb(both.axes[0].lines[0].get_color())
    assert save_figure(both, tmp_path / "training.png", dpi=30).stat().st_size > 1000
