"""Pictures of training and routing. Functions return a matplotlib ``Figure``; :func:`save_figure` writes it.

Nothing here uses pyplot, a backend or ``rcParams``, so it needs no display and leaves your plots alone.
"""

from moezoo.viz.confusion import confusion_figure
from moezoo.viz.curves import training_figure
from moezoo.viz.load import load_figure
from moezoo.viz.reliability import reliability_figure
from moezoo.viz.robustness import robustness_figure
from moezoo.viz.routing import expert_map, routing_figure
from moezoo.viz.run import dataset_routing_figure, evaluation_pictures, run_pictures
from moezoo.viz.shares import shares_figure
from moezoo.viz.style import expert_colors, save_figure

__all__ = [
    "confusion_figure",
    "dataset_routing_figure",
    "evaluation_pictures",
    "expert_colors",
    "expert_map",
    "load_figure",
    "reliability_figure",
    "robustness_figure",
    "routing_figure",
    "run_pictures",
    "save_figure",
    "shares_figure",
    "training_figure",
]
