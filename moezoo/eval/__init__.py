"""Measuring a model: how often it is right, how well it knows that, and where its tokens went."""

from moezoo.eval.boxes import BoxOverlap
from moezoo.eval.budget import BudgetLatency, BudgetReport
from moezoo.eval.calibration import ReliabilityBin, calibration_error, reliability_bins
from moezoo.eval.captioned import evaluate_captions, evaluate_retrieval
from moezoo.eval.captions import Captioned, CaptionReport, caption_metrics
from moezoo.eval.classification import Classification, LabelReport, classification_metrics
from moezoo.eval.comparison import ComparedModel, Comparison, compare_models
from moezoo.eval.compute import ComputeUse
from moezoo.eval.corruptions import CORRUPTIONS, Blur, Noise, Shift
from moezoo.eval.evaluate import Evaluation, evaluate, predict
from moezoo.eval.files import Prediction, predict_files
from moezoo.eval.front import FrontPoint, at_budget, budget_latency, evaluate_front
from moezoo.eval.image_transform import image_transform
from moezoo.eval.metrics import compute_metrics, register_metric
from moezoo.eval.part import evaluate_part
from moezoo.eval.reading import class_prototypes, zero_shot_logits
from moezoo.eval.retrieval import Recall, Retrieval, retrieval_metrics
from moezoo.eval.robustness import Corrupted, Robustness, robustness
from moezoo.eval.routing import LayerLoad, LoadCounter, first_expert, image_shares, routing_report
from moezoo.eval.spread import Spread
from moezoo.eval.text_report import TextReport, evaluate_text, text_report, zero_shot
from moezoo.eval.wrapper import ModelWrapper, RouterDecision

__all__ = [
    "CORRUPTIONS",
    "Blur",
    "BoxOverlap",
    "BudgetLatency",
    "BudgetReport",
    "CaptionReport",
    "Captioned",
    "Classification",
    "ComparedModel",
    "Comparison",
    "ComputeUse",
    "Corrupted",
    "Evaluation",
    "FrontPoint",
    "LabelReport",
    "LayerLoad",
    "LoadCounter",
    "ModelWrapper",
    "Noise",
    "Prediction",
    "Recall",
    "ReliabilityBin",
    "Retrieval",
    "Robustness",
    "RouterDecision",
    "Shift",
    "Spread",
    "TextReport",
    "at_budget",
    "budget_latency",
    "calibration_error",
    "caption_metrics",
    "compare_models",
    "class_prototypes",
    "classification_metrics",
    "compute_metrics",
    "evaluate",
    "evaluate_captions",
    "evaluate_front",
    "evaluate_part",
    "evaluate_retrieval",
    "evaluate_text",
    "first_expert",
    "image_shares",
    "image_transform",
    "predict",
    "predict_files",
    "register_metric",
    "reliability_bins",
    "retrieval_metrics",
    "robustness",
    "routing_report",
    "text_report",
    "zero_shot",
    "zero_shot_logits",
]
