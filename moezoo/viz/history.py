"""Pictures of how a run went, from what it returned or from the files in its folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from moezoo.errors import InputError
from moezoo.train.result import EpochMetrics
from moezoo.viz.balance import balance_figure
from moezoo.viz.curves import training_figure
from moezoo.viz.load import load_figure
from moezoo.viz.style import Picture


def read_history(folder: str | Path) -> list[EpochMetrics]:
    """The epochs in a run's folder, from its ``metrics.jsonl``; none where there is no such file.

    Raises:
        InputError: The file cannot be read, or holds something else.
    """
    path = Path(folder) / "metrics.jsonl"
    if not path.is_file():
        return []
    try:
        return [EpochMetrics.from_dict(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError, KeyError, TypeError, StopIteration) as error:
        raise InputError(f"{str(path)!r} is not the history of a run: {type(error).__name__}: {error}") from None


def history_figures(
    title: str, history: Sequence[EpochMetrics], folder: str | Path | None = None
) -> dict[str, Picture]:
    """``training``, and of a model with MoE layers ``expert_load`` and ``expert_balance``; nothing of no epoch.

    Args:
        title: Of the run.
        history: Its epochs.
        folder: Its folder: if there is a ``steps.jsonl`` that tells of the experts, ``expert_balance_steps`` too.
    """
    figures: dict[str, Picture] = {}
    if not history:
        return figures
    figures["training"] = training_figure({title: history})
    if history[0].routing:
        figures["expert_load"] = load_figure(history)
        figures["expert_balance"] = balance_figure(history)
        steps = Path(folder or "") / "steps.jsonl"
        if folder is not None and steps.is_file() and '"load_entropy"' in steps.read_text(encoding="utf-8"):
            figures["expert_balance_steps"] = balance_figure(steps)
    return figures
