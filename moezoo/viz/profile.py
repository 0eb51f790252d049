"""Pictures of a profile: where the time of a step goes, and its memory."""

from __future__ import annotations

from matplotlib.axes import Axes

from moezoo.measure.profile_result import Profile, StepProfile, what_layers_do
from moezoo.measure.profile_table import MiB
from moezoo.viz.grid import layer_label
from moezoo.viz.style import INK, MUTED, RUNS, Picture, expert_colors, new_figure, polish

PHASES = {"forward": RUNS[0], "loss": "#9ca3af", "backward": RUNS[1], "optimizer": RUNS[2]}


def profile_figure(profile: Profile) -> Picture:
    """Phases of a step, parts of its forward, and what the MoE layers do in an inference.

    Returns:
        With ``data``: ``phases`` and ``parts``, mode to name to milliseconds; ``moe``, layer to what to milliseconds;
        ``experts``, layer to the milliseconds of each expert alone.
    """
    steps = _steps(profile)
    phases = {step.mode: {span.name: span.ms for span in step.phases} for step in steps}
    parts = {step.mode: {span.name: profile.time_of(span) for span in step.parts} for step in steps}
    moe: dict[str, dict[str, float]] = {}
    for span in profile.inference.moe:
        moe.setdefault(span.layer, {})[span.what] = profile.time_of(span)
    experts: dict[str, list[float]] = {}
    for each in profile.experts:
        experts.setdefault(each.layer, []).append(profile.time_of(each))
    names = list(dict.fromkeys(name for each in parts.values() for name in each))
    heights = [0.5 + 0.45 * len(steps), 0.5 + 0.3 * len(names), *([0.5 + 0.3 * len(moe)] * (2 if moe else 0))]
    figure = new_figure(9, sum(heights) + 0.35 * len(heights))
    axes = figure.subplots(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    title = f"{profile.name}, batch {profile.batch_size}, {profile.dtype}, {profile.processor}"
    _stacks(axes[0], title, phases, PHASES)
    _grouped(axes[1], "Parts of the forward", names, parts)
    if moe:
        labels = {layer_label(layer): times for layer, times in moe.items()}
        what = what_layers_do(profile.inference.moe)
        _stacks(axes[2], "MoE layers in inference", labels, dict(zip(what, expert_colors(len(what)), strict=True)))
        count = max(map(len, experts.values()), default=0)
        alone = {layer_label(layer): {f"{i}": ms for i, ms in enumerate(own)} for layer, own in experts.items()}
        colors = {f"{i}": color for i, color in enumerate(expert_colors(count))}
        _stacks(axes[3], "Experts, each alone on its rows", alone, colors, legend="expert " if count <= 8 else None)
    figure.data = {"phases": phases, "parts": parts, "moe": moe, "experts": experts}
    return figure


def memory_figure(profile: Profile) -> Picture:
    """Bytes allocated over a step above those at its beginning, with the phases of training in the background.

    Returns:
        With ``data``: mode to its (milliseconds, bytes) points.
    """
    steps = [step for step in _steps(profile) if step.memory]
    figure = new_figure(9, 0.4 + 2.4 * max(len(steps), 1))
    axes = figure.subplots(max(len(steps), 1), 1, squeeze=False)[:, 0]
    for ax, step in zip(axes, steps, strict=False):
        polish(ax, f"Memory of {step.mode}", xlabel="ms", ylabel="MiB over the start")
        for name, begin, end in step.marks:
            ax.axvspan(begin, end, color=PHASES.get(name, MUTED), alpha=0.1, linewidth=0)
            if end - begin > 0.06 * step.marks[-1][2]:
                ax.text(
                    (begin + end) / 2, 0.97, name, transform=ax.get_xaxis_transform(), ha="center", va="top",
                    fontsize=8.5, color=MUTED,
                )  # fmt: skip
        at, size = zip(*step.memory, strict=True)
        ax.step(at, [each / MiB for each in size], where="post", color=INK, linewidth=1)
        ax.set_xlim(0, step.marks[-1][2] if step.marks else None)
        ax.margins(y=0.15)
        ax.set_title(f"peak {step.peak_memory / MiB:.1f} MiB", loc="right", fontsize=9, color=MUTED, pad=8)
    figure.data = {step.mode: list(step.memory) for step in steps}
    return figure


def _steps(profile: Profile) -> list[StepProfile]:
    return [step for step in (profile.inference, profile.training) if step is not None]


def _stacks(ax: Axes, title: str, rows: dict[str, dict[str, float]], colors: dict, *, legend: str | None = "") -> None:
    """A bar per row, made of its named parts."""
    polish(ax, title, xlabel="ms", grid=False)
    for row, times in enumerate(rows.values()):
        begin = 0.0
        for name, ms in times.items():
            ax.barh(row, ms, left=begin, color=colors[name], edgecolor="white", linewidth=0.5, height=0.7)
            begin += ms
        ax.text(begin, row, f" {begin:.2f}", va="center", fontsize=8.5, color=MUTED)
    used = [name for name in colors if any(name in times for times in rows.values())]
    if legend is not None:
        handles = [ax.barh(0, 0, color=colors[name], label=f"{legend}{name}") for name in used]
        ax.legend(
            handles=handles, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8.5, labelcolor=INK
        )
    ax.set_yticks(range(len(rows)), list(rows), color=INK)
    ax.margins(x=0.1)
    ax.set_xlim(left=0)
    ax.invert_yaxis()


def _grouped(ax: Axes, title: str, names: list[str], modes: dict[str, dict[str, float]]) -> None:
    """A bar per name and mode."""
    polish(ax, title, xlabel="ms", grid=False)
    height = 0.8 / len(modes)
    for index, (mode, times) in enumerate(modes.items()):
        places = [row - 0.4 + (index + 0.5) * height for row in range(len(names))]
        values = [times.get(name, 0.0) for name in names]
        ax.barh(places, values, height * 0.9, color=RUNS[index], label=mode)
        for place, value in zip(places, values, strict=True):
            ax.text(value, place, f" {value:.2f}", va="center", fontsize=7.5, color=MUTED)
    ax.set_yticks(range(len(names)), names, color=INK)
    ax.margins(x=0.1)
    ax.set_xlim(left=0)
    ax.invert_yaxis()
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8.5, labelcolor=INK)
