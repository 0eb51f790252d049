"""Which pictures fit a model and its task."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Subset

from moezoo.data import CaptionedSplits, Splits
from moezoo.errors import ConfigError
from moezoo.eval.answers import placed
from moezoo.eval.captioned import as_decoded
from moezoo.eval.reading import encode_images, encode_texts, tokenizer_of
from moezoo.moe.layer import MoELayer
from moezoo.moe.modes import evaluating
from moezoo.moe.record import RoutingRecord, record_routing
from moezoo.names import did_you_mean
from moezoo.viz.attention import attention_figure
from moezoo.viz.expert_classes import ClassShares, expert_classes_figure
from moezoo.viz.image_text import image_text_figure
from moezoo.viz.look import Look, first_captioned, look
from moezoo.viz.predictions import captions_figure, predictions_figure
from moezoo.viz.regions import regions_figure
from moezoo.viz.retrieval import retrieval_figure
from moezoo.viz.routing import routing_figure
from moezoo.viz.style import Picture

LAYERS = 3
"""Without a choice, pictures of layers show at most this many of the last ones."""
GALLERY, SAMPLE, BATCH = 100, 512, 64
"""Images that retrieval is shown among, and that the experts of classes are counted over; images per forward."""
AnySplits = Splits | CaptionedSplits


def model_figures(
    model: nn.Module, splits: AnySplits, *, images: int = 8, layer: str | None = None, language: str = "en"
) -> dict[str, Picture]:
    """Every picture of what a model makes of test images that there is something to show in, by name.

    ``predictions`` of any model; ``routing``, ``expert_regions`` and, of classes, ``expert_classes`` of one with MoE
    layers whose tokens lie on the image; ``attention`` of one with attention among such tokens; ``image_text`` of one
    that has to do with words.

    Args:
        model: Run in evaluation mode, and left as it was.
        splits: What it was trained on.
        images: Test images in the pictures.
        layer: MoE layer in the pictures of routing; by default the last three.
        language: Of the sentences about classes.

    Raises:
        ConfigError: ``layer`` is no MoE layer of the model.
    """
    seen = look(model, splits, images, language=language)
    figures = {"predictions": _predictions(model, splits, seen)}
    if layer is not None or seen.records:
        chosen = choose_records(model, seen.records, layer)
        figures["routing"] = routing_figure(seen.pixels, chosen, titles=seen.titles, wrong=seen.wrong)
        figures["expert_regions"] = regions_figure(seen.pixels, chosen[-1], titles=seen.titles, rows=4)
        if isinstance(splits, Splits):
            shares = class_shares(model, splits, [record.name for record in chosen])
            figures["expert_classes"] = expert_classes_figure(shares, splits.label_names)
    if seen.attention:
        last = dict(list(seen.attention.items())[-LAYERS:])
        figures["attention"] = attention_figure(seen.pixels, last, titles=seen.titles, wrong=seen.wrong)
    if seen.words is not None and any(seen.words.words):
        few = seen.pixels[:6]
        words, maps = seen.words.words[: len(few)], seen.words.maps[: len(few)]
        figures["image_text"] = image_text_figure(few, words, maps, title=seen.words.title)
    return figures


def choose_records(model: nn.Module, records: Sequence[RoutingRecord], layer: str | None) -> list[RoutingRecord]:
    """Those of ``layer``, a path or its beginning; by default the last three.

    Raises:
        ConfigError: ``layer`` is no MoE layer of the model, or none of the layers looked for was recorded on a grid.
    """
    names = [name for name, module in model.named_modules() if isinstance(module, MoELayer)]
    known = f"Layers: {', '.join(names) or 'none'}."
    if layer is None:
        if not records:
            raise ConfigError(f"the model has no MoE layer whose tokens lie on a grid. {known}")
        return list(records[-LAYERS:])
    if not any(_is(name, layer) for name in names):
        raise ConfigError(f"layer={layer!r} is no MoE layer of the model.{did_you_mean(layer, names)} {known}")
    found = [record for record in records if _is(record.name, layer)]
    if not found:
        raise ConfigError(
            f"layer={layer!r} cannot be drawn over images: its tokens do not lie on a grid. Those of these layers do: "
            f"{', '.join(record.name for record in records) or 'none'}."
        )
    return found


def class_shares(model: nn.Module, splits: Splits, layers: Sequence[str]) -> dict[str, np.ndarray]:
    """Of each layer (classes, E): the share of a class's tokens that every expert gets, over some test images."""
    count = len(splits.test)  # type: ignore[arg-type]
    # Evenly spread: test images may stand in the order of their classes.
    subset = Subset(splits.test, range(0, count, max(count // SAMPLE, 1)))
    counter = ClassShares(splits.num_classes)
    with evaluating(model):
        for images, labels in DataLoader(subset, batch_size=BATCH):
            with record_routing(model) as records:
                model(placed(model, images))
            counter.add([record for record in records if record.name in layers], labels)
    return counter.report()


def _predictions(model: nn.Module, splits: AnySplits, seen: Look) -> Picture:
    if isinstance(splits, Splits):
        assert seen.probabilities is not None
        return predictions_figure(seen.pixels, seen.labels, seen.probabilities, splits.label_names)
    if seen.written is not None:
        normalize = as_decoded(tokenizer_of(model))
        return captions_figure(seen.pixels, seen.written, seen.references, normalize=normalize)
    gallery, captions = first_captioned(splits.test, GALLERY)
    sentences = [sentence for own in captions for sentence in own]
    owners = [i for i, own in enumerate(captions) for _ in own]
    with evaluating(model):
        features = torch.cat([encode_images(model, part) for part in gallery.split(BATCH)])
    return retrieval_figure(splits.to_pixels(gallery), sentences, owners, features, encode_texts(model, sentences))


def _is(name: str, layer: str) -> bool:
    return name == layer or name.startswith(f"{layer}.")
