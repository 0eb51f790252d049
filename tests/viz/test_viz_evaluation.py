"""Pictures of one evaluation: they show the very numbers."""

import pytest
import torch

from moezoo.errors import InputError
from moezoo.eval import Corrupted, LayerLoad, Robustness, classification_metrics
from moezoo.viz import reliability_figure, robustness_figure, shares_figure


def test_reliability_bars_are_as_high_as_the_model_is_right_and_the_gap_ends_at_its_confidence():
    torch.manual_seed(0)
    result = classification_metrics(2 * torch.randn(200, 4), torch.randint(4, (200,)))
    right, counts = reliability_figure(result).axes
    bars = right.containers[0]
    assert [bar.get_height() for bar in bars] == [each.accuracy for each in result.reliability]
    for gap, each in zip(right.containers[1], result.reliability, strict=True):
        ends = {round(gap.get_y(), 6), round(gap.get_y() + gap.get_height(), 6)}
        assert ends == {round(each.accuracy, 6), round(each.confidence, 6)}
    assert sum(bar.get_height() for bar in counts.containers[0]) == 200
    with pytest.raises(InputError, match="answer"):
        reliability_figure(classification_metrics(torch.full((1, 2), float("nan")), torch.tensor([0])))


def test_robustness_has_a_line_per_kind_that_starts_at_the_clean_images():
    cases = [("noise", 1, 0.8, 0.1), ("noise", 2, 0.5, 0.3), ("blur", 1, 0.9, 0.0)]
    corrupted = [Corrupted(kind, i, "", top1, 0.9, {"a": moved, "b": moved}) for kind, i, top1, moved in cases]
    accuracy, moved = robustness_figure(Robustness(10, 0.95, 0, tuple(corrupted))).axes
    assert {line.get_label(): list(line.get_ydata()) for line in accuracy.lines} == {
        "noise": [0.95, 0.8, 0.5],
        "blur": [0.95, 0.9],
    }
    assert list(moved.lines[0].get_ydata()) == pytest.approx([0, 0.1, 0.3])
    dense = [Corrupted(kind, i, "", top1, 0.9, {}) for kind, i, top1, _ in cases]
    assert len(robustness_figure(Robustness(10, 0.95, 0, tuple(dense))).axes) == 1
    with pytest.raises(InputError, match="at least one corruption"):
        robustness_figure(Robustness(10, 0.95, 0, ()))


def test_shares_fill_one_bar_per_layer_whatever_the_number_of_experts():
    layers = [
        LayerLoad("blocks.1.entity_moe.moe", 10, (0.5, 0.5, 0.0), 0.63, 0.5, 0.0, (2,), 0.0),
        LayerLoad("blocks.2.entity_moe.moe", 10, (1 / 64,) * 64, 1.0, 1 / 64, 1 / 64, (), 0.0),
    ]
    (ax,) = shares_figure(layers).axes
    assert [label.get_text() for label in ax.get_yticklabels()] == ["blocks.1", "blocks.2"]
    rows = {}
    for bar in ax.patches:
        row = round(bar.get_y() + bar.get_height() / 2)
        rows[row] = rows.get(row, 0) + bar.get_width()
    assert rows == pytest.approx({0: 1.0, 1: 1.0})
    texts = [text.get_text() for text in ax.texts]
    assert "entropy 0.630, 1 dead" in texts
    assert "0: 50%" in texts
    with pytest.raises(InputError, match="MoE layer"):
        shares_figure([])
