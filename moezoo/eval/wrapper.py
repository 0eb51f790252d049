"""A model that takes images as people have them, and shows how it came to its answer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from moezoo.backbones.attention import record_attention
from moezoo.data.images import to_rgb, upright
from moezoo.errors import InputError
from moezoo.eval.answers import checked_logits, placed
from moezoo.eval.image_transform import image_transform
from moezoo.eval.reading import reads_text, text_of
from moezoo.eval.routing import first_expert
from moezoo.moe.modes import evaluating
from moezoo.moe.record import RoutingRecord, record_routing

Pictures: TypeAlias = "np.ndarray | Sequence[Image.Image] | Image.Image | Tensor"


@dataclass(frozen=True)
class RouterDecision:
    """What a router decided for B images."""

    weights: Tensor
    """(B, tokens, E) what each expert's result counts for each token; 0 where it was not chosen. (T, E), all tokens in
    one row, where they lie on no grid: those of texts, without their padding."""
    experts: Tensor
    """(B, tokens) int64, or (T,): the expert that counts most; -1 where none was chosen."""
    grid: tuple[int, int] | None
    """Rows and columns of an image's tokens, behind ``prefix_tokens`` others."""
    prefix_tokens: int


class ModelWrapper:
    """Classifies pictures, and says where every layer looked and to which experts it sent its tokens.

    Args:
        model: A classifier that says by ``pretrained_cfg`` how its images are prepared. It stays where it is and as it
            is.
    """

    def __init__(self, model: nn.Module):
        self.model = model

    def predict(self, images: Pictures, text: Sequence[str] | None = None) -> dict[str, Any]:
        """Answer B images.

        Args:
            images: Pillow images, taken as :func:`moezoo.data.images.read_image` takes files; an array (B, H, W),
                (B, H, W, C) or one image of (H, W) or (H, W, C), C 1, 3 or 4, of uint8 or of floats from 0 to 1; or a
                tensor (B, C, H, W) that is already prepared.
            text: A sentence for each image, for a model that reads text. What it then answers rests on the sentence:
                one made from the label gives the label away.

        Returns:
            ``logits``: (B, classes) float32. ``attention_weights``: the attention's path to (B, heads, queries, keys).
            ``router_decisions``: the MoE layer's path to :class:`RouterDecision`. All on the CPU. A layer that runs
            several times has ``path#1``, … for its further calls.

        Raises:
            InputError: ``images`` is none of these, or the model reads no text or not so many sentences.
        """
        batch = self._prepared(images)
        told: tuple[Tensor, ...] = ()
        if text is not None:
            if not reads_text(self.model) or isinstance(text, str) or len(text) != len(batch):
                raise InputError(
                    f"text must be {len(batch)} sentences, one per image, for a model that reads text; got {text!r:.80}"
                )
            told = text_of(self.model, text)
        model = self.model
        with evaluating(model), record_attention(model) as attention, record_routing(model) as routing:
            logits = checked_logits(model, model(placed(model, batch), *told), len(batch))
        return {
            "logits": logits,
            "attention_weights": {_key(each): each.weights.float().cpu() for each in attention},
            "router_decisions": {_key(each): _decision(each, len(batch)) for each in routing},
        }

    def _prepared(self, images: Pictures) -> Tensor:
        if isinstance(images, Tensor):
            if images.dim() != 4 or len(images) == 0:
                raise InputError(f"a tensor of images must be (B, C, H, W), B at least 1, got {tuple(images.shape)}")
            return images
        if isinstance(images, Image.Image):
            images = [images]
        pictures = _from_array(images) if isinstance(images, np.ndarray) else _listed(images)
        transform = image_transform(self.model)
        return torch.stack([transform(_shown(each, i)) for i, each in enumerate(pictures)])


def _listed(images: Any) -> list[Image.Image]:
    pictures = list(images) if isinstance(images, Iterable) else [images]
    if not pictures:
        raise InputError("images must be at least one, got none")
    for each in pictures:
        if not isinstance(each, Image.Image):
            raise InputError(
                f"images must be an array, a tensor or one or more Pillow images, got {type(each).__name__}"
            )
    return pictures


def _shown(picture: Image.Image, index: int) -> Image.Image:
    """As a viewer shows it: upright, in RGB, transparency over white."""
    try:
        return to_rgb(upright(picture, f"images[{index}]"))
    except (OSError, ValueError) as error:  # a file that is read only now, pixels of an unknown scale
        raise InputError(f"images[{index}] cannot be read: {error}") from error


def _from_array(array: np.ndarray) -> list[Image.Image]:
    if array.ndim == 2 or (array.ndim == 3 and array.shape[-1] in (1, 3, 4) and array.shape[-2] > 4):
        array = array[None]
    if array.ndim not in (3, 4) or (array.ndim == 4 and array.shape[-1] not in (1, 3, 4)) or 0 in array.shape:
        raise InputError(f"an array of images must be (B, H, W) or (B, H, W, C), C 1, 3 or 4, got {array.shape}")
    if array.dtype.kind == "f":
        if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
            raise InputError("an array of floats must hold pixels from 0 to 1; give values from 0 to 255 as uint8")
        array = (array * 255).round().astype(np.uint8)
    if array.dtype != np.uint8:
        raise InputError(f"an array of images must be of uint8 or floats, got {array.dtype}")
    return [Image.fromarray(each.squeeze(-1) if each.ndim == 3 and each.shape[-1] == 1 else each) for each in array]


def _key(record: Any) -> str:
    return f"{record.name}#{record.call}" if record.call else record.name


def _decision(record: RoutingRecord, images: int) -> RouterDecision:
    routing = record.routing
    kept = ~routing.dropped.cpu()
    weights = torch.zeros(routing.num_tokens, routing.num_experts)
    token, expert = routing.token_index.cpu()[kept], routing.expert_index.cpu()[kept]
    weights[token, expert] = routing.weight.detach().float().cpu()[kept]
    experts = first_expert(routing)
    if record.grid is not None or routing.num_tokens == images:
        weights, experts = weights.view(images, -1, routing.num_experts), experts.view(images, -1)
    return RouterDecision(weights, experts, record.grid, record.prefix_tokens)
