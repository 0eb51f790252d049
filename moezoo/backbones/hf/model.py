"""A transformers vision model that answers as a timm model does: images in, logits out, features on request."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from moezoo.backbones.hf.config import channels, image_size
from moezoo.backbones.hf.encoder import vision_part
from moezoo.backbones.hf.recompute import recompute
from moezoo.backbones.hf.taps import feature_info, feature_sites, run_with_taps
from moezoo.backbones.prefix import hide_prefix
from moezoo.backbones.site import Site
from moezoo.backbones.trace import trace
from moezoo.errors import ConfigError, InputError


class TransformersModel(nn.Module):
    """The image classifier that transformers has for a configuration, or else its image encoder with a linear head.

    ``model`` is transformers' own module, and its state-dict keys are this module's too.

    Args:
        config: A ``PretrainedConfig``.
        num_classes: Classes; 0 gives pooled features.
    """

    wraps_transformers = True

    def __init__(self, config: Any, num_classes: int):
        super().__init__()
        from transformers import AutoModel, AutoModelForImageClassification

        self.input_size = (channels(config), *image_size(config))
        config.num_labels = max(num_classes, 1)  # some classifiers cannot be built without a class
        self.has_head = type(config) in AutoModelForImageClassification._model_mapping
        if self.has_head:
            self.model = AutoModelForImageClassification.from_config(config)
            self.num_features = self.get_classifier().in_features
        else:
            self.model = vision_part(AutoModel.from_config(config))[1]
            output = trace(self.model, self.input_size).output
            # The output of a neck behind the last block lies as a convolution leaves it.
            self.channels_last = output.last_hidden_state.shape[-1] == self._sites[-1].dim
            self.num_features = self._pool(output).shape[-1]
            self.classifier = nn.Linear(self.num_features, max(num_classes, 1))
        self.head_hidden_size = self.num_features
        self.num_classes = max(num_classes, 1)
        hide_prefix(self)
        if num_classes == 0:
            self.reset_classifier(0)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) images to (B, classes) logits, or (B, D) features without a classifier."""
        try:
            output = self.model(pixel_values=x)
        except ValueError as error:  # transformers' word for images of another size
            if tuple(x.shape[1:]) == self.input_size:
                raise
            raise InputError(
                f"images must be (batch, {', '.join(map(str, self.input_size))}), got {tuple(x.shape)}: {error}"
            ) from error
        return output.logits if self.has_head else self.classifier(self._pool(output))

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, C, H, W) images to the encoder's last hidden state, in the layout the encoder has."""
        encoder: Any = vision_part(self.model)[1]
        encoder = self.model.base_model if self.has_head and encoder is self.model else encoder
        return encoder(pixel_values=x).last_hidden_state

    def forward_tokens(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) images to the encoder's last hidden state and a (B, D) feature of all of it: what the encoder
        pools, else its class token, else the mean."""
        encoder: Any = vision_part(self.model)[1]
        encoder = self.model.base_model if self.has_head and encoder is self.model else encoder
        output = encoder(pixel_values=x)
        hidden, own = output.last_hidden_state, getattr(output, "pooler_output", None)
        if own is not None:
            return hidden, own.flatten(1)
        prefix = hidden.dim() == 3 and self._sites and self._sites[-1].prefix_tokens
        return hidden, hidden[:, 0] if prefix else self._mean(hidden)

    def forward_intermediates(self, x: Tensor, indices: Sequence[int], **_: Any) -> list[Tensor]:
        """(B, C, H, W) images to the (B, C_i, H_i, W_i) maps of ``indices`` in :attr:`feature_info`."""
        return run_with_taps(self.model, x, [self._sites[i] for i in indices])

    @property
    def feature_info(self) -> list[dict[str, Any]]:
        """Channels, reduction and module of each map that :meth:`forward_intermediates` can give."""
        return feature_info(self._sites, self.input_size[1])

    def prune_intermediate_layers(self, indices: Sequence[int], **_: Any) -> list[int]:
        """Drop the classifier; transformers' models run to their end."""
        self.reset_classifier(0)
        return list(indices)

    def get_classifier(self) -> Any:
        """The linear classifier, or the identity in its place."""
        head = self.model.classifier if self.has_head else self.classifier
        return head[-1] if isinstance(head, nn.Sequential) else head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A fresh classifier of ``num_classes``; 0 removes it.

        Raises:
            ConfigError: ``global_pool`` is given; the pooling is transformers' own.
        """
        if global_pool is not None:
            raise ConfigError(
                f"global_pool={global_pool!r} is not possible: the pooling of a transformers model is its own."
            )
        like = next(self.model.parameters())
        head = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()
        head.to(device=like.device, dtype=like.dtype)
        owner = self.model if self.has_head else self
        if isinstance(owner.classifier, nn.Sequential):
            owner.classifier[-1] = head
        else:
            owner.classifier = head
        self.num_classes = num_classes
        if self.has_head:
            self.model.num_labels = self.model.config.num_labels = num_classes

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the blocks in the backward pass instead of keeping what they computed."""
        recompute(self.modules(), enable)

    @functools.cached_property
    def _sites(self) -> list[Site]:
        return feature_sites(self.model, self.input_size)

    def _pool(self, output: Any) -> Tensor:
        """(B, D): what the encoder itself pools, or else the mean over all positions."""
        own = getattr(output, "pooler_output", None)
        return self._mean(own if own is not None else output.last_hidden_state)

    def _mean(self, features: Tensor) -> Tensor:
        if features.dim() == 4:
            return features.mean(dim=(1, 2) if self.channels_last else (2, 3))
        return features.mean(dim=1) if features.dim() == 3 else features
