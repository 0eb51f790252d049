"""How near written captions come to the references, as plain data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from moezoo.errors import InputError

SAMPLES = 8
"""Captions that a report shows."""


@dataclass(frozen=True)
class Captioned:
    """One image's caption beside what people wrote."""

    image: str
    """What the data set calls it, or its number."""
    caption: str
    references: tuple[str, ...]


@dataclass(frozen=True)
class CaptionReport:
    """Captions of N images against one or more references each."""

    images: int
    exact_match: float
    """Fraction of the captions that are one of their references, letter case and white space aside."""
    bleu: float
    """Corpus BLEU-4 of sacrebleu, 0 to 100, in lower case; 0 where no caption has four words."""
    chrf: float
    """Corpus chrF of sacrebleu, 0 to 100, in lower case."""
    samples: tuple[Captioned, ...] = ()
    """A few, evenly from the data set."""


def plain(text: str) -> str:
    """``text`` in lower case, with single spaces."""
    return " ".join(text.lower().split())


def caption_metrics(
    captions: Sequence[str],
    references: Sequence[Sequence[str]],
    names: Sequence[str] | None = None,
    *,
    normalize: Callable[[str], str] = plain,
) -> CaptionReport:
    """Compute every figure of :class:`CaptionReport`.

    Args:
        captions: N of them.
        references: For each at least one sentence; their numbers may differ.
        names: What the images are called; by default their numbers.
        normalize: Applied to captions and references alike before they are compared for ``exact_match``.

    Raises:
        InputError: Lengths differ, there is nothing, or an image has no reference or an empty one.
    """
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    if not captions or len(captions) != len(references) or (names is not None and len(names) != len(captions)):
        given = [len(captions), len(references), *([] if names is None else [len(names)])]
        raise InputError(f"captions, references and names must be equally many and at least 1, got {given}")
    for index, own in enumerate(references):
        if isinstance(own, str) or not own or not all(reference.strip() for reference in own):
            raise InputError(f"references of image {index} must be a sequence of sentences, at least one, got {own!r}")
    pairs = zip(captions, references, strict=True)
    right = sum(normalize(caption) in set(map(normalize, own)) for caption, own in pairs)
    # sacrebleu takes the first reference of every image, then the second, …, and nothing where an image has fewer.
    most = max(map(len, references))
    turned = [[own[i] if i < len(own) else "" for own in references] for i in range(most)]
    # force: sacrebleu warns of captions that end in " .", as Flickr8k's do; its tokenizer parts the full stop anyway.
    shown = sorted({round(i * (len(captions) - 1) / max(SAMPLES - 1, 1)) for i in range(SAMPLES)})
    return CaptionReport(
        images=len(captions),
        exact_match=right / len(captions),
        bleu=BLEU(lowercase=True, force=True).corpus_score(captions, turned).score,
        chrf=CHRF(lowercase=True).corpus_score(captions, turned).score,
        samples=tuple(
            Captioned(str(i) if names is None else names[i], captions[i], tuple(references[i])) for i in shown
        ),
    )
