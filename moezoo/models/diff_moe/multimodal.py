"""Diff-MoE: an image, and if there is one its text, to logits, features and the losses between them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from moezoo.backbones.inputs import check_images
from moezoo.errors import ConfigError, InputError
from moezoo.models.diff_moe.block import BALANCE_LOSSES, Z_LOSSES
from moezoo.models.diff_moe.config import DiffMoEConfig
from moezoo.models.diff_moe.embed import TextEmbed
from moezoo.models.diff_moe.encoders import NoteLayer, TextEncoder
from moezoo.models.diff_moe.fusion import CrossModalFusion
from moezoo.models.diff_moe.image_path import ImagePath
from moezoo.models.diff_moe.init import init_weights
from moezoo.models.diff_moe.losses import alignment_loss, bounded_scale, contrastive_loss, same_pairs
from moezoo.models.diff_moe.output import DiffMoEOutput, ExpertShares
from moezoo.models.diff_moe.pooling import masked_mean
from moezoo.models.diff_moe.router_losses import router_losses
from moezoo.models.diff_moe.text import check_text
from moezoo.moe import Routing
from moezoo.moe.aux import aux_terms, mark_root
from moezoo.moe.aux_calls import AuxCalls, aux_calls
from moezoo.moe.aux_mode import divide_among
from moezoo.moe.losses import AUX_LOSSES


class MultiModalMoE(ImagePath):
    """Image encoder, text encoder, their fusion and a classifier.

    Args:
        config: What to build. Parts that it does not use are not built: with ``text_encoder_layers=0`` nothing for
            text, with ``num_classes=0`` no classifier.
    """

    takes_text: bool = True
    """Whether ``forward`` takes token ids beside images."""
    tokenizer: Any = None
    """What made the token ids that the model was trained with, where that is known."""

    def __init__(self, config: DiffMoEConfig):
        super().__init__(config, typed=config.has_text)
        self.config = config
        self.takes_text = config.has_text
        self.num_classes = config.num_classes
        self.head_drop = nn.Dropout(config.dropout)
        self.head = nn.Linear(config.embed_dim, config.num_classes) if config.num_classes else nn.Identity()
        self.log_scale: nn.Parameter | None = None
        if config.has_text:
            self.text_embed = TextEmbed(config)
            self.text_encoder = TextEncoder(config)
            if config.fusion:
                self.fusion = CrossModalFusion(config, self.patch_embed.grid_size)
            learns = config.contrastive_loss_weight > 0
            scale = torch.tensor(-math.log(config.temperature_init))
            self.log_scale = nn.Parameter(scale, requires_grad=learns)
        init_weights(self, config.initializer_range)
        self.aux = AuxCalls(
            {"alignment": config.cross_modal_alignment_weight, "contrastive": config.contrastive_loss_weight}
        )
        for calls in aux_calls(self):
            calls.report = True
        mark_root(self)

    def forward(
        self,
        images: Tensor,
        text: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        labels: Tensor | None = None,
    ) -> DiffMoEOutput:
        """Answer images, in the light of their texts where there are some.

        Args:
            images: (B, C, H, W).
            text: (B, L) int64 token ids.
            mask: (B, L) bool, True for real tokens; ``None`` means all are.
            labels: (B,) classes: pairs of one class are positives of each other for the contrastive loss, as pairs
                with the same text always are.

        Raises:
            InputError: A shape, type or token id does not fit, a text is all padding, or the model takes no text.
        """
        self._check(images, text, mask, labels)
        self._share_losses(text)
        shares = {} if torch.compiler.is_compiling() else {name: ExpertShares() for name in self._run(text)}
        note = {name: share.note for name, share in shares.items()}
        image = self.image_features(images, note=note.get("img_encoder"))
        words = fused = None
        if text is not None:
            words = self.text_features(text, mask, note=note.get("text_encoder"))
            image = self._relate(image, words, text, mask, labels)
            if self.config.fusion:
                fused = self.fusion(image, words, mask, note=note.get("fusion"))
        pooled = self.pool(image)
        embeddings = pooled if fused is None else self.pool(fused)
        image_logits = self._classify(pooled)
        return DiffMoEOutput(
            logits=image_logits if fused is None else self._classify(embeddings),
            image_logits=image_logits,
            embeddings=embeddings,
            img_features=image,
            text_features=words,
            fused_features=fused,
            expert_activations=shares or None,
            **self._losses(image),
        )

    def text_features(self, text: Tensor, mask: Tensor | None = None, *, note: NoteLayer | None = None) -> Tensor:
        """(B, L) token ids to the (B, L, D) features of the text encoder, zero at padding."""
        # What stands at padding is not looked at, whatever it is.
        ids = text if mask is None else text.masked_fill(~mask, 0)
        return self.text_encoder(self.text_embed(ids), mask, note=note)

    def encode_image(self, images: Tensor) -> Tensor:
        """(B, C, H, W) images to (B, D): the mean feature, to be compared with texts' by cosine."""
        if hasattr(self, "moezoo_in_chans"):  # a model that ``build`` made
            check_images(self, images)
        return self.mean_of_image(self.image_features(images))

    def encode_text(self, text: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, L) token ids to (B, D): the mean feature of the real tokens, to be compared with images' by cosine."""
        self._check(None, text, mask, None)
        return masked_mean(self.text_features(text, mask), mask)

    @property
    def scale(self) -> Tensor:
        """What cosine similarities are multiplied with: one over the temperature, at most 100."""
        assert self.log_scale is not None, "a model without text has no temperature"
        return bounded_scale(self.log_scale)

    def compute_z_loss(self, logits: Tensor) -> Tensor:
        """The z-loss (``z_loss_type``) of router logits (…, E): a float32 scalar."""
        return AUX_LOSSES[Z_LOSSES[self.config.z_loss_type]](self._routing(logits))

    def compute_load_loss(self, logits: Tensor | Routing) -> Tensor:
        """The load balancing loss (``balance_loss_type``) of router logits (…, E) or of a routing: a float32 scalar."""
        return AUX_LOSSES[BALANCE_LOSSES[self.config.balance_loss_type]](self._routing(logits))

    # What timm's users and tools call.

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, C, H, W) images to (B, N, D) features."""
        return self.image_features(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """(B, N, D) features to logits, or with ``pre_logits`` to what they are made of."""
        return self.pool(x) if pre_logits else self.head(self.head_drop(self.pool(x)))

    def get_classifier(self) -> nn.Module:
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A fresh head for ``num_classes`` classes, or none for 0."""
        if global_pool not in (None, self.global_pool):
            raise ConfigError(
                f"global_pool={global_pool!r} is not possible: the model was built with {self.global_pool!r}."
            )
        self.num_classes = num_classes
        self.head = nn.Identity()
        if num_classes:
            weight = self.patch_embed.proj.weight
            self.head = nn.Linear(self.embed_dim, num_classes, device=weight.device, dtype=weight.dtype)
            init_weights(self.head, self.config.initializer_range)

    def _check(self, images: Tensor | None, text: Any, mask: Any, labels: Any) -> None:
        batch = None if images is None else images.shape[0]
        if text is not None:
            if not self.config.has_text:
                raise InputError("text was given to a model without a text encoder (text_encoder_layers=0).")
            limits = {"vocab_size": self.config.vocab_size, "max_len": self.config.max_text_len}
            check_text(text, mask, batch=batch, **limits)
        elif mask is not None:
            raise InputError("mask was given without text.")
        if labels is not None and (not isinstance(labels, Tensor) or labels.shape != (batch,)):
            got = tuple(getattr(labels, "shape", ())) or repr(labels)[:80]
            raise InputError(f"labels must have the shape ({batch},), a class for every image, got {got}.")

    def _run(self, text: Tensor | None) -> tuple[str, ...]:
        """The stacks that run."""
        if text is None:
            return ("img_encoder",)
        return ("img_encoder", "text_encoder", "fusion") if self.config.fusion else ("img_encoder", "text_encoder")

    def _share_losses(self, text: Tensor | None) -> None:
        """Attached losses that are means over the layers are means over those that run."""
        if self.training and self.aux.attached and self.config.layer_reduction == "mean":
            divide_among([calls for name in self._run(text) for calls in aux_calls(getattr(self, name))])

    def _relate(self, image: Tensor, words: Tensor, text: Tensor, mask: Tensor | None, labels: Tensor | None) -> Tensor:
        """Add the losses between images and texts; returns ``image``, on which they ride where they are attached."""
        if not self.training:
            return image
        pooled, told = self.mean_of_image(image), masked_mean(words, mask)
        terms = {
            "alignment": alignment_loss(pooled, told),
            "contrastive": contrastive_loss(pooled, told, self.scale, same_pairs(text, mask, labels)),
        }
        if self.aux.attached:
            return self.aux.attach_terms(image, terms) if torch.is_grad_enabled() else image
        self.aux.add_terms(terms)
        return image

    def _losses(self, like: Tensor) -> Mapping[str, Tensor]:
        terms, zero = aux_terms(self), torch.zeros((), device=like.device)
        return {
            **router_losses(self, self.config, terms, zero),
            "cross_modal_loss": terms.get("alignment", zero),
            "contrastive_loss": terms.get("contrastive", zero),
        }

    def _classify(self, pooled: Tensor) -> Tensor | None:
        return self.head(self.head_drop(pooled)) if self.num_classes else None

    def _routing(self, logits: Tensor | Routing) -> Routing:
        if isinstance(logits, Routing):
            return logits
        return Routing.from_logits(logits.reshape(-1, logits.shape[-1]), self.config.top_k)
