"""What the experts of a layer are for."""

from __future__ import annotations

from torch import nn


def expert_labels(model: nn.Module, layer: str, num_experts: int) -> tuple[str, list[str]]:
    """Kind (``scale``, ``modality`` or ``expert``) and a label for each expert.

    The nearest module above the layer that names its experts does so by ``expert_labels``: a pair of kind and labels.

    Args:
        model: Whose layer it is.
        layer: Path of the MoE layer.
        num_experts: Its experts.
    """
    parents = layer.split(".")[:-1] if layer else []
    for end in range(len(parents), -1, -1):
        named = getattr(model.get_submodule(".".join(parents[:end])), "expert_labels", None)
        if named is not None and len(named[1]) == num_experts:
            return named[0], list(named[1])
    return "expert", [f"expert {number}" for number in range(num_experts)]
