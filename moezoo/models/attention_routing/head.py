"""The task head."""

from __future__ import annotations

from torch import Tensor, nn


class TaskHead(nn.Module):
    """(B, D) to (B, classes): a hidden layer, dropout, a classifier.

    Args:
        dim: D.
        hidden_dim: Width of the hidden layer.
        num_classes: 0 leaves the classifier out.
        dropout: Before it.
    """

    def __init__(self, dim: int, hidden_dim: int, num_classes: int, dropout: float):
        super().__init__()
        self.hidden = nn.Linear(dim, hidden_dim)
        self.drop = nn.Dropout(dropout)
        self.classifier: nn.Module = nn.Linear(hidden_dim, num_classes) if num_classes else nn.Identity()

    def reset(self, num_classes: int) -> None:
        """A fresh classifier."""
        weight = self.hidden.weight
        self.classifier = nn.Identity()
        if num_classes:
            self.classifier = nn.Linear(len(weight), num_classes, device=weight.device, dtype=weight.dtype)

    def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """With ``pre_logits`` what the classifier is given, without dropout."""
        hidden = self.hidden(x).relu()
        return hidden if pre_logits else self.classifier(self.drop(hidden))
