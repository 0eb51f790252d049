"""Where a model with one score per cell looks, and what its big expert computes: from records to pictures."""

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle

import moezoo
from moezoo.data import ImageTensors, Splits, input_options, load_dataset
from moezoo.errors import ConfigError, InputError
from moezoo.moe import MoELayer, Routing, RoutingRecord, record_routing
from moezoo.viz import (
    attention_heat_figure,
    attention_routing_figure,
    cell_scores,
    given_scores,
    model_figures,
    patch_grid_figure,
    photo_figures,
    routing_decisions_figure,
    save_figure,
    save_figures,
    wrong_cases_figure,
)
from moezoo.viz.decisions import PLACE, ROUTED, outline
from moezoo.viz.heat import FINE, heat_span

SCORES = torch.tensor([[0.9, 0.2, 0.6, 0.1, 0.3, 0.2], [0.1, 0.2, 0.1, 0.4, 0.2, 0.3]])
"""Of two images on a grid of 2 x 3."""
GRID = (2, 3)
BOX = (0.25, 0.5, 0.75, 1.0)


@pytest.fixture(scope="module")
def cells():
    return given_scores(SCORES, SCORES >= 0.5, GRID, "moe")


@pytest.fixture(scope="module")
def images():
    torch.manual_seed(0)
    return torch.rand(2, 3, 40, 60)


def layer(**router_args):
    return MoELayer(4, num_experts=2, router="score_threshold", router_args=router_args, hidden_dim=4)


def recorded(moe, scores, prefix):
    with record_routing(moe) as records, torch.no_grad():
        moe.eval()(torch.zeros(*scores.shape, 4), scores=scores)
    return RoutingRecord("moe", 0, records[0].routing, GRID, prefix)


def placed(ax, color):
    """The rectangles of that colour, as (x, y, width, height)."""
    return [
        (*each.get_xy(), each.get_width(), each.get_height())
        for each in ax.patches
        if isinstance(each, Rectangle) and to_rgb(each.get_edgecolor()) == to_rgb(color)
    ]


def test_scores_decisions_and_threshold_are_read_off_the_record_alone():
    moe = layer(threshold_init=0.35)
    with_class_token = torch.cat([torch.tensor([[0.99], [0.01]]), SCORES], 1)
    told = cell_scores(recorded(moe, with_class_token, 1))
    assert torch.equal(told.scores, SCORES.view(2, *GRID))
    assert torch.equal(told.chosen, told.scores >= 0.35)
    assert told.threshold.tolist() == pytest.approx([0.35, 0.35], abs=1e-4)
    assert told.ratio.tolist() == pytest.approx([2 / 6, 1 / 6])
    moezoo.set_budget(moe, 0.5)  # a share of each image: the threshold is the lowest score that was chosen
    told = cell_scores(recorded(moe, SCORES, 0))
    assert told.ratio.tolist() == [0.5, 0.5]
    assert told.threshold.tolist() == pytest.approx([0.3, 0.2])
    moezoo.set_budget(moe, 0.0)
    assert cell_scores(recorded(moe, SCORES, 0)).threshold.isnan().all()


def test_what_has_no_scores_or_no_grid_is_said(images):
    chosen = torch.rand(12) < 0.5
    hard = torch.stack([chosen, ~chosen], -1).float()
    routing = Routing.from_choice((~chosen).long()[:, None], torch.ones(12, 1), torch.zeros(12, 2), probs_TE=hard)
    told = cell_scores(RoutingRecord("moe", 0, routing, GRID, 0))
    assert not told.scored
    assert routing_decisions_figure(images, told).data["chosen"]["moe"].ravel().tolist() == chosen.tolist()
    with pytest.raises(InputError, match="without scoring"):
        attention_heat_figure(images, told)
    with pytest.raises(InputError, match="do not lie on a grid"):
        cell_scores(RoutingRecord("moe", 0, routing, None, 0))
    with pytest.raises(InputError, match="3 experts"):
        cell_scores(RoutingRecord("moe", 0, Routing.from_logits(torch.rand(6, 3), 1, False), GRID, 0))
    with pytest.raises(InputError, match="grid of 2 x 4"):
        given_scores(SCORES, SCORES > 0.5, (2, 4))
    with pytest.raises(InputError, match="scored 2 images, but 1"):
        attention_heat_figure(images[:1], told)
    with pytest.raises(InputError, match="no layer"):
        attention_heat_figure(images, [])
    with pytest.raises(InputError, match="boxes are of 1 images"):
        routing_decisions_figure(images, told, boxes=[None])


def test_heat_lies_on_the_grid_and_the_line_encloses_what_is_above_the_threshold(cells, images, tmp_path):
    figure = attention_heat_figure(images, cells, titles=["a", "b"], wrong=[False, True], boxes=[BOX, None])
    heat = figure.data["heat"]["moe"]
    assert heat.shape == (2, 2 * FINE, 3 * FINE)
    centres = heat[:, FINE // 2 :: FINE, FINE // 2 :: FINE]
    assert np.allclose(centres, cells.scores)  # each cell's own score, in its middle
    between = heat[0, FINE // 2, FINE // 2 : FINE + FINE // 2 + 1]
    assert np.allclose(np.diff(between), (0.2 - 0.9) / FINE, atol=1e-6)  # a straight slope from centre to centre
    inputs, below = figure.axes[:2], figure.axes[2:4]
    assert [ax.images[0].get_array().shape for ax in inputs] == [(40, 60, 3)] * 2
    lines = [[level for each in ax.collections for level in each.levels] for ax in below]
    assert lines == [pytest.approx([0.6]), []]  # the lowest score that was chosen; of the second image none was
    for ax in below:
        assert (ax.get_xlim(), ax.get_ylim()) == ((0, 60), (40, 0))
    drawn = [ax for ax in figure.axes if placed(ax, PLACE)]
    assert len(drawn) == 2  # the first image, and its heat
    assert placed(drawn[0], PLACE) == [(15, 20, 30, 20)]
    bar = figure.axes[-1]
    assert bar.get_xlim() == pytest.approx(heat_span(SCORES.numpy()))
    assert save_figure(figure, tmp_path / "heat.png", dpi=30).stat().st_size > 1000
    ends = [heat_span(np.array(values)) for values in ([0.52, 0.54], [0.0, 0.01], [0.98, 1.0], [0.07, 0.93])]
    assert ends == [(0.45, 0.6), (0.0, 0.1), (0.9, 1.0), (0.05, 0.95)]


def test_decisions_fade_what_is_left_and_outline_what_is_chosen(cells, images, tmp_path):
    figure = routing_decisions_figure(images, cells, boxes=[BOX, None])
    assert figure.data["ratio"]["moe"].tolist() == pytest.approx([1 / 3, 0])
    below = [ax for ax in figure.axes if len(ax.images) == 2]
    assert [ax.get_title() for ax in below] == ["33% routed", "0% routed"]
    for ax, chosen in zip(below, cells.chosen.numpy(), strict=True):
        veil = ax.images[1]
        assert ((veil.get_array()[..., 3] == 0) == chosen).all()
        assert veil.get_extent() == [0, 60, 40, 0]
    lines = [each for each in below[0].collections if (each.get_color() == [*to_rgb(ROUTED), 1]).all()]
    assert len(lines[0].get_segments()) == 8  # two cells apart from each other
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["big expert  17%", "small expert  83%", "what is to be found"]
    block = outline(np.array([[True, True], [True, False]]))
    assert len(block) == 8
    assert {tuple(map(tuple, line)) for line in block} >= {((0, 0), (1, 0)), ((1, 1), (2, 1)), ((1, 1), (1, 2))}
    assert save_figure(figure, tmp_path / "decisions.png", dpi=30).stat().st_size > 1000


def test_the_patch_grid_writes_every_score_and_frames_what_is_chosen(cells, images, tmp_path):
    figure = patch_grid_figure(images, cells, titles=["a", "b"], boxes=[BOX, None])
    first, second = figure.axes
    assert [text.get_text() for text in first.texts] == ["90", "20", "60", "10", "30", "20"]
    assert (first.get_title(), second.get_title()) == ("a, 2 of 6 routed", "b, 0 of 6 routed")
    frames = placed(first, ROUTED)
    assert [(x // 20, y // 20) for x, y, *_ in frames] == [(0, 0), (2, 0)]
    assert not placed(second, ROUTED)
    assert torch.equal(torch.from_numpy(figure.data["scores"]), cells.scores)
    assert save_figure(figure, tmp_path / "grid.png", dpi=30).stat().st_size > 1000
    fine = given_scores(torch.rand(1, 400), torch.rand(1, 400) > 0.5, (20, 20))
    assert not patch_grid_figure(images[:1], fine).axes[0].texts  # too small to be read


def test_wrong_cases_say_what_it_is_and_what_was_said(cells, images):
    probabilities = torch.tensor([[0.1, 0.9], [0.8, 0.2]])
    figure = wrong_cases_figure(images, cells, [0, 1], probabilities, ["cat", "dog"])
    titles = [ax.get_title() for ax in figure.axes if "read as" in ax.get_title()]
    assert titles == ["cat, read as\ndog (90%)", "dog, read as\ncat (80%)"]
    assert figure.data["predicted"] == [1, 0]
    assert {"scores", "chosen", "heat"} < figure.data.keys()
    with pytest.raises(InputError, match=r"images \[0\] are no wrong cases"):
        wrong_cases_figure(images, cells, [1, 1], probabilities, ["cat", "dog"])
    with pytest.raises(InputError, match="as many labels"):
        wrong_cases_figure(images, cells, [0], probabilities, ["cat", "dog"])


def test_a_crop_model_gets_its_pictures_with_the_digits_boxes_and_is_left_as_it_was(tmp_path):
    torch.manual_seed(0)
    small = {"big_hidden_dim": 8, "big_layers": 1, "small_hidden_dim": 4, "embed_dim": 8, "aggregator_dim": 8}
    model = moezoo.create_model("attention_routing/cluttered_digits", **small).train()
    splits = load_dataset("cluttered_digits", train_images=1, val_images=1, test_images=24, **input_options(model))
    moezoo.set_budget(model, 0.25)
    figures = model_figures(model, splits, images=3)
    assert model.training
    assert list(figures) == [
        "predictions", "attention_heat", "routing_decisions", "patch_grid", "expert_classes", "wrong_cases",
    ]  # fmt: skip
    assert save_figure(figures["wrong_cases"], tmp_path / "wrong.png", dpi=30).stat().st_size > 1000
    data = figures["routing_decisions"].data
    labels, shown = figures["predictions"].data["labels"], []
    for label in labels:  # the classes in turn, each one's first image
        shown.append(next(i for i in range(24) if splits.test[i][1] == label))
    assert data["boxes"] == [splits.test.box(i) for i in shown]
    batch = torch.stack([splits.test[i][0] for i in shown])
    with torch.no_grad():
        output = model.eval()(batch, return_stats=True, return_attention=True)
    (name,) = data["chosen"]
    assert np.array_equal(data["chosen"][name].reshape(3, -1), output.routing_mask.bool().numpy())
    heat = figures["attention_heat"].data
    assert np.allclose(heat["scores"][name].reshape(3, -1), output.attention_scores.numpy())
    wrong = figures["wrong_cases"].data
    assert all(true != guess for true, guess in zip(wrong["labels"], wrong["predicted"], strict=True))
    assert wrong["confidence"] == sorted(wrong["confidence"], reverse=True)
    figure = attention_routing_figure(model, batch, title="epoch 5", boxes=data["boxes"])
    assert np.array_equal(figure.data["chosen"][name], data["chosen"][name])
    assert figure.get_suptitle() == "epoch 5"
    pixels = torch.tensor(np.asarray(figure.axes[0].images[0].get_array()))
    assert torch.allclose(pixels, splits.to_pixels(batch)[0, 0], atol=1e-6)


def test_a_transformer_that_routes_tokens_gets_them_for_its_last_layers(tmp_path):
    torch.manual_seed(0)
    model = moezoo.create_model("attention_routing/test_vit", num_classes=3)
    moezoo.set_budget(model, 0.3)
    size = model.pretrained_cfg["input_size"]
    part = ImageTensors(torch.randn(3, *size), torch.arange(3))
    figures = model_figures(model, Splits("noise", part, part, part, ("a", "b", "c"), (0.5,), (0.5,)), images=2)
    assert {"attention_heat", "routing_decisions", "patch_grid"} < figures.keys()
    chosen = figures["routing_decisions"].data["chosen"]
    with record_routing(model) as records, torch.no_grad():
        model.eval()(torch.stack([part[i][0] for i in range(2)]))
    for record in records[-len(chosen) :]:
        assert chosen[record.name].shape == (2, *record.grid)
        picked = (record.routing.expert_index == 0).view(2, -1)[:, record.prefix_tokens :]
        assert np.array_equal(chosen[record.name].reshape(2, -1), picked.numpy())
    with pytest.raises(ConfigError, match="is no MoE layer"):
        attention_routing_figure(model, torch.randn(1, *size), layer="blocks.99")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("entity_moe/test_vit", {"photos_routing", "photos_expert_regions", "photos_attention"}),
        ("diff_moe/digits", {"photos_routing", "photos_expert_regions", "photos_attention"}),
        ("attention_routing/digits.random_routing", {"photos_routing_decisions"}),
        ("attention_routing/digits.full_compute", set()),
    ],
)
def test_photographs_are_drawn_for_models_of_any_family(name, expected, tmp_path):
    torch.manual_seed(0)
    model = moezoo.create_model(name)
    figures = photo_figures(model)
    assert figures.keys() == expected
    if "photos_routing" in figures:
        experts = next(iter(figures["photos_routing"].data["experts"].values()))
        assert len(experts) == 4  # two photographs, and their middles
        titles = [ax.get_title() for ax in figures["photos_routing"].axes if ax.get_title()]
        assert titles == ["china", "china, closer", "flower", "flower, closer"]
        assert save_figures(figures, tmp_path, dpi=30)
