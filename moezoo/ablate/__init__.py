"""Ablations: one thing of a recipe changed at a time, every change a training run that a kill does not cost."""

from moezoo.ablate.dials import DIALS
from moezoo.ablate.plan import Factor, Plan, resolve_plan
from moezoo.ablate.result import Ablation, Row
from moezoo.ablate.run import ablate

__all__ = ["DIALS", "Ablation", "Factor", "Plan", "Row", "ablate", "resolve_plan"]
