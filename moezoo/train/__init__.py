"""Training: recipes, the loop and what it writes. ``fit`` is one loop among many; the models train in anyone's."""

from moezoo.train.config import TrainingConfig
from moezoo.train.loop import fit
from moezoo.train.output import probe_folder
from moezoo.train.recipe import Recipe, VizConfig, resolve_recipe
from moezoo.train.result import EpochMetrics, TrainingResult
from moezoo.train.seeding import seeded

__all__ = [
    "EpochMetrics",
    "Recipe",
    "TrainingConfig",
    "TrainingResult",
    "VizConfig",
    "fit",
    "probe_folder",
    "resolve_recipe",
    "seeded",
]
