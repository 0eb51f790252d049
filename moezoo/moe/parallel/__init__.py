"""Expert parallelism: each process keeps some of every layer's experts, and tokens travel to them and back.

The router, its losses and the combination stay as they are: the rows of a plan are what travels.
"""

from moezoo.moe.parallel.apply import apply_expert_parallel, expert_parameters, gather_experts

__all__ = ["apply_expert_parallel", "expert_parameters", "gather_experts"]
