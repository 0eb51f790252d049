"""What timm's users and tools call on the model."""

from __future__ import annotations

from typing import Any

import torch
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from moezoo.errors import ConfigError
from moezoo.models.attention_routing.aggregators import Aggregator
from moezoo.models.attention_routing.config import AttentionRoutingConfig
from moezoo.models.attention_routing.costs import map_sizes
from moezoo.models.attention_routing.encoder import Encoder
from moezoo.models.attention_routing.head import TaskHead


class ImageModel(nn.Module):
    """Base class with timm's methods; the parts are built by the subclass."""

    routing_modules = ("encoder", "attention")
    """What only finds out where to look: reports of FLOPs also say what is left without these."""

    encoder: Encoder | None
    head: TaskHead
    aggregator: Aggregator

    def __init__(self, config: AttentionRoutingConfig):
        super().__init__()
        self.config = config
        self.num_classes = config.num_classes
        self.num_features = config.aggregator_dim
        self.head_hidden_size = config.head_hidden_dim
        self.grad_checkpointing = False
        self.feature_info = [
            {"module": f"encoder.layers.{i}", "num_chs": layer.out_channels, "reduction": config.sides[0] / height}
            for i, (layer, (height, _)) in enumerate(map_sizes(config))
        ]
        self.pretrained_cfg = self.default_cfg = config.data_description(
            architecture="attention_routing",
            fixed_input_size=True,
            first_conv="encoder.layers.0.conv",
            classifier="head.classifier",
        )

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """(B, D) of ``forward_features`` to logits, or with ``pre_logits`` to what they are made of."""
        return self.head(x, pre_logits)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """The encoder's maps (B, D, H, W) behind the layers at ``indices``.

        Args:
            x: (B, C, H, W) images.
            indices: Layers; ``n`` means the last n, ``None`` all.
            norm: Every layer has its own already; nothing further is done.
            stop_early: The encoder is all that runs, to its end in any case.
            output_fmt: ``NCHW``.
            intermediates_only: Leave out the final map.

        Returns:
            The list of them, behind the final map unless ``intermediates_only``.
        """
        del norm, stop_early
        assert output_fmt == "NCHW", "output_fmt must be NCHW"
        maps = self._required_encoder().maps(x)
        taken, _ = feature_take_indices(len(maps), indices)
        found = [maps[i] for i in taken]
        return found if intermediates_only else (maps[-1], found)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Leave what intermediate features need: the encoder up to the last index."""
        del prune_norm
        encoder = self._required_encoder()
        taken, last = feature_take_indices(len(encoder.layers), indices)
        encoder.layers = encoder.layers[: last + 1]
        for name, _ in list(self.named_children()):
            if name != "encoder" and (prune_head or name != "head"):
                delattr(self, name)
        return taken

    def _required_encoder(self) -> Encoder:
        """The encoder.

        Raises:
            ConfigError: The variant has none.
        """
        if self.encoder is None:
            variant = "dense=True" if self.config.dense else f"compute={self.config.compute!r}"
            raise ConfigError(f"intermediate features are not possible with {variant}: it has no encoder.")
        return self.encoder

    def get_classifier(self) -> nn.Module:
        return self.head.classifier

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A fresh classifier for ``num_classes`` classes, or none for 0."""
        if global_pool is not None:
            raise ConfigError(f"global_pool={global_pool!r} is not possible: aggregator= says how cells are pooled.")
        self.num_classes = num_classes
        self.head.reset(num_classes)

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the encoder's layers and the MLPs in the backward pass, or stop doing so."""
        self.grad_checkpointing = enable
        if self.encoder is not None:
            self.encoder.grad_checkpointing = enable

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """The threshold, and what pools by attention."""
        return {
            name for name, _ in self.named_parameters() if name.endswith(("threshold_logit", "aggregator.query.weight"))
        }

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """timm's patterns for layer-wise learning rates."""
        stem = r"^encoder" if coarse else r"^encoder\.layers\.0"
        return {
            "stem": stem,
            "blocks": [(r"^encoder\.layers\.(\d+)", None), (r"^(?:attention|moe|plain|aggregator)", (99999,))],
        }
