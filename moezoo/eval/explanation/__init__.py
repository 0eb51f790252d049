"""Explaining single decisions, and what a model's experts are used for over many of them."""

from moezoo.eval.explanation.explain import ExplainableMoE, explain_decision
from moezoo.eval.explanation.faithfulness import Faithfulness
from moezoo.eval.explanation.patterns import (
    ActivationPatterns,
    ContentRelation,
    analyze_expert_activation_patterns,
)
from moezoo.eval.explanation.region import Region
from moezoo.eval.explanation.result import Case, ExpertPart, Explanation, ModalityPart

__all__ = [
    "ActivationPatterns",
    "Case",
    "ContentRelation",
    "ExpertPart",
    "ExplainableMoE",
    "Explanation",
    "Faithfulness",
    "ModalityPart",
    "Region",
    "analyze_expert_activation_patterns",
    "explain_decision",
]
