"""Which pictures fit a model and its task."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from moezoo.data import CaptionedSplits, Splits
from moezoo.data.reid.splits import ReidSplits
from moezoo.errors import ConfigError
from moezoo.eval.captioned import as_decoded
from moezoo.eval.reading import encode_images, encode_texts, tokenizer_of
from moezoo.moe.modes import evaluating
from moezoo.viz.attention import attention_figure
from moezoo.viz.expert_classes import expert_classes_figure
from moezoo.viz.image_text import image_text_figure
from moezoo.viz.layers import LAYERS, choose_records, split_layers
from moezoo.viz.look import Look, first_captioned, look, look_at
from moezoo.viz.predictions import captions_figure, predictions_figure
from moezoo.viz.reid import reid_figures
from moezoo.viz.retrieval import retrieval_figure
from moezoo.viz.routed import routed_figures
from moezoo.viz.style import Picture
from moezoo.viz.survey import survey
from moezoo.viz.wrong_cases import wrong_cases_figure

GALLERY, BATCH = 100, 64
"""Images that retrieval is shown among, and images per forward."""
AnySplits = Splits | CaptionedSplits | ReidSplits


def model_figures(
    model: nn.Module, splits: AnySplits, *, images: int = 8, layer: str | None = None, language: str = "en"
) -> dict[str, Picture]:
    """Every picture of what a model makes of test images that there is something to show in, by name.

    ``predictions`` of any model; ``routing``, ``expert_regions`` and, of classes, ``expert_classes`` of one with MoE
    layers whose tokens lie on the image; of layers with a big and a small expert, in place of the first two,
    ``attention_heat``, ``routing_decisions``, ``patch_grid`` and, of classes, ``wrong_cases``; ``attention`` of one
    with attention among such tokens; ``image_text`` of one that has to do with words. Of identities to be found again
    those of :func:`~moezoo.viz.reid.reid_figures`.

    Args:
        model: Run in evaluation mode, and left as it was.
        splits: What it was trained on.
        images: Test images in the pictures.
        layer: MoE layer in the pictures of routing; by default the last three.
        language: Of the sentences about classes.

    Raises:
        ConfigError: ``layer`` is no MoE layer of the model, or given of a data set of identities.
    """
    if isinstance(splits, ReidSplits):
        if layer is not None:
            raise ConfigError(f"layer={layer!r} is not allowed: pictures of identities show the gate over scales.")
        return reid_figures(model, splits, images=images)
    seen = look(model, splits, images, language=language)
    figures = {"predictions": _predictions(model, splits, seen)}
    if layer is not None or seen.records:
        chosen = choose_records(model, seen.records, layer)
        figures |= routed_figures(model, seen.pixels, chosen, titles=seen.titles, wrong=seen.wrong, boxes=seen.boxes)
        if isinstance(splits, Splits):
            found = survey(model, splits, [record.name for record in chosen])
            named = {each.layer: ("big", "small") for each in split_layers(model, chosen)[0]}
            figures["expert_classes"] = expert_classes_figure(found.shares, splits.label_names, expert_names=named)
            if "routing_decisions" in figures and found.mistakes:
                wrong = _wrong_cases(model, splits, found.mistakes[:images], layer)
                figures |= {"wrong_cases": wrong} if wrong is not None else {}
    if seen.attention:
        last = dict(list(seen.attention.items())[-LAYERS:])
        figures["attention"] = attention_figure(seen.pixels, last, titles=seen.titles, wrong=seen.wrong)
    if seen.words is not None and any(seen.words.words):
        few = seen.pixels[:6]
        words, maps = seen.words.words[: len(few)], seen.words.maps[: len(few)]
        figures["image_text"] = image_text_figure(few, words, maps, title=seen.words.title)
    return figures


def _wrong_cases(model: nn.Module, splits: Splits, indices: Sequence[int], layer: str | None) -> Picture | None:
    """``None`` if none of them is wrong again: in another batch a close call may be tipped by rounding."""
    seen = look_at(model, splits, indices)
    assert seen.probabilities is not None
    wrong = [place for place, mistaken in enumerate(seen.wrong or ()) if mistaken]
    if not wrong:
        return None
    split, _ = split_layers(model, choose_records(model, seen.records, layer))
    return wrong_cases_figure(
        seen.pixels[wrong],
        split[-1][wrong],
        [seen.labels[place] for place in wrong],
        seen.probabilities[wrong],
        splits.label_names,
        boxes=None if seen.boxes is None else [seen.boxes[place] for place in wrong],
    )


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
