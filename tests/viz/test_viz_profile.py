"""Pictures of a profile show its very numbers."""

import pytest

from moezoo.measure.profile_result import ExpertSpan, MoESpan, Profile, Span, StepProfile
from moezoo.viz import save_figure
from moezoo.viz.profile import memory_figure, profile_figure


@pytest.fixture
def profile():
    inference = StepProfile(
        mode="inference",
        steps=2,
        ms=5.0,
        phases=(Span("forward", 4.0, 0.0, 1),),
        parts=(Span("encoder", 3.0, 0.0, 1), Span("(between parts)", 1.0, 0.0, 0)),
        moe=(MoESpan("encoder.blocks.0.moe", "router", "forward", 0.5, 0.0, 1),),
        memory=((0.0, 0), (1.0, 3 * 2**20), (2.0, 2**20)),
        marks=(("forward", 0.1, 4.1),),
        trace="inference.trace.json.gz",
    )
    training = StepProfile(
        "training", 2, 9.0, (Span("forward", 4.0, 0.0, 1), Span("backward", 5.0, 0.0, 1)), (), (), (), (), "t"
    )
    experts = tuple(ExpertSpan("encoder.blocks.0.moe", e, 8, 0.1 * (e + 1), 9.0) for e in range(3))
    machine = {"processor": "a CPU", "cores": 2, "threads": 1, "torch": "2"}
    return Profile(
        "m", "cpu", "float32", 8, ((8, 1, 28, 28),), **machine, inference=inference, training=training, experts=experts
    )


def test_the_bars_are_as_long_as_things_take(profile, tmp_path):
    figure = profile_figure(profile)
    assert save_figure(figure, tmp_path / "profile.png", dpi=40).stat().st_size > 1000
    assert figure.data["phases"] == {"inference": {"forward": 4.0}, "training": {"forward": 4.0, "backward": 5.0}}
    assert figure.data["moe"] == {"encoder.blocks.0.moe": {"router": 0.5}}
    assert figure.data["experts"]["encoder.blocks.0.moe"] == pytest.approx([0.1, 0.2, 0.3])
    phases = [round(bar.get_width(), 6) for bar in figure.axes[0].patches if bar.get_width()]
    assert phases == [4.0, 4.0, 5.0]
    backward = figure.axes[0].patches[2]
    assert backward.get_x() == 4.0  # behind the forward


def test_an_accelerators_own_time_is_drawn_where_there_is_one(profile):
    import dataclasses

    on_gpu = dataclasses.replace(profile, device="cuda")
    assert profile_figure(on_gpu).data["experts"]["encoder.blocks.0.moe"] == [9.0, 9.0, 9.0]


def test_memory_is_drawn_in_mebibytes_over_the_phases(profile, tmp_path):
    figure = memory_figure(profile)
    assert save_figure(figure, tmp_path / "memory.png", dpi=40).stat().st_size > 1000
    (ax,) = figure.axes  # training has no curve
    assert list(ax.lines[0].get_ydata()) == [0, 3, 1]
    assert ax.get_title(loc="right") == "peak 3.0 MiB"
    assert figure.data == {"inference": [(0.0, 0), (1.0, 3 * 2**20), (2.0, 2**20)]}
