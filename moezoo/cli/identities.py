"""``moezoo eval`` of identities to be found again: re-ranking, missing modalities, other protocols, and pictures."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from rich.console import Console
    from torch import nn

    from moezoo.data import ReidSplits
    from moezoo.eval import Evaluation, MissingMatrix
    from moezoo.train import VizConfig


class Asked(NamedTuple):
    """Options of ``moezoo eval`` that are of re-identification alone."""

    rerank: bool
    missing: bool
    protocol: str | None

    def refuse(self, dataset: str) -> None:
        """Raise :class:`ConfigError` if one was given, for a data set that has no identities."""
        from moezoo.errors import ConfigError

        for field, given in self._asdict().items():
            if given:
                raise ConfigError(f"--{field} is of data sets with identities, and {dataset!r} has none")


class Found(NamedTuple):
    """What was measured."""

    report: Evaluation
    matrix: MissingMatrix | None
    """Where it was asked for, and the model takes several modalities."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-like data."""
        import dataclasses

        from moezoo.eval.plain import plain

        data = self.report.to_dict()
        if self.matrix is not None:
            data["missing"] = plain([dataclasses.asdict(row) for row in self.matrix.rows])
        return data


def evaluate_identities(
    model: nn.Module, splits: ReidSplits, split: str, asked: Asked, *, batch_size: int, num_workers: int
) -> Found:
    """Evaluate behind a progress bar.

    Raises:
        ConfigError: There is no such part, modality or protocol, or a model of one modality is to miss some.
    """
    from moezoo.cli.counting import counted
    from moezoo.errors import ConfigError
    from moezoo.eval import evaluate_reid, missing_modality_matrix

    if asked.missing and len(splits.modalities) == 1:
        raise ConfigError(f"--missing is of several modalities, and {splits.name!r} has {splits.modalities[0]} alone")
    shared: dict[str, Any] = {"protocol": asked.protocol, "batch_size": batch_size, "num_workers": num_workers}
    images = len(getattr(splits, split) or ())
    with counted("evaluate", images) as progress:
        report = evaluate_reid(model, splits, split, rerank=asked.rerank, progress=progress, **shared)
    if not asked.missing:
        return Found(report, None)
    with counted("missing modalities", images) as progress:
        return Found(report, missing_modality_matrix(model, splits, split, progress=progress, **shared))


def show_identities(console: Console, found: Found, title: str) -> None:
    """All tables."""
    from moezoo.cli.report import print_report
    from moezoo.eval.tables_reid import missing_table

    print_report(console, found.report, title)
    if found.matrix is not None:
        console.print(missing_table(found.matrix))


def keep_identities(
    found: Found, model: nn.Module, splits: ReidSplits, name: str, split: str, out: Path | None, viz: VizConfig
) -> list[Path]:
    """Write the numbers and, into a folder, the pictures: the CMC curve, the load of the experts, what missing
    modalities cost and, of the test, queries with what was found for them and the gate's weights.

    Args:
        found: What is written.
        model: Of ``name``.
        splits: What it was evaluated on.
        name: As the user calls the model.
        split: The part.
        out: ``FILE.json``, a folder, or ``None``, which writes nothing.
        viz: What the pictures show.

    Returns:
        The files.
    """
    from moezoo.train import probe_folder
    from moezoo.train.output import write_json
    from moezoo.viz import evaluation_pictures, missing_modality_figure
    from moezoo.viz.reid import reid_figures
    from moezoo.viz.run import save_figures

    if out is None:
        return []
    file = out if out.suffix == ".json" else out / "evaluation.json"
    probe_folder(file.parent)
    write_json(file, {"model": name, "dataset": splits.name, "split": split, **found.to_dict()})
    if file is out:
        return [file]
    paths = evaluation_pictures(found.report, out, title=f"{name} on {splits.name}", dpi=viz.dpi)
    figures: dict[str, Any] = {}
    if found.matrix is not None:
        figures["missing_modalities"] = missing_modality_figure(found.matrix)
    if split == "test" and (measured := found.report.reid) is not None:
        figures |= reid_figures(model, splits, images=viz.images, protocol=measured.protocol)
    return [file, *paths, *save_figures(figures, out, dpi=viz.dpi)]


def place_of_run(name: str) -> Path | None:
    """Where the evaluation of a finished run goes by default: a folder in its own, so that nothing of the run, whose
    test may have been another, is overwritten."""
    folder = Path(name.removeprefix("local-dir:")).expanduser()
    writable = name.startswith("local-dir:") and folder.is_dir() and os.access(folder, os.W_OK)
    return folder / "evaluation" if writable else None
