"""SAM (Kirillov et al. 2023, "Segment Anything"): transformers' model, which also shows what its encoder saw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import SamModel
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.sam.modeling_sam import SamImageSegmentationOutput

from moezoo.backbones.hf.recompute import recompute


@dataclass
class SamOutput(SamImageSegmentationOutput):
    """transformers' output (``pred_masks``, ``iou_scores``, …) and what the image encoder saw.

    ``vision_outputs.last_hidden_state`` are the tokens (B, L, D) of the encoder's last layer, before its neck.
    """

    vision_outputs: BaseModelOutput | None = None


class Sam(SamModel):
    """transformers' SAM, its output extended by ``vision_outputs``.

    In training the encoder's four layers of global attention are recomputed in the backward pass: attention among 4,096
    tokens would keep 1.6 GB each. :meth:`set_grad_checkpointing` recomputes all layers, or none.
    """

    def __init__(self, config: Any):
        super().__init__(config)
        recompute(self.vision_encoder.layers[i] for i in config.vision_config.global_attn_indexes)

    def forward(self, pixel_values: Tensor | None = None, **kwargs: Any) -> Any:
        """As in transformers; images (B, 3, 1024, 1024), or ``image_embeddings`` in their place."""
        if pixel_values is None:
            return super().forward(**kwargs)
        if torch.compiler.is_compiling():  # a graph cannot add a hook
            tokens = self._tokens(pixel_values)
            output = super().forward(image_embeddings=self.vision_encoder.neck(tokens), **kwargs)
        else:
            seen: list[Tensor] = []
            handle = self.vision_encoder.neck.register_forward_pre_hook(lambda neck, args: seen.append(args[0]))
            try:
                output = super().forward(pixel_values, **kwargs)
            finally:
                handle.remove()
            tokens = seen[-1]
        if isinstance(output, tuple):
            return output
        return SamOutput(**output, vision_outputs=BaseModelOutput(last_hidden_state=tokens.flatten(1, 2)))

    def _tokens(self, pixel_values: Tensor) -> Tensor:
        """(B, C, H, W) images to the (B, H/16, W/16, D) tokens that the encoder's neck gets."""
        encoder = self.vision_encoder
        tokens = encoder.patch_embed(pixel_values)
        if encoder.pos_embed is not None:
            tokens = tokens + encoder.pos_embed
        for layer in encoder.layers:
            tokens = layer(tokens)
        return tokens

    @property
    def feature_info(self) -> list[dict[str, Any]]:
        """timm's description of the one map there is: the neck's."""
        config: Any = self.config.vision_config
        return [{"num_chs": config.output_channels, "reduction": config.patch_size, "module": "vision_encoder.neck"}]

    def forward_intermediates(self, x: Tensor, indices: Sequence[int], **_: Any) -> list[Tensor]:
        """(B, 3, H, W) images to the neck's map (B, 256, H/16, W/16), in a list."""
        return [self.vision_encoder(x).last_hidden_state for _ in indices]

    def prune_intermediate_layers(self, indices: Sequence[int], **_: Any) -> list[int]:
        """Drop the prompt encoder and the mask decoder."""
        del self.prompt_encoder, self.mask_decoder, self.shared_image_embedding
        return list(indices)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the encoder's layers in the backward pass instead of keeping what they computed."""
        recompute(self.modules(), enable)
