"""Measuring a model: how often it is right, how well it knows that, and where its tokens went."""

from moezoo.eval.classification import Classification, LabelReport, calibration_error, classification_metrics
from moezoo.eval.evaluate import Evaluation, evaluate, predict
from moezoo.eval.routing import LayerLoad, LoadCounter, routing_report

__all__ = [
    "Classification",
    "Evaluation",
    "LabelReport",
    "LayerLoad",
    "LoadCounter",
    "calibration_error",
    "classification_metrics",
    "evaluate",
    "predict",
    "routing_report",
]
