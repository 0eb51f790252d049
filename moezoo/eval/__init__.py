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
from moezoo.eval.embed import Embedded, Embeddings, embed_files, embed_stream
from moezoo.eval.evaluate import Evaluation, evaluate, predict
from moezoo.eval.explanation import (
    ActivationPatterns,
    ExplainableMoE,
    Explanation,
    analyze_expert_activation_patterns,
    explain_decision,
)
from moezoo.eval.files import Prediction, predict_files
from moezoo.eval.front import FrontPoint, at_budget, budget_latency, evaluate_front
from moezoo.eval.image_transform import image_transform
from moezoo.eval.metrics import compute_metrics, register_metric
from moezoo.eval.part import evaluate_part
from moezoo.eval.reading import class_prototypes, zero_shot_logits
from moezoo.eval.reid.evaluate import evaluate_reid
from moezoo.eval.reid.features import ReidFeatures, embed_batch, extract_features
from moezoo.eval.reid.matches import TopMatches, top_matches
from moezoo.eval.reid.metrics import ReidMetrics, reid_metrics
from moezoo.eval.reid.missing import MissingMatrix, missing_modality_matrix
from moezoo.eval.reid.report import ReidReport, report_reid
from moezoo.eval.reid.rerank import RerankOptions, rerank_distances
from moezoo.eval.reid.usage import MoEUsage, UsageCounter, moe_usage
from moezoo.eval.retrieval import Recall, Retrieval, retrieval_metrics
from moezoo.eval.robustness import Corrupted, Robustness, robustness
from moezoo.eval.routing import LayerLoad, LoadCounter, first_expert, image_shares, routing_report
from moezoo.eval.spread import Spread
from moezoo.eval.text_report import TextReport, evaluate_text, text_report, zero_shot
from moezoo.eval.wrapper import ModelWrapper, RouterDecision

__all__ = [
    "MissingMatrix",
    "MoEUsage",
    "ReidFeatures",
    "ReidMetrics",
    "ReidReport",
    "RerankOptions",
    "TopMatches",
    "UsageCounter",
    "embed_batch",
    "embed_files",
    "embed_stream",
    "evaluate_reid",
    "extract_features",
    "missing_modality_matrix",
    "moe_usage",
    "reid_metrics",
    "report_reid",
    "rerank_distances",
    "top_matches",
    "CORRUPTIONS",
    "Blur",
    "ActivationPatterns",
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
    "Embedded",
    "Embeddings",
    "Evaluation",
    "ExplainableMoE",
    "Explanation",
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
    "analyze_expert_activation_patterns",
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
    "explain_decision",
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
