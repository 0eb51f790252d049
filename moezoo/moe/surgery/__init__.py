"""Surgery on trained mixtures: experts are removed, merged and added, and what it changed is measured."""

from moezoo.moe.surgery.add import add_experts
from moezoo.moe.surgery.merge import merge_experts
from moezoo.moe.surgery.prune import prune_experts
from moezoo.moe.surgery.report import LayerSurgery, SurgeryReport

__all__ = ["LayerSurgery", "SurgeryReport", "add_experts", "merge_experts", "prune_experts"]
