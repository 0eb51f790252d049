"""Image-text retrieval: how far down the right sentence stands for an image, and the right image for a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from moezoo.errors import InputError

TIE = 1e-6
"""Cosines nearer than this are equal. A product of matrices gives the same row other last bits at another place."""
SCORES = 2**24
"""Scores that are held at a time, 64 MiB. Parts half as large lie in glibc's heap, which they fragment to GiBs."""


@dataclass(frozen=True)
class Recall:
    """One direction. Recalls are fractions of the queries with a hit among the first 1, 5 and 10."""

    r1: float
    r5: float
    r10: float
    median_rank: float
    """Of the first hit, counted from 1; the mean of the middle two for an even number of queries."""


@dataclass(frozen=True)
class Retrieval:
    """Both directions over all images and sentences."""

    images: int
    texts: int
    distinct_texts: int
    """Different sentences; a hit is any item with the identical one."""
    image_to_text: Recall
    text_to_image: Recall

    @property
    def mean_recall_at_1(self) -> float:
        """Mean of both directions."""
        return (self.image_to_text.r1 + self.text_to_image.r1) / 2


def retrieval_metrics(
    image_features: Tensor,
    text_features: Tensor,
    image_of_text: Tensor | Sequence[int],
    captions: Sequence[str] | None = None,
) -> Retrieval:
    """Rank all sentences for every image, and all images for every sentence, by cosine.

    A hit for an image is each sentence that is, word for word, one of its own; a hit for a sentence each image that
    has it. The rank is that of the best hit. A tie counts against the model: everything that scores as high as the
    best hit, to 1e-6, and is no hit stands before it, so that features that say nothing score nothing.

    The scores are held in parts, so that 30,000 images and as many sentences take half a GiB beside the features.

    Args:
        image_features: (N, D).
        text_features: (M, D).
        image_of_text: (M,) The image each sentence belongs to. Every image has at least one.
        captions: (M,) The sentences; without them all are different.

    Raises:
        InputError: Shapes or types do not fit, an image has no sentence, or a feature is NaN or infinite.
    """
    images, texts = (_normalised(x, name) for x, name in ((image_features, "image"), (text_features, "text")))
    if images.shape[1] != texts.shape[1]:
        raise InputError(f"image and text features must be equally wide, got {images.shape[1]} and {texts.shape[1]}")
    texts = texts.to(images.device)
    owner = torch.as_tensor(image_of_text, device=images.device)
    if owner.is_floating_point() and owner.numel():  # of an empty list too, whose length is told below
        raise InputError(f"image_of_text must be whole numbers, got {owner.dtype}")
    owner = owner.long()
    if owner.shape != (len(texts),) or (captions is not None and len(captions) != len(texts)):
        told = "" if captions is None else f" and {len(captions)} captions"
        raise InputError(f"{len(texts)} texts need as many image_of_text, got {tuple(owner.shape)}{told}")
    if int(owner.min()) < 0 or int(owner.max()) >= len(images):
        raise InputError(
            f"image_of_text must be from 0 to {len(images) - 1}, got {int(owner.min())} to {int(owner.max())}"
        )
    without = (torch.bincount(owner, minlength=len(images)) == 0).nonzero().flatten().tolist()
    if without:
        raise InputError(f"{len(without)} of {len(images)} images have no text, the first is image {without[0]}")
    numbers: dict[str, int] = {}
    same = range(len(texts)) if captions is None else [numbers.setdefault(text, len(numbers)) for text in captions]
    sentence = torch.as_tensor(same, device=images.device)
    distinct = int(sentence.max()) + 1

    def texts_of(begin: int, end: int) -> Tensor:
        """(end - begin, M) bool: the texts that are a hit for these images."""
        own = (owner >= begin) & (owner < end)
        has = torch.zeros(end - begin, distinct, dtype=torch.bool, device=images.device)
        has[owner[own] - begin, sentence[own]] = True
        return has[:, sentence]

    def images_of(begin: int, end: int) -> Tensor:
        """(end - begin, N) bool: the images that are a hit for these texts."""
        equal = (sentence[begin:end, None] == sentence).to(torch.int32)
        found = torch.zeros(end - begin, len(images), dtype=torch.int32, device=images.device)
        return found.index_add_(1, owner, equal) > 0

    return Retrieval(
        images=len(images),
        texts=len(texts),
        distinct_texts=distinct,
        image_to_text=_recall(_ranks(images, texts, texts_of)),
        text_to_image=_recall(_ranks(texts, images, images_of)),
    )


def _normalised(features: Tensor, name: str) -> Tensor:
    if features.dim() != 2 or not features.numel():
        raise InputError(f"{name}_features must be ({'N' if name == 'image' else 'M'}, D), got {tuple(features.shape)}")
    features = features.detach().float()
    bad = int((~features.isfinite().all(-1)).sum())
    if bad:
        raise InputError(f"{bad} of {len(features)} {name}_features hold NaN or infinity, so that they have no rank")
    return F.normalize(features, dim=-1)


def _ranks(queries: Tensor, items: Tensor, hits_of) -> Tensor:
    """(Q,) int64 on the CPU: the rank of every query's best hit, from 1."""
    ranks = []
    rows = max(1, SCORES // max(len(items), len(queries)))
    for begin in range(0, len(queries), rows):
        end = min(begin + rows, len(queries))
        scores, hits = queries[begin:end] @ items.T, hits_of(begin, end)
        best = scores.masked_fill(~hits, -2.0).amax(-1, keepdim=True)
        # A hit never stands before the best hit, nor in its way.
        before = scores.masked_fill_(hits, -2.0) >= best - TIE
        ranks.append(before.sum(-1).add(1).cpu())
    return torch.cat(ranks)


def _recall(ranks: Tensor) -> Recall:
    r1, r5, r10 = (float((ranks <= k).double().mean()) for k in (1, 5, 10))
    return Recall(r1, r5, r10, float(ranks.double().quantile(0.5)))
