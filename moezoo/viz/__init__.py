"""Pictures of training and routing. Functions return a :class:`Picture`, a matplotlib ``Figure`` that holds its numbers
in ``data``; :func:`save_figure` writes it.

Nothing here uses pyplot, a backend or ``rcParams``, so it needs no display and leaves your plots alone. Texts may be in
any language: signs that no installed font has are written as code points.
"""

from moezoo.viz.ablation import ablation_figure
from moezoo.viz.attention import attention_figure, attention_received
from moezoo.viz.attention_routing import attention_heat_figure, routing_decisions_figure, score_and_routing_figure
from moezoo.viz.balance import balance_figure
from moezoo.viz.cells import CellScores, cell_scores, given_scores
from moezoo.viz.cmc import cmc_figure
from moezoo.viz.confusion import confusion_figure
from moezoo.viz.curves import training_figure
from moezoo.viz.edf import edf_figure
from moezoo.viz.expert_classes import ClassShares, class_information, expert_classes_figure
from moezoo.viz.explanation import explanation_figure
from moezoo.viz.federated import federated_figure
from moezoo.viz.figures import model_figures
from moezoo.viz.front import FrontPoint, front_figure
from moezoo.viz.gallery import GalleryRow, gallery_figure
from moezoo.viz.history import history_figures, read_history
from moezoo.viz.image_text import image_text_figure, word_maps
from moezoo.viz.load import load_figure
from moezoo.viz.missing import missing_modality_figure
from moezoo.viz.patch_grid import patch_grid_figure
from moezoo.viz.patterns import activation_patterns_figure
from moezoo.viz.photos import photo_figures
from moezoo.viz.predictions import captions_figure, predictions_figure
from moezoo.viz.regions import expert_weights, regions_figure
from moezoo.viz.reid import gallery_rows, reid_figures
from moezoo.viz.reliability import reliability_figure
from moezoo.viz.retrieval import retrieval_figure
from moezoo.viz.robustness import robustness_figure
from moezoo.viz.routed import attention_routing_figure
from moezoo.viz.routing import expert_map, routing_figure
from moezoo.viz.run import (
    dataset_routing_figure,
    documented_pictures,
    evaluation_pictures,
    run_pictures,
    save_figures,
)
from moezoo.viz.scale_weights import expert_weights_figure, visualize_expert_weights
from moezoo.viz.shares import shares_figure
from moezoo.viz.style import Picture, expert_colors, save_figure
from moezoo.viz.words import words_of
from moezoo.viz.wrong_cases import wrong_cases_figure

__all__ = [
    "CellScores",
    "ClassShares",
    "FrontPoint",
    "GalleryRow",
    "Picture",
    "ablation_figure",
    "activation_patterns_figure",
    "attention_figure",
    "attention_heat_figure",
    "attention_received",
    "attention_routing_figure",
    "balance_figure",
    "captions_figure",
    "cell_scores",
    "class_information",
    "cmc_figure",
    "confusion_figure",
    "dataset_routing_figure",
    "documented_pictures",
    "edf_figure",
    "evaluation_pictures",
    "expert_classes_figure",
    "expert_colors",
    "expert_map",
    "expert_weights",
    "federated_figure",
    "expert_weights_figure",
    "explanation_figure",
    "front_figure",
    "gallery_figure",
    "gallery_rows",
    "given_scores",
    "history_figures",
    "image_text_figure",
    "load_figure",
    "missing_modality_figure",
    "model_figures",
    "patch_grid_figure",
    "photo_figures",
    "predictions_figure",
    "read_history",
    "regions_figure",
    "reid_figures",
    "reliability_figure",
    "retrieval_figure",
    "robustness_figure",
    "routing_decisions_figure",
    "routing_figure",
    "run_pictures",
    "save_figure",
    "save_figures",
    "score_and_routing_figure",
    "shares_figure",
    "training_figure",
    "visualize_expert_weights",
    "word_maps",
    "words_of",
    "wrong_cases_figure",
]
