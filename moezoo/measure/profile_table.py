"""A profile as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from moezoo.measure.profile_result import Profile, StepProfile, what_layers_do

MiB = 2**20


def profile_tables(profile: Profile) -> Group:
    """Phases, the parts of the forward, the MoE layers and their experts."""
    steps = [step for step in (profile.inference, profile.training) if step is not None]
    tables = [_phases(profile, steps), _parts(profile, steps)]
    tables += [table for step in steps for table in _moe(profile, step)]
    if profile.experts:
        tables.append(_experts(profile))
    return Group(*tables)


def block_of(layer: str) -> str:
    """The numbered block a layer is in says enough: of ``encoder.blocks.3.moe`` its parent."""
    parent = layer.rpartition(".")[0]
    return parent if parent.rpartition(".")[2].isdigit() else layer


def _phases(profile: Profile, steps: Iterable[StepProfile]) -> Table:
    title = f"{profile.name}, batch {profile.batch_size}, {profile.dtype} on {profile.device}: ms per step"
    table = _table(title, "", "phase", "ms", "share", "peak MiB over the start")
    for step in steps:
        table.add_row(step.mode, "all", f"[bold]{step.ms:.2f}[/]", "", f"{step.peak_memory / MiB:.1f}")
        for span in step.phases:
            table.add_row("", span.name, f"{span.ms:.2f}", f"{span.ms / step.ms:.0%}", "")
    return table


def _parts(profile: Profile, steps: list[StepProfile]) -> Table:
    table = _table("The forward by parts, ms", "part", *(step.mode for step in steps))
    times = [{span.name: profile.time_of(span) for span in step.parts} for step in steps]
    for name in dict.fromkeys(name for each in times for name in each):
        table.add_row(escape(name), *(f"{each[name]:.2f}" if name in each else "" for each in times))
    return table


def _moe(profile: Profile, step: StepProfile) -> Iterator[Table]:
    """A table of the forward, and one of what the backward runs again where activations are checkpointed."""
    for during in dict.fromkeys(span.during for span in step.moe):
        spans = [span for span in step.moe if span.during == during]
        columns = what_layers_do(spans)
        again = ", again in the backward" if during == "backward" else ""
        table = _table(f"MoE layers in {step.mode}{again}, ms", "layer", *columns)
        rows: dict[str, dict[str, float]] = {}
        for span in spans:
            rows.setdefault(span.layer, {})[span.what] = profile.time_of(span)
        for layer, times in rows.items():
            cells = (f"{times[what]:.2f}" if what in times else "" for what in columns)
            table.add_row(escape(block_of(layer)), *cells)
        yield table


def _experts(profile: Profile) -> Table:
    table = _table("Each expert alone on its rows, ms (rows)", "layer", "experts")
    table.columns[1].justify, table.columns[1].no_wrap = "left", False
    layers: dict[str, list[str]] = {}
    for span in profile.experts:
        layers.setdefault(span.layer, []).append(f"{profile.time_of(span):.2f} ({span.rows:.0f})")
    for layer, cells in layers.items():
        table.add_row(escape(block_of(layer)), "  ".join(cells))
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(
        title=escape(title),
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),  # seven figures fit 80 columns
        pad_edge=False,
    )
    for index, column in enumerate(columns):
        words = index == 0 or column == "phase"
        heading = column.replace("_", "\n") if index else column
        table.add_column(heading, justify="left" if words else "right", no_wrap=index > 0, overflow="fold")
    return table
