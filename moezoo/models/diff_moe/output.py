"""What the models of this family answer: attributes, and a mapping of those that are there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor
from torch.utils._pytree import register_dataclass

from moezoo.models.fields import FieldMapping
from moezoo.moe import Routing


@dataclass(frozen=True, eq=False)
class DiffMoEOutput(FieldMapping):
    """B images, N image tokens, L text tokens, width D. Without text, what comes of it is ``None``."""

    logits: Tensor | None = None
    """(B, classes): of the fusion where text was given, else of the image."""
    image_logits: Tensor | None = None
    """(B, classes) of the image path alone, whatever the text says; without text the same tensor as ``logits``."""
    embeddings: Tensor | None = None
    """(B, D) what ``logits`` are made of."""
    img_features: Tensor | None = None
    """(B, N, D) of the image encoder."""
    text_features: Tensor | None = None
    """(B, L, D) of the text encoder; zero at padding."""
    fused_features: Tensor | None = None
    """(B, N, D) of the fusion."""
    router_loss: Tensor | None = None
    """The weighted sum of the four below: what :func:`moezoo.aux_loss` says. Add one of the two, never both."""
    router_z_loss: Tensor | None = None
    """Over all layers, unweighted, as the next."""
    router_balance_loss: Tensor | None = None
    cross_modal_loss: Tensor | None = None
    """Alignment of image and text, unweighted; 0 without text."""
    contrastive_loss: Tensor | None = None
    """Unweighted; 0 without text."""
    expert_activations: Mapping[str, Mapping[str, Tensor]] | None = None
    """``img_encoder``, ``text_encoder`` and ``fusion`` to ``layer_0``, … to (E,) the share of the assignments that
    each general expert got. Counted when read; ``None`` from a compiled model."""


register_dataclass(DiffMoEOutput)


@dataclass(frozen=True, eq=False)
class CaptionerOutput(FieldMapping):
    """Of B images and texts of L tokens."""

    logits: Tensor | None = None
    """(B, L, V): at place i those of the token that follows it."""
    img_features: Tensor | None = None
    """(B, N, D) of the image encoder."""
    router_loss: Tensor | None = None
    """The weighted sum of the two below: what :func:`moezoo.aux_loss` says. Add one of the two, never both."""
    router_z_loss: Tensor | None = None
    """Over all layers, unweighted, as the next."""
    router_balance_loss: Tensor | None = None
    expert_activations: Mapping[str, Mapping[str, Tensor]] | None = None
    """``img_encoder`` to ``layer_0``, … to (E,) the share of the assignments that each general expert got."""


register_dataclass(CaptionerOutput)


class ExpertShares(Mapping[str, Tensor]):
    """The layers of one stack to (E,) each expert's share of their assignments, counted when read."""

    def __init__(self) -> None:
        self._chosen: dict[str, tuple[Tensor, Tensor, int]] = {}

    def note(self, layer: int, routing: Routing) -> None:
        # Neither of them has a graph that would be kept alive.
        self._chosen[f"layer_{layer}"] = (routing.expert_index, routing.dropped, routing.num_experts)

    def __getitem__(self, key: str) -> Tensor:
        expert_N, dropped_N, num_experts = self._chosen[key]
        counts_E = expert_N[~dropped_N].bincount(minlength=num_experts)
        return counts_E / counts_E.sum().clamp_min(1)

    def __iter__(self) -> Iterator[str]:
        return iter(self._chosen)

    def __len__(self) -> int:
        return len(self._chosen)
