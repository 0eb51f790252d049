"""Measuring a model: how often it is right, how well it knows that, and where its tokens went."""

from moezoo.eval.calibration import ReliabilityBin, calibration_error, reliability_bins
from moezoo.eval.classification import Classification, LabelReport, classification_metrics
from moezoo.eval.corruptions import CORRUPTIONS, Blur, Noise, Shift
from moezoo.eval.evaluate import Evaluation, evaluate, predict
from moezoo.eval.files import Prediction, predict_files
from moezoo.eval.image_transform import image_transform
from moezoo.eval.metrics import compute_metrics, register_metric
from moezoo.eval.robustness import Corrupted, Robustness, robustness
from moezoo.eval.routing import LayerLoad, LoadCounter, first_expert, image_shares, routing_report

__all__ = [
    "CORRUPTIONS",
    "Blur",
    "Classification",
    "Corrupted",
    "Evaluation",
    "LabelReport",
    "LayerLoad",
    "LoadCounter",
    "Noise",
    "Prediction",
    "ReliabilityBin",
    "Robustness",
    "Shift",
    "calibration_error",
    "classification_metrics",
    "compute_metrics",
    "evaluate",
    "first_expert",
    "image_shares",
    "image_transform",
    "predict",
    "predict_files",
    "register_metric",
    "reliability_bins",
    "robustness",
    "routing_report",
]
