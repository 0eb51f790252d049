"""The model: backbone → windows → fusion of scales, added to the global feature → necks and classifiers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from moezoo.models.multiscale_moe.backbone import TokenLayout, tokens_and_global
from moezoo.models.multiscale_moe.config import MultiScaleMoEConfig
from moezoo.models.multiscale_moe.fuse import Fused, build_structure
from moezoo.models.multiscale_moe.image_model import ReidImageModel
from moezoo.models.multiscale_moe.images import Seen, look
from moezoo.models.multiscale_moe.neck import BNNeck
from moezoo.models.multiscale_moe.output import ReidOutput
from moezoo.models.multiscale_moe.windows import ScaleWindows
from moezoo.moe.aux import mark_root

Pairs = list[tuple[Tensor, Tensor]]
WHOLE = "all"
"""Name of the classifier that sees all modalities together."""


class MultiScaleReid(ReidImageModel):
    """A sighting in M modalities to a feature by which it is found again.

    Args:
        config: What to build.
        trunks: The backbone, or one for each modality.
        layout: How their features lie.
    """

    def __init__(self, config: MultiScaleMoEConfig, trunks: Sequence[nn.Module], layout: TokenLayout):
        super().__init__(config, trunks)
        D = config.feat_dim
        self.layout = layout
        self.token_proj = _projection(layout.dim, D)
        self.global_proj = _projection(layout.pooled_dim, D)
        self.windows = ScaleWindows(D, config.scales, layout.grid, mode=config.window_mode, op=config.window_op)
        self.fusion = build_structure(config, self.windows.windows)
        self.necks = nn.ModuleDict({name: nn.Identity() for name in config.modalities})
        self.classifiers = nn.ModuleDict()
        self.reset_classifier(config.num_classes)
        mark_root(self)

    def forward(
        self, images: Tensor, present: Tensor | None = None, *, return_weights: bool = False
    ) -> Tensor | Pairs | ReidOutput:
        """What sightings look like.

        Args:
            images: (B, M, C, H, W) in the order of :attr:`modalities`; (B, C, H, W) is the first modality alone.
            present: (B, M) bool, in evaluation: which modalities each sighting has; ``None`` means all. What is
                missing in the whole batch is not computed, but in a compiled or exported graph.
            return_weights: Answer a mapping, with the gates' weights.

        Returns:
            In evaluation (B, M * D) features, not normalised, zeros where a modality is missing. In training
            (score, feature) pairs for each modality, then (of several) for all together; without identities to learn
            the features. A :class:`ReidOutput` with ``return_weights``.

        Raises:
            InputError: A shape or type does not fit, or a sighting has no modality.
        """
        seen = self._look(images, present)
        fused = self._fused(seen)
        features, pairs, logits = self._heads(fused.features, seen, scores=return_weights)
        if return_weights:
            weights, gates = fused.scale_weights, fused.modality_weights
            return ReidOutput(features, logits, pairs, weights, gates)
        return features if pairs is None else pairs

    def forward_features(self, images: Tensor, present: Tensor | None = None) -> Tensor:
        """(B, M, D) each modality's global feature with the fused scales added, before the necks."""
        return self._fused(self._look(images, present)).features

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """(B, M, D) of ``forward_features`` to (B, M * D) features, or (``pre_logits``) those before the necks."""
        return x.flatten(1) if pre_logits else self._necked(x).flatten(1)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Fresh classifiers for ``num_classes`` identities, or none for 0.

        Where nothing would see what comes out of the necks (no classifier, and ``neck_feature="before"``), there are
        none; else those that are there stay.
        """
        self._check_pooling(global_pool)
        self.num_classes = num_classes
        widths = dict.fromkeys(self.modalities, self.config.feat_dim)
        if len(widths) > 1:
            widths[WHOLE] = self.config.embed_dim
        like = next(self.windows.parameters())
        kind = BNNeck if num_classes or self.config.neck_feature == "after" else nn.Identity
        for name, neck in self.necks.items():
            if not isinstance(neck, kind):
                self.necks[name] = kind(self.config.feat_dim).to(like.device, like.dtype)
        self.classifiers = nn.ModuleDict()
        for name, width in widths.items() if num_classes else ():
            head = nn.Linear(width, num_classes, bias=False)
            nn.init.normal_(head.weight, std=0.001)
            self.classifiers[name] = head.to(like.device, like.dtype)

    def _look(self, images: Tensor, present: Tensor | None) -> Seen:
        return look(images, present, self.modalities, self.input_size, training=self.training)

    def _fused(self, seen: Seen) -> Fused:
        tokens, pooled = self._backbone(seen)
        scales = self.windows(self.token_proj(tokens))
        return self.fusion(self.global_proj(pooled).unflatten(0, seen.images.shape[:2]), scales, seen)

    def _backbone(self, seen: Seen) -> tuple[Tensor, Tensor]:
        """(B * m, L, D) tokens and (B * m, D) global features, a sighting's modalities one after the other."""
        if self.config.shared_backbone:
            feature, pooled = tokens_and_global(self.backbone, seen.images.flatten(0, 1))
            return self.layout.tokens(feature), pooled
        each = [
            tokens_and_global(self.backbone[self.modalities[column]], seen.images[:, i])  # type: ignore[index]
            for i, column in enumerate(seen.columns)
        ]
        tokens = torch.stack([self.layout.tokens(feature) for feature, _ in each], 1)
        return tokens.flatten(0, 1), torch.stack([pooled for _, pooled in each], 1).flatten(0, 1)

    def _necked(self, features_BMD: Tensor) -> Tensor:
        columns = features_BMD.unbind(1)
        return torch.stack([neck(x) for neck, x in zip(self.necks.values(), columns, strict=True)], 1)

    def _heads(self, raw_BMD: Tensor, seen: Seen, *, scores: bool) -> tuple[Tensor, Pairs | None, Tensor | None]:
        """(B, M * D) features, and with identities to learn the pairs in training and the scores of all together."""
        necked = seen.blank_missing(self._necked(raw_BMD))
        features = (necked if self.config.neck_feature == "after" else raw_BMD).flatten(1)
        if not self.classifiers or not (scores or self.training):
            return features, None, None
        inputs = dict(zip(self.modalities, zip(necked.unbind(1), raw_BMD.unbind(1), strict=True), strict=True))
        if len(inputs) > 1:
            inputs[WHOLE] = (necked.flatten(1), raw_BMD.flatten(1))
        if not self.training:
            name = list(inputs)[-1]
            return features, None, self.classifiers[name](inputs[name][0])
        pairs = [(self.classifiers[name](behind), before) for name, (behind, before) in inputs.items()]
        return features, pairs, pairs[-1][0]


def _projection(width: int, dim: int) -> nn.Module:
    return nn.Identity() if width == dim else nn.Linear(width, dim)
