"""Pictures of re-identification, of gates and of explanations hold what they claim."""

import re
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from torch import nn

import moezoo.viz
from moezoo.cli.epoch_pictures import EpochPictures
from moezoo.data import load_dataset
from moezoo.errors import ConfigError, InputError, OutputError
from moezoo.eval import (
    MissingMatrix,
    analyze_expert_activation_patterns,
    evaluate_reid,
    explain_decision,
    extract_features,
    top_matches,
)
from moezoo.train import EpochMetrics, TrainingResult
from moezoo.viz import (
    GalleryRow,
    activation_patterns_figure,
    cmc_figure,
    edf_figure,
    evaluation_pictures,
    expert_weights_figure,
    explanation_figure,
    gallery_figure,
    missing_modality_figure,
    model_figures,
    run_pictures,
    save_figure,
    training_figure,
    visualize_expert_weights,
)
from moezoo.viz.gallery import RIGHT, WRONG
from moezoo.viz.montage import montage
from moezoo.viz.reid import reid_report_figures, right_answers
from moezoo.viz.style import new_figure

SPECTRA = ("RGB", "NIR", "TIR")


def labels(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


class Colours(nn.Module):
    """Mean colours as features; its gate prefers a scale for each spectrum."""

    modalities = SPECTRA
    scales = (2, 4)

    def __init__(self):
        super().__init__()
        self.expert_labels = ("scale", ["2 x 2 windows", "4 x 4 windows"])
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, images, present=None, *, return_weights=False):
        features = self.gain * images[..., 40:70, 20:44].mean((3, 4)).flatten(1)
        if not return_weights:
            return features
        coarse = torch.tensor([0.9, 0.5, 0.1]).expand(len(images), 3)
        return {"features": features, "scale_weights": torch.stack([coarse, 1 - coarse], -1), "modality_weights": None}


@pytest.fixture(scope="module")
def splits():
    people = {"train_identities": 1, "test_identities": 4, "val_identities": 0, "cameras": 2, "images_per_camera": 2}
    return load_dataset("trispectral", input_size=(3, 128, 64), cues=("rgb_coarse", "nir_coarse"), **people)


def test_a_cmc_curve_is_drawn_as_reported_with_map_and_rank_1_in_the_legend():
    reports = {"MoE": {"cmc": [0.5, 0.75, 1.0], "mAP": 0.625}, "mean": SimpleNamespace(cmc=(0.25, 0.5), mAP=0.5)}
    figure = cmc_figure(reports, max_rank=2)
    (ax,) = figure.axes
    assert [line.get_ydata().tolist() for line in ax.lines] == [[0.5, 0.75], [0.25, 0.5]]
    assert list(ax.lines[0].get_xdata()) == [1, 2]
    assert labels(ax) == ["MoE\nmAP 62.5%, Rank-1 50.0%", "mean\nmAP 50.0%, Rank-1 25.0%"]
    assert figure.data["mean"] == {"cmc": [0.25, 0.5], "mAP": 0.5}
    for wrong, match in (
        ({}, "at least one"),
        ({"a": {"cmc": [1.0]}}, "no mAP"),
        ({"a": {"cmc": [], "mAP": 1}}, "cmc"),
    ):
        with pytest.raises(InputError, match=match):
            cmc_figure(wrong)
    with pytest.raises(InputError, match="fractions"):
        cmc_figure({"a": {"cmc": [76.6], "mAP": 72.3}})
    with pytest.raises(InputError, match="finite"):
        cmc_figure({"a": {"cmc": [0.5], "mAP": float("nan")}})
    with pytest.raises(ConfigError, match="max_rank=0 is not allowed"):
        cmc_figure(reports, max_rank=0)


def test_an_edf_rises_by_one_nth_at_every_error_and_the_legend_says_min_and_mean():
    figure = edf_figure({"A": [0.4, 0.1, 0.3, 0.2], "B": torch.tensor([0.5])})
    assert figure.data["A"] == {
        "errors": [0.1, 0.2, 0.3, 0.4],
        "share": [0.25, 0.5, 0.75, 1.0],
        "min": 0.1,
        "mean": pytest.approx(0.25),
    }
    (ax,) = figure.axes
    assert labels(ax) == ["A (4 models)\nmin 10.0%, mean 25.0%", "B (1 models)\nmin 50.0%, mean 50.0%"]
    assert ax.lines[0].get_ydata().tolist() == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    assert ax.lines[0].get_drawstyle() == "steps-post"
    for wrong in ({}, {"A": []}, {"A": [0.1, float("nan")]}):
        with pytest.raises(InputError):
            edf_figure(wrong)


def test_right_matches_are_framed_green_and_wrong_ones_orange_with_all_spectra_of_each():
    query, matches = torch.rand(3, 1, 8, 4), torch.rand(2, 3, 1, 8, 4)
    rows = [
        GalleryRow(query, matches, [0.125, 0.5], [True, False], "7, camera 1", ["7, camera 2", "9, camera 2"]),
        GalleryRow(query, matches[:1], [0.25], [False]),
    ]
    figure = gallery_figure(rows)
    frames = [to_rgb(ax.spines["top"].get_edgecolor()) for ax in figure.axes if ax.get_visible()]
    assert frames[1:3] == [to_rgb(RIGHT), to_rgb(WRONG)]
    assert frames[4] == to_rgb(WRONG)
    assert len(frames) == 5  # the second query has one match
    assert [ax.get_title() for ax in figure.axes if ax.get_visible()] == ["query", "0.125", "0.5", "query", "0.25"]
    assert figure.axes[1].get_xlabel() == "7, camera 2"
    assert figure.data == {"distances": [[0.125, 0.5], [0.25]], "right": [[True, False], [False]], "first": 1}
    drawn = np.asarray(figure.axes[0].images[0].get_array())
    assert np.allclose(drawn[:, :4], query[0, 0])
    assert np.allclose(drawn[:, -4:], query[2, 0])
    assert montage(query.transpose(2, 3)).shape[0] > 3 * 4  # wide ones lie below each other
    with pytest.raises(InputError, match="at least one query"):
        gallery_figure([])
    with pytest.raises(InputError, match="2 matches, but 1 distances"):
        gallery_figure([GalleryRow(query, matches, [0.1], [True, False])])
    with pytest.raises(InputError, match="a sighting must be"):
        gallery_figure([GalleryRow(torch.rand(2, 2), matches, [0.1, 0.2], [True, False])])


@pytest.mark.parametrize("scales", [(4,), (4, 16), (4, 8, 16, 32, 64), ("RGB", "NIR", "TIR")])
def test_the_heat_map_has_a_row_per_scale_whatever_their_number(scales, tmp_path):
    weights = torch.rand(7, len(scales)).softmax(-1)
    path = visualize_expert_weights(weights, tmp_path / "weights.png", scales=scales, dpi=40)
    assert path.read_bytes().startswith(b"\x89PNG")
    figure = expert_weights_figure(weights, scales=scales)
    assert figure.get_size_inches().tolist() == [10, 6]
    ax = figure.axes[0]
    assert ax.images[0].get_cmap().name == "viridis"
    assert np.allclose(ax.images[0].get_array(), weights.T)
    names = [f"{s} x {s}" if isinstance(s, int) else s for s in scales]
    assert [label.get_text() for label in ax.get_yticklabels()] == names == figure.data["experts"]


def test_the_heat_map_has_a_panel_per_spectrum_and_refuses_what_is_no_weight(tmp_path):
    weights = torch.rand(5, 3, 2)
    figure = expert_weights_figure(weights, scales=(4, 8), modalities=SPECTRA, samples=list("abcde"))
    assert [ax.get_ylabel() for ax in figure.axes[:3]] == list(SPECTRA)
    assert np.allclose(figure.axes[1].images[0].get_array(), weights[:, 1].T)
    assert [label.get_text() for label in figure.axes[2].get_xticklabels()] == list("abcde")
    bad = [
        (torch.rand(3), {}, "dimensions"),
        (torch.full((2, 2), torch.nan), {}, "finite"),
        (-torch.rand(2, 2), {}, "at least 0"),
        (torch.rand(2, 2), {"scales": (4, 8, 16)}, "3 names"),
        (torch.rand(2, 2), {"modalities": ("RGB", "NIR")}, "2 modalities"),
        (torch.rand(2, 2), {"samples": ["a"]}, "1 names of samples"),
    ]
    for given, options, match in bad:
        with pytest.raises(InputError, match=match):
            visualize_expert_weights(given, tmp_path / "x.png", **options)
    with pytest.raises(OutputError):
        visualize_expert_weights(torch.rand(2, 2), tmp_path / "missing" / "x.png")
    assert not list(tmp_path.iterdir())


def test_activation_patterns_show_frequency_time_and_the_content_that_tells_most():
    camera = np.arange(12) % 2
    weights = np.eye(2)[camera] * 0.6 + 0.2
    patterns = analyze_expert_activation_patterns(
        [np.full((12, 2), 0.5), weights], {"noise": np.arange(12) // 6, "camera": camera}, experts=(4, 8)
    )
    figure = activation_patterns_figure(patterns)
    assert figure.data["frequency"] == [0.5, 0.5]
    assert figure.data["information"]["camera"] > figure.data["information"]["noise"]
    use, time, first, second = figure.axes
    assert [bar.get_height() for bar in use.containers[0]] == pytest.approx([0.5, 0.5])
    assert max(use.get_yticks()) == 1
    assert time.lines[0].get_ydata().tolist() == pytest.approx([0.5, 0.5])
    assert [first.get_title(loc="left"), second.get_title(loc="left")] == ["camera", "noise"]
    assert np.allclose(first.images[0].get_array(), [[0.3, -0.3], [-0.3, 0.3]])
    assert [text.get_text() for text in first.texts] == ["+30", "-30", "-30", "+30"]
    assert [text.get_text() for text in second.texts] == ["0"] * 4
    alone = activation_patterns_figure(analyze_expert_activation_patterns(weights))
    assert len(alone.axes) == 1


def test_a_matrix_of_missing_spectra_says_what_is_lost():
    def row(missing, value):
        return SimpleNamespace(missing=missing, mAP=value, r1=value, r5=1.0, r10=1.0, mINP=value / 2)

    matrix = MissingMatrix(SPECTRA, (row((), 0.75), row(("RGB",), 0.5), row(("RGB", "NIR"), 0.25)))
    figure = missing_modality_figure(matrix)
    assert figure.data["rows"] == ["all", "without RGB", "TIR alone"]
    assert figure.data["values"][1].tolist() == [0.5, 0.5, 1, 1, 0.25]
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts[0] == "75.0%"
    assert texts[5] == "50.0%\n-25.0"
    with pytest.raises(InputError, match="finite"):
        missing_modality_figure(MissingMatrix(SPECTRA, (row((), float("nan")),)))


def test_a_model_that_finds_identities_gets_its_pictures_and_is_left_as_it_was(splits, tmp_path):
    model = Colours().train()
    figures = model_figures(model, splits, images=2)
    assert model.training
    assert list(figures) == ["gallery", "expert_weights", "activation_patterns"]
    data = figures["gallery"].data
    assert len(data["right"]) == 2
    assert all(list(row) == sorted(row) for row in data["distances"])
    assert figures["expert_weights"].data["experts"] == ["2 x 2", "4 x 4"]
    information = figures["activation_patterns"].data["information"]
    assert max(information, key=information.get) == "spectrum"
    assert information["spectrum"] > 0.3
    report = evaluate_reid(model, splits, rerank=True)
    assert {path.name for path in evaluation_pictures(report, tmp_path, title="x", dpi=40)} == {"cmc.png"}
    curve = reid_report_figures(report, "found").pop("cmc")
    assert curve.data["found"]["mAP"] == report.reid.mAP
    assert curve.data["re-ranked"]["mAP"] == report.reid.reranked.mAP
    with pytest.raises(ConfigError, match="layer"):
        model_figures(model, splits, layer="moe")


def test_rankings_of_the_whole_gallery_are_held_for_few_queries_only(splits):
    asked = []

    def noting(query, gallery, count, protocol):
        asked.append(len(query[1]) * count)
        return top_matches(query, gallery, count, protocol)

    with mock.patch("moezoo.viz.reid.top_matches", noting):
        titles, images, matches, others = right_answers(Colours(), splits, 2)
    part, features = splits.test, extract_features(Colours(), splits.test).features
    assert max(asked) <= 2 * part.num_gallery < part.num_queries * part.num_gallery
    found = top_matches(*part.sides(features), part.num_gallery, part.protocol)
    for row, (title, image, match) in enumerate(zip(titles, images, matches, strict=True)):
        number = row * part.num_queries // 2
        rank = int(found.right[number].argmax())
        assert torch.equal(image, part[part.query_indices[number]][0])
        assert torch.equal(match, part[part.gallery_indices[found.indices[number, rank]]][0])
        assert f"at rank {rank + 1} " in title
    assert len(others) == part.num_gallery // 2  # of the two identities that are not asked for


def test_a_run_without_validation_says_that_its_scores_are_of_the_test(splits, tmp_path):
    model = Colours()
    epochs = [
        EpochMetrics(i, 1e-3, 2.0 / i, 0.0, 1.0, float("nan"), score, 1.0, (), "mAP", judged_on="test")
        for i, score in ((1, 0.5), (2, 0.75), (3, 0.625))
    ]
    result = TrainingResult(tuple(epochs), 3, evaluate_reid(model, splits), 1.0)
    paths = run_pictures(model, splits, {"run": result}, tmp_path, images=1, dpi=30)
    names = {"training", "cmc", "gallery", "expert_weights", "activation_patterns"}
    assert {path.stem for path in paths} == names
    scores = training_figure({"run": epochs}).axes[1]
    assert scores.get_title(loc="left") == "Test mAP"
    assert labels(scores) == ["run: 75.00%, best at 2, last 62.50%"]


def test_pictures_of_epochs_show_how_the_use_of_scales_changes(splits, tmp_path):
    draw, seen = EpochPictures(tmp_path, every=2, dpi=30), []
    model = Colours()
    with mock.patch("moezoo.viz.activation_patterns_figure", lambda p, **k: seen.append(p) or new_figure(1, 1)):
        for epoch in (1, 2, 3, 4):
            draw(model, splits, SimpleNamespace(epoch=epoch))
    folder = tmp_path / "visualizations"
    assert sorted(path.name for path in folder.iterdir()) == ["experts_epoch_002.png", "experts_epoch_004.png"]
    assert [len(patterns.mean_weight) for patterns in seen] == [1, 2]
    assert {relation.name for relation in seen[1].content} >= {"spectrum", "identity", "camera", "rgb_coarse"}
    assert np.allclose(seen[1].mean_weight[1], [0.5, 0.5])


def test_an_explanation_draws_its_region_effects_and_curves(splits, tmp_path):
    part = splits.test
    images = torch.stack([part[i][0] for i in (0, 1)])
    found = explain_decision(Colours(), images, match=images.flip(0), steps=4, random_orders=1, cells=(4, 2))
    figure = explanation_figure(found, splits.to_pixels(images), case=1)
    case = found[1]
    assert np.allclose(figure.data["saliency"], case.saliency)
    assert figure.data["region"] == case.region.box
    assert figure.data["modalities"] == {part.name: part.effect for part in case.modalities}
    titles = [ax.get_title() for ax in figure.axes[:6]]
    assert titles[::2] == list(SPECTRA)
    drawn = [bool(ax.patches) for ax in figure.axes[:6:2]]
    assert drawn == [name == case.region.modality for name in SPECTRA]
    curves = figure.axes[-1]
    assert curves.lines[0].get_ydata().tolist() == list(case.faithfulness.deletion_curve)
    assert save_figure(figure, tmp_path / "why", dpi=40).stat().st_size > 1000
    with pytest.raises(ConfigError, match="case=2"):
        explanation_figure(found, images, case=2)
    with pytest.raises(InputError, match="in 3 spectra"):
        explanation_figure(found, images[:, :2])


def test_no_picture_touches_pyplot_or_the_settings_of_matplotlib():
    sources = {path.name: path.read_text(encoding="utf-8") for path in Path(moezoo.viz.__file__).parent.glob("*.py")}
    assert len(sources) > 30
    found = re.compile(r"import .*pyplot|\bplt\.|matplotlib\.use\(|rcParams\[")
    assert not [name for name, text in sources.items() if found.search(text)]
