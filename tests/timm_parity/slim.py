"""Adapters as small as they go."""

SLIM = {"num_experts": 2, "num_experts_shared": 1, "expert_dim": 8, "mlp_ratio": 0.1}
