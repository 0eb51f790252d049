"""The photographs that come with scikit-learn: real pictures for any model, without a download."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from moezoo.backbones.attention import record_attention
from moezoo.eval.answers import placed
from moezoo.eval.image_transform import image_transform
from moezoo.eval.reading import encode_images
from moezoo.moe.modes import evaluating
from moezoo.moe.record import record_routing
from moezoo.viz.attention import attention_figure
from moezoo.viz.layers import LAYERS, choose_records, over_images
from moezoo.viz.looking import attention_over_images
from moezoo.viz.routed import pixels_of, routed_figures
from moezoo.viz.style import Picture


def photographs() -> dict[str, Image.Image]:
    """The two photographs, and the middle of each at twice the size, by name."""
    from sklearn.datasets import load_sample_images

    raw = load_sample_images()
    found: dict[str, Image.Image] = {}
    for name, pixels in zip(raw.filenames, raw.images, strict=True):
        image, title = Image.fromarray(pixels), Path(name).stem
        width, height = image.size
        found[title] = image
        found[f"{title}, closer"] = image.crop((width // 4, height // 4, width - width // 4, height - height // 4))
    return found


def photo_figures(model: nn.Module, *, layer: str | None = None) -> dict[str, Picture]:
    """Where the tokens of photographs go, and what attention they get: the pictures of
    :func:`moezoo.viz.model_figures` that need no data set, each named ``photos_…``.

    The photographs are resized and cropped as the model's ``pretrained_cfg`` says. What the model was trained on does
    not matter, and what it takes them for is not shown.

    Args:
        model: Of any family; run in evaluation mode, and left as it was.
        layer: MoE layer in the pictures of routing; by default the last three.

    Raises:
        ConfigError: ``layer`` is no MoE layer of the model, or its images have neither 1 nor 3 channels.
    """
    transform, photos = image_transform(model), photographs()
    images, titles = torch.stack([transform(photo) for photo in photos.values()]), list(photos)
    with evaluating(model), record_routing(model) as records, record_attention(model) as attention:
        _show(model, images)
    pixels, found = pixels_of(model, images), over_images(records)
    figures: dict[str, Picture] = {}
    if layer is not None or found:
        figures |= routed_figures(model, pixels, choose_records(model, found, layer), titles=titles)
    if seen := attention_over_images(attention):
        figures["attention"] = attention_figure(pixels, dict(list(seen.items())[-LAYERS:]), titles=titles)
    return {f"photos_{name}": figure for name, figure in figures.items()}


def _show(model: nn.Module, images: Tensor) -> None:
    """A forward of the images alone, of models that also read text too."""
    if callable(getattr(model, "encode_image", None)):
        encode_images(model, images)
    else:
        model(placed(model, images))
