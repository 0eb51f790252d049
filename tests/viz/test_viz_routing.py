import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from moezoo.errors import InputError
from moezoo.moe import Routing, RoutingRecord
from moezoo.viz import expert_colors, expert_map, routing_figure, save_figure


def record(experts, grid, *, num_experts=4, prefix=0, name="blocks.0.entity_moe.moe"):
    """A record in which token t went to experts[t]."""
    logits = torch.zeros(len(experts), num_experts)
    logits[torch.arange(len(experts)), torch.tensor(experts)] = 9.0
    return RoutingRecord(name, 0, Routing.from_logits(logits, 1, normalize=False), grid, prefix)


def rendered(figure, ax):
    """The pixels of one axes, as (H, W, 3) in [0, 1]."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    picture = np.asarray(canvas.buffer_rgba())[..., :3] / 255
    box = ax.get_window_extent()
    height = picture.shape[0]
    return picture[height - round(box.y1) : height - round(box.y0), round(box.x0) : round(box.x1)]


def test_tokens_lie_row_by_row_sample_by_sample_after_the_prefix():
    experts = [3, 0, 1, 2, 0, 1, 2, 3, 0, 3, 3, 3, 1, 1]  # two samples: one class token, then 2 x 3
    maps = expert_map(record(experts, (2, 3), prefix=1))
    assert maps.tolist() == [[[0, 1, 2], [0, 1, 2]], [[0, 3, 3], [3, 1, 1]]]


def test_the_expert_of_the_largest_weight_is_drawn_and_dropped_assignments_are_not():
    logits = torch.tensor([[1.0, 3.0, 2.0], [5.0, 0.0, 4.0]])
    routing = Routing.from_logits(logits, 2)
    assert expert_map(RoutingRecord("x", 0, routing, (1, 2), 0)).tolist() == [[[1, 0]]]
    routing.dropped[0] = True  # the first token's first choice
    assert expert_map(RoutingRecord("x", 0, routing, (1, 2), 0)).tolist() == [[[2, 0]]]
    routing.dropped[:] = True
    assert expert_map(RoutingRecord("x", 0, routing, (1, 2), 0)).tolist() == [[[-1, -1]]]


def test_every_patch_of_the_picture_has_its_experts_colour():
    experts = [0, 1, 2, 3, 2, 1]
    figure = routing_figure(torch.full((1, 1, 20, 30), 1.0), [record(experts, (2, 3))], opacity=1.0)
    picture = rendered(figure, figure.axes[1])
    height, width = picture.shape[:2]
    for token, expert in enumerate(experts):
        row, column = divmod(token, 3)
        centre = picture[int((row + 0.5) * height / 2), int((column + 0.5) * width / 3)]
        assert np.allclose(centre, expert_colors(4)[expert], atol=0.02)


def test_cells_tile_the_image_when_the_grid_does_not_divide_it():
    figure = routing_figure(torch.zeros(1, 3, 17, 17), [record([0, 1, 2, 3], (2, 2))])
    overlay = figure.axes[1].images[1]
    assert overlay.get_extent() == [0, 17, 17, 0]
    assert overlay.get_array().shape == (2, 2, 4)


def test_images_are_below_each_other_with_a_row_per_layer_and_a_legend():
    records = [
        record([0] * 40, (2, 2), name="blocks.2.entity_moe.moe"),
        record([1] * 40, (2, 2), name="other.moe"),
    ]
    titles = [f"t{i}" for i in range(10)]
    wrong = [i == 3 for i in range(10)]
    figure = routing_figure(torch.rand(10, 1, 4, 4), records, titles=titles, wrong=wrong)
    shown = [ax for ax in figure.axes if ax.get_visible()]
    assert len(shown) == 30  # (image + two layers) x 10
    assert [ax.get_title() for ax in shown if ax.get_title()] == titles
    red = [ax.title.get_color() for ax in shown if ax.get_title() == "t3"]
    assert to_rgb(red[0]) != to_rgb(shown[0].title.get_color())
    assert {ax.get_ylabel() for ax in shown} == {"", "input", "blocks.2", "other.moe"}
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["expert 0  50%", "expert 1  50%", "expert 2  0%", "expert 3  0%"]


def test_what_cannot_be_drawn_is_an_error():
    images = torch.zeros(2, 1, 4, 4)
    with pytest.raises(InputError, match="no MoE layer"):
        routing_figure(images, [])
    with pytest.raises(InputError, match="do not lie on a grid"):
        routing_figure(images, [record([0] * 8, None)])
    with pytest.raises(InputError, match="routed 1 images, but 2"):
        routing_figure(images, [record([0] * 4, (2, 2))])


def test_every_expert_has_a_colour_of_its_own():
    for count in (1, 4, 8, 9, 64):
        assert len(set(expert_colors(count))) == count
    assert expert_colors(8)[:4] == expert_colors(4)


def test_a_figure_is_written_as_png(tmp_path):
    figure = routing_figure(torch.zeros(1, 1, 4, 4), [record([0] * 4, (2, 2))])
    assert isinstance(figure, Figure)
    path = save_figure(figure, tmp_path / "picture", dpi=50)
    assert path.name == "picture.png"
    assert path.read_bytes().startswith(b"\x89PNG")
