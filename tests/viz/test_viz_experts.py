"""Experts against classes, and the balance of their load over layers and time."""

import json
import math

import numpy as np
import pytest
import torch

from moezoo.errors import InputError
from moezoo.eval.routing import layer_load
from moezoo.moe import Routing, RoutingRecord
from moezoo.train import EpochMetrics
from moezoo.viz import ClassShares, balance_figure, class_information, expert_classes_figure, save_figure


def record(experts, grid=(1, 2), call=0, name="blocks.0.moe"):
    logits = torch.zeros(len(experts), 3)
    logits[range(len(experts)), experts] = 9.0
    return RoutingRecord(name, call, Routing.from_logits(logits, 1, normalize=False), grid, 0)


def test_class_shares_are_means_over_the_images_of_a_class(tmp_path):
    counter = ClassShares(3)
    counter.add(
        [record([0, 0, 1, 2]), record([2, 2, 2, 2], call=1), record([0] * 4, grid=None, name="text")],
        torch.tensor([0, 1]),
    )
    counter.add([record([0, 1])], torch.tensor([0]))
    (share,) = counter.report().values()
    assert share[:2].tolist() == [[0.75, 0.25, 0.0], [0.0, 0.5, 0.5]]
    assert np.isnan(share[2]).all()
    figure = expert_classes_figure({"blocks.0.moe": share}, ["cat", "dog", "猫"])
    path = save_figure(figure, tmp_path / "classes.png", dpi=40)
    assert path.stat().st_size > 1000
    cells = {text.get_position(): text.get_text() for text in figure.axes[0].texts}
    assert cells == {(0, 0): "75%", (1, 0): "25%", (1, 1): "50%", (2, 1): "50%"}
    assert figure.data["information"]["blocks.0.moe"] == class_information(share) > 0
    with pytest.raises(InputError, match=r"must be \(2, experts\)"):
        expert_classes_figure({"a": share}, ["cat", "dog"])
    with pytest.raises(InputError, match="at least one MoE layer"):
        expert_classes_figure({}, ["cat"])


def test_information_is_none_without_specialisation_and_all_bits_with_an_expert_per_class():
    assert class_information(np.full((4, 5), 0.2)) == pytest.approx(0)
    assert class_information(np.eye(4)) == pytest.approx(math.log2(4))


def epoch(number, *counts):
    loads = tuple(layer_load(f"blocks.{i}.moe", 4, own, 0) for i, own in enumerate(counts))
    return EpochMetrics(number, 1e-3, 1.0, 0.0, 1.0, 0.5, 0.5, 1.0, loads)


def test_balance_shows_the_entropy_of_every_layer_at_every_epoch(tmp_path):
    figure = balance_figure([epoch(1, [4, 0], [2, 2]), epoch(2, [3, 1], [2, 2])])
    data = figure.data
    assert data["layers"] == ["blocks.0.moe", "blocks.1.moe"]
    assert data["times"] == [1, 2]
    quarter = -(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25))
    assert data["entropy"].tolist() == [[0.0, pytest.approx(quarter)], [1.0, 1.0]]
    assert data["max_violation"].tolist() == [[1.0, 0.5], [0.0, 0.0]]
    assert [bar.get_width() for bar in figure.axes[1].patches] == [1.5, 1.0]
    assert save_figure(figure, tmp_path / "balance.png", dpi=40).stat().st_size > 1000
    with pytest.raises(InputError, match="at least one epoch or step"):
        balance_figure([epoch(1)])


def test_balance_reads_the_steps_of_a_run_too(tmp_path):
    path = tmp_path / "steps.jsonl"
    layer = {"layer": "a.moe", "load_entropy": 0.5, "max_violation": 0.25}
    lines = [{"step": 1, "routing": [layer]}, {"step": 2, "routing": []}, {"step": 9, "routing": [layer]}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    data = balance_figure(path).data
    assert (data["times"], data["entropy"].tolist()) == ([1, 9], [[0.5, 0.5]])
    with pytest.raises(InputError, match="absent"):
        balance_figure(tmp_path / "absent.jsonl")
