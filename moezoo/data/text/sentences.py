"""``class_sentences``: what may be said of each class of a data set, short enough for 32 tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from moezoo.data.text import labels
from moezoo.errors import ConfigError
from moezoo.names import did_you_mean

Sentences = tuple[tuple[str, ...], ...]
LANGUAGES = ("en", "zh")
TEMPLATES = {
    "en": ("a photo of {a} {name}", "a picture that shows {a} {name}", "this is {a} {name}"),
    "zh": ("一张{name}的照片", "图中是{name}"),
}
Described = tuple[tuple[str, ...], dict[str, Sentences]]
"""Names of the classes, and their sentences by language."""
_DIGITS: Described = (labels.DIGITS, {"en": labels.DIGITS_ENGLISH, "zh": labels.DIGITS_CHINESE})
KNOWN: dict[str, Described] = {
    "cifar10": (labels.CIFAR10, {"en": labels.CIFAR10_ENGLISH, "zh": labels.CIFAR10_CHINESE}),
    "fashion_mnist": (labels.FASHION_MNIST, {"en": labels.FASHION_MNIST_ENGLISH, "zh": labels.FASHION_MNIST_CHINESE}),
    "digits": _DIGITS,
    "cluttered_digits": _DIGITS,
}
"""Data sets whose classes are described one by one."""


def class_sentences(
    label_names: str | Sequence[str], language: Literal["en", "zh"] = "en"
) -> tuple[tuple[str, ...], ...]:
    """Two or more sentences per class, all different.

    Args:
        label_names: One name per class, or the name of a data set: cifar10, cifar100, fashion_mnist, digits. The names
            of these data sets are recognised; other classes get a template with their name in it.
        language: ``"en"`` or ``"zh"``. A Chinese template keeps a name that it cannot translate.

    Returns:
        The sentences of class i at index i.

    Raises:
        ConfigError: An unknown language or data set, no names, or two classes whose sentences would be the same.
    """
    if language not in LANGUAGES:
        hint = did_you_mean(str(language), LANGUAGES)
        raise ConfigError(f"language={language!r} is not allowed.{hint} Allowed: {', '.join(LANGUAGES)}.")
    if isinstance(label_names, str):
        label_names = _names_of(label_names)
    names = tuple(label_names or ())
    for known, sentences in KNOWN.values():
        if names == known:
            return sentences[language]
    if names == labels.CIFAR100 and language == "zh":
        names = labels.CIFAR100_CHINESE
    if not names:
        raise ConfigError(
            f"label_names={label_names!r} is not allowed: there must be one name per class, at least one."
        )
    return _from_template(names, TEMPLATES[language])


def _names_of(dataset: str) -> tuple[str, ...]:
    if dataset == "cifar100":
        return labels.CIFAR100
    if dataset not in KNOWN:
        known = (*KNOWN, "cifar100")
        raise ConfigError(
            f"no descriptions of a data set {dataset!r} are known.{did_you_mean(dataset, known)} Known: "
            f"{', '.join(known)}; pass the names of the classes for any other."
        )
    return KNOWN[dataset][0]


def _from_template(names: Sequence[str], templates: Sequence[str]) -> Sentences:
    spoken = [" ".join(str(name).replace("_", " ").split()) for name in names]
    if empty := [i for i, name in enumerate(spoken) if not name]:
        raise ConfigError(f"label_names[{empty[0]}]={names[empty[0]]!r} is not allowed: a class needs a name.")
    lower = [name.lower() for name in spoken]  # as tokenizers read them
    if twins := [spoken[i] for i, name in enumerate(lower) if name in lower[:i]]:
        raise ConfigError(f"two classes are called {twins[0]!r}, letter case aside; their sentences would be the same.")
    return tuple(tuple(template.format(a=_article(name), name=name) for template in templates) for name in spoken)


def _article(name: str) -> str:
    return "an" if name[0].lower() in "aeiou" else "a"
