"""Where attention routing's document wants the files of its commands."""

from __future__ import annotations

from pathlib import Path

from moezoo.cli.documented_flags import FAMILY


class Files:
    """Below ``checkpoints/`` in the folder of ``--save_dir``. Each model has its own; the document's names are the last
    one's."""

    def __init__(self, save_dir: Path):
        self.folder = save_dir / "checkpoints"

    def weights(self, model: str | None = None) -> Path:
        """Of the best epoch; without a model, of the one that was trained last."""
        return self.folder / f"best_model{'' if model is None else f'_{model}'}.safetensors"

    def results(self, what: str, model: str | None = None) -> Path:
        """``training_results.json`` and the like."""
        return self.folder / f"{what}_results{'' if model is None else f'_{model}'}.json"

    @property
    def comparison(self) -> Path:
        """Of all models."""
        return self.folder / "baseline_comparison.json"

    def pictures(self, model: str = FAMILY) -> Path:
        """The routing model's lie in ``visualizations/`` itself."""
        folder = self.folder / "visualizations"
        return folder if model == FAMILY else folder / model
