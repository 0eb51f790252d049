import dataclasses
import json

import matplotlib
import pytest
import torch
from matplotlib._pylab_helpers import Gcf

from moezoo.errors import InputError, OutputError
from moezoo.eval import LayerLoad, classification_metrics
from moezoo.train import EpochMetrics
from moezoo.viz import confusion_figure, history_figures, load_figure, read_history, save_figure, training_figure


def epochs(accuracies, share=(0.5, 0.25, 0.25)):
    dead = tuple(i for i, s in enumerate(share) if s == 0)
    load = LayerLoad("blocks.3.entity_moe.moe", 10, tuple(share), 0.9, max(share), min(share), dead, 0.0)
    return [
        EpochMetrics(i, 1e-3, 1.0 / i, 0.01, 1.0, 0.5 / i, accuracy, 1.0, (load,))
        for i, accuracy in enumerate(accuracies, start=1)
    ]


def test_curves_show_the_very_numbers_and_mark_the_chosen_epoch():
    figure = training_figure({"MoE": epochs([0.5, 0.9, 0.8]), "dense twin": epochs([0.4, 0.7, 0.95])})
    loss, accuracy = figure.axes
    lines = {line.get_label(): line.get_ydata() for line in loss.lines}
    assert list(lines["MoE"]) == [1.0, 1 / 2, 1 / 3]
    labels = [text.get_text() for text in accuracy.get_legend().get_texts()]
    assert labels == ["MoE: 90.00%, epoch 2 chosen", "dense twin: 95.00%, epoch 3 chosen"]
    low, high = accuracy.get_ylim()
    assert low <= 0.7  # every accuracy of the second half is inside
    assert high >= 1


def test_curves_of_any_score_carry_their_numbers_and_only_those_of_one_score_are_compared():
    recall = [dataclasses.replace(each, score_name="recall_at_1") for each in epochs([0.2, 0.6])]
    figure = training_figure({"shapes": recall})
    assert figure.axes[1].get_title(loc="left") == "Validation recall at 1"
    expected = {"epochs": [1, 2], "loss": [1.0, 0.5], "score": [0.2, 0.6], "score_name": "recall_at_1", "chosen": 2}
    assert figure.data == {"shapes": expected}
    with pytest.raises(InputError, match="accuracy, recall_at_1"):
        training_figure({"a": recall, "b": epochs([0.5])})


def test_the_history_of_a_run_is_read_from_its_folder(tmp_path):
    assert history_figures("run", read_history(tmp_path), tmp_path) == {}
    lines = [json.dumps(each.to_dict()) for each in epochs([0.5, 0.9])]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "steps.jsonl").write_text(json.dumps({"step": 1, "routing": []}) + "\n")
    history = read_history(tmp_path)
    assert [each.score for each in history] == [0.5, 0.9]
    assert list(history_figures("run", history, tmp_path)) == ["training", "expert_load", "expert_balance"]
    row = {"step": 2, "routing": [{"layer": "a", "load_entropy": 1.0, "max_violation": 0.0}]}
    (tmp_path / "steps.jsonl").write_text(json.dumps(row) + "\n")
    assert history_figures("run", history, tmp_path)["expert_balance_steps"].data["times"] == [2]
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    with pytest.raises(InputError, match=r"metrics\.jsonl"):
        read_history(tmp_path)


def test_a_run_of_no_epoch_is_an_error():
    for runs in ({}, {"MoE": []}):
        with pytest.raises(InputError, match="at least one"):
            training_figure(runs)


def test_load_is_stacked_bands_that_end_at_the_last_shares():
    figure = load_figure(epochs([0.5, 0.9]))
    (ax,) = figure.axes
    assert ax.get_title(loc="left") == "blocks.3"
    assert [text.get_text() for text in ax.texts] == ["expert 0  50%", "expert 1  25%", "expert 2  25%"]
    tops = [band.get_paths()[0].vertices[:, 1].max() for band in ax.collections]
    assert tops == pytest.approx([0.5, 0.75, 1.0])


def test_many_experts_are_a_heat_map_relative_to_an_even_load():
    figure = load_figure(epochs([0.5, 0.9], share=[0.5] + [0.5 / 15] * 15))
    image = figure.axes[0].images[0].get_array()
    assert image.shape == (16, 2)
    assert image[0, 0] == pytest.approx(8.0)


def test_dead_experts_are_named_and_one_epoch_is_enough():
    figure = load_figure(epochs([0.5], share=(0.75, 0.25, 0.0)))
    assert "1 dead" in figure.axes[0].get_title(loc="right")


def test_a_model_without_moe_layers_has_no_load_to_draw():
    plain = EpochMetrics(1, 1e-3, 1.0, 0.0, 1.0, 0.5, 0.5, 1.0, ())
    with pytest.raises(InputError, match="MoE layers"):
        load_figure([plain])


def test_the_confusion_matrix_numbers_every_cell_that_is_not_empty():
    logits = torch.eye(3)[[0, 0, 1, 2, 2, 2]]
    result = classification_metrics(logits, torch.tensor([0, 1, 1, 2, 2, 2]), ["cat", "dog", "owl"])
    ax = confusion_figure(result).axes[0]
    cells = {t.get_position(): t.get_text() for t in ax.texts if t.get_transform() == ax.transData}
    assert cells == {(0, 0): "1", (0, 1): "1", (1, 1): "1", (2, 2): "3"}
    assert [label.get_text() for label in ax.get_xticklabels()] == ["cat", "dog", "owl"]
    red, blue = ax.images[0].get_array()[1, 0], ax.images[0].get_array()[2, 2]
    assert red[0] > red[2]
    assert blue[2] > blue[0]


def test_many_classes_are_drawn_without_numbers():
    result = classification_metrics(torch.eye(30), torch.arange(30))
    assert len(confusion_figure(result).axes[0].texts) == 1


def test_a_picture_that_cannot_be_written_is_an_error(tmp_path):
    figure = training_figure({"MoE": epochs([0.5])})
    with pytest.raises(OutputError, match="absent"):
        save_figure(figure, tmp_path / "absent" / "picture.png")


def test_drawing_leaves_pyplot_and_rcparams_alone(tmp_path):
    before = dict(matplotlib.rcParams)
    save_figure(training_figure({"MoE": epochs([0.5])}), tmp_path / "a")
    save_figure(load_figure(epochs([0.5])), tmp_path / "b")
    assert dict(matplotlib.rcParams) == before
    assert not Gcf.get_all_fig_managers()
