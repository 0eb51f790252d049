"""Training: recipes, the loop and what it writes. The models train in anyone's loop; ``fit`` is ours."""

from moezoo.train.config import TrainingConfig
from moezoo.train.device import find_device, is_main_process, leave_processes
from moezoo.train.loop import fit
from moezoo.train.output import probe_folder
from moezoo.train.recipe import Recipe, VizConfig, resolve_recipe
from moezoo.train.result import EpochMetrics, TrainingResult
from moezoo.train.run import TrainedRun, create_for, train_recipe
from moezoo.train.seeding import seeded

__all__ = [
    "EpochMetrics",
    "Recipe",
    "TrainedRun",
    "TrainingConfig",
    "TrainingResult",
    "VizConfig",
    "create_for",
    "find_device",
    "fit",
    "is_main_process",
    "leave_processes",
    "probe_folder",
    "resolve_recipe",
    "seeded",
    "train_recipe",
]
