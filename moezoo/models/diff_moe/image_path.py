"""The image path that the family's models share, with the methods timm's users expect of it."""

from __future__ import annotations

import re
from typing import Any

import torch
from timm.layers import to_2tuple
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from moezoo.errors import InputError
from moezoo.models.diff_moe.config import DiffMoEConfig
from moezoo.models.diff_moe.embed import ImageEmbed, patch_embed
from moezoo.models.diff_moe.encoders import ImageEncoder, NoteLayer, Stack
from moezoo.models.diff_moe.pooling import masked_mean


class ImagePath(nn.Module):
    """Patches → tokens → image encoder. Base class of the family's models.

    Args:
        config: The model's.
        typed: Add what tells image tokens from text tokens.
    """

    def __init__(self, config: DiffMoEConfig, *, typed: bool):
        super().__init__()
        self.patch_embed = patch_embed(config)
        grid = self.patch_embed.grid_size
        self.image_embed = ImageEmbed(config, grid, typed=typed)
        self.img_encoder = ImageEncoder(config, grid)
        self.global_pool = config.global_pool
        self.dynamic_img_size = config.dynamic_img_size
        self.num_features = self.head_hidden_size = self.embed_dim = config.embed_dim
        self.num_prefix_tokens = self.image_embed.prefix_tokens
        self.grad_checkpointing = config.use_gradient_checkpointing
        self.feature_info = [
            {"module": f"img_encoder.blocks.{i}", "num_chs": config.embed_dim, "reduction": config.patch_size}
            for i in range(config.img_encoder_layers)
        ]
        self.pretrained_cfg = self.default_cfg = config.data_description(
            architecture="diff_moe",
            fixed_input_size=not config.dynamic_img_size,
            first_conv="patch_embed.proj",
            classifier="head",
        )

    def image_tokens(self, images: Tensor) -> Tensor:
        """(B, C, H, W) images to the (B, N, D) tokens that the image encoder is given, the class token first.

        Raises:
            InputError: The sides of an image are no multiples of a patch's, where images may have any size.
        """
        side = self.patch_embed.patch_size[0]
        if self.dynamic_img_size and any(length % side for length in images.shape[2:]):
            raise InputError(f"images must have sides divisible by patch_size={side}, got {tuple(images.shape)}.")
        patches = self.patch_embed(images)
        self._place_tokens((patches.shape[1], patches.shape[2]))
        return self.image_embed(patches)

    def image_features(self, images: Tensor, *, note: NoteLayer | None = None) -> Tensor:
        """(B, C, H, W) images to the (B, N, D) features of the image encoder."""
        return self.img_encoder(self.image_tokens(images), note=note)

    def _place_tokens(self, grid: tuple[int, int]) -> None:
        """Tell the stacks over image tokens where those lie; it changes with the image's size alone."""
        for stack in self._stacks():
            if hasattr(stack, "grid") and stack.grid != grid:
                stack.grid = grid  # type: ignore[assignment]

    def _stacks(self) -> list[Stack]:
        return [module for module in self.children() if isinstance(module, Stack)]

    def pool(self, tokens: Tensor) -> Tensor:
        """(B, N, D) image tokens to (B, D), as ``global_pool`` says."""
        return tokens[:, 0] if self.global_pool == "cls" else tokens.mean(1)

    def mean_of_image(self, tokens: Tensor) -> Tensor:
        """(B, N, D) image tokens to (B, D), the mean over the patches."""
        return masked_mean(tokens[:, self.num_prefix_tokens :])

    # What timm's users and tools call.

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """Features (B, D, H, W) or, with ``output_fmt="NLC"``, (B, N, D) behind the blocks at ``indices``.

        Args:
            x: (B, C, H, W) images.
            indices: Blocks; ``n`` means the last n, ``None`` all.
            return_prefix_tokens: Give (features, class token) pairs.
            norm: Apply the encoder's final norm to each.
            stop_early: Run no block behind the last index.
            output_fmt: ``NCHW`` or ``NLC``.
            intermediates_only: Leave out the final features.

        Returns:
            The list of them, behind the final features unless ``intermediates_only``.
        """
        assert output_fmt in ("NCHW", "NLC"), "output_fmt must be NCHW or NLC"
        encoder = self.img_encoder
        taken, last = feature_take_indices(len(encoder.blocks), indices)
        x = self.image_tokens(x)
        grid, prefix = encoder.grid, self.num_prefix_tokens
        found: list[Any] = []
        for index in range(last + 1 if stop_early else len(encoder.blocks)):
            x = encoder.run_block(index, x)
            if index in taken:
                found.append(encoder.norm(x) if norm else x)
        heads = [tokens[:, :prefix] for tokens in found]
        found = [tokens[:, prefix:] for tokens in found]
        if output_fmt == "NCHW":
            found = [tokens.transpose(1, 2).unflatten(2, grid).contiguous() for tokens in found]
        if return_prefix_tokens and prefix:
            found = list(zip(found, heads, strict=True))
        return found if intermediates_only else (encoder.norm(x), found)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Leave what intermediate features need: the blocks up to the last index; no text, no fusion."""
        taken, last = feature_take_indices(len(self.img_encoder.blocks), indices)
        self.img_encoder.blocks = self.img_encoder.blocks[: last + 1]
        if prune_norm:
            self.img_encoder.norm = nn.Identity()  # type: ignore[assignment]
        kept = {"patch_embed", "image_embed", "img_encoder", *(() if prune_head else ("head", "head_drop"))}
        for name, _ in list(self.named_children()):
            if name not in kept:
                delattr(self, name)
        for name in list(self._parameters):
            delattr(self, name)
        return taken

    def set_input_size(
        self, img_size: int | tuple[int, int] | None = None, patch_size: int | tuple[int, int] | None = None
    ) -> None:
        """Take images of another size from now on; positions are interpolated."""
        size = None if img_size is None else to_2tuple(img_size)
        self.patch_embed.set_input_size(img_size=size, patch_size=patch_size)
        grid = self.patch_embed.grid_size
        self.image_embed.set_grid(grid)
        self._place_tokens(grid)
        cfg = {**self.pretrained_cfg, "input_size": (self.pretrained_cfg["input_size"][0], *self.patch_embed.img_size)}
        self.pretrained_cfg = self.default_cfg = cfg

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute every block of every stack in the backward pass, or stop doing so.

        A compiled model leaves it to its compiler what to recompute.
        """
        self.grad_checkpointing = enable
        for stack in self._stacks():
            stack.grad_checkpointing = enable

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Positions, types, the class token and the temperature."""
        return {
            name
            for name, _ in self.named_parameters()
            if re.search(r"\.(position|modality|cls_token)$|^log_scale$", name)
        }

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """timm's patterns for layer-wise learning rates: the stacks count their blocks side by side."""
        del coarse  # a block is the finest and the coarsest group there is
        return {
            "stem": r"^(?:patch_embed|image_embed|text_embed)",
            "blocks": [
                (r"^(?:img_encoder|text_encoder)\.blocks\.(\d+)", None),
                (r"^(?:img_encoder|text_encoder)\.norm", (99999,)),  # timm's word for the group before
                (r"^(?:fusion|decoder)|^log_scale", (100000,)),
            ],
        }
