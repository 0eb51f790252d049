"""Sentences about classes: every class has its own, in two languages, and they fit the 32 tokens of the models."""

import re

import pytest
from torchvision.datasets import FashionMNIST

from moezoo.data import load_dataset
from moezoo.data.text import class_sentences, labels, train_bpe
from moezoo.errors import ConfigError

SETS = ("cifar10", "cifar100", "fashion_mnist", "digits", "cluttered_digits")
UNKNOWN = ("golden_retriever", "African elephant", "owl")
LONGEST = 32


def flat(sentences):
    return [sentence for row in sentences for sentence in row]


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("name", [*SETS, UNKNOWN])
def test_each_class_has_two_or_more_sentences_of_its_own_that_fit(name, language):
    sentences = class_sentences(name, language)
    assert len(sentences) == {"cifar100": 100, UNKNOWN: 3}.get(name, 10)
    assert min(map(len, sentences)) >= 2
    every = flat(sentences)
    assert len(set(every)) == len(every)
    own = train_bpe(every, vocab_size=2000)
    assert max(map(own.count, every)) <= LONGEST
    assert own.decode(own.encode(every, LONGEST)[0]) == [own.normalize(sentence) for sentence in every]
    for sentence in every:
        if language == "en":  # CLIP has a token for each usual word; a rare one is a few pieces
            assert 2 + sum(1 + len(word) // 7 for word in re.findall(r"\w+|[^\w\s]", sentence)) <= 26
            assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", sentence, re.IGNORECASE), sentence
        elif name != UNKNOWN:  # three bytes per character, so at most three tokens
            assert len(sentence) <= 10
            assert re.fullmatch(r"[\u4e00-\u9fffT]+", sentence), sentence


def test_classes_are_known_by_their_names_and_others_get_a_template():
    digits = load_dataset("digits").label_names
    assert class_sentences(digits) == class_sentences("digits") == class_sentences("cluttered_digits")
    assert class_sentences(tuple(FashionMNIST.classes)) == class_sentences("fashion_mnist")
    assert class_sentences(list(labels.CIFAR100), "zh") == class_sentences("cifar100", "zh")
    assert class_sentences("cifar100")[1][0] == "a photo of an aquarium fish"
    assert class_sentences("cifar100", "zh")[1] == ("一张观赏鱼的照片", "图中是观赏鱼")
    assert class_sentences(UNKNOWN)[0][0] == "a photo of a golden retriever"
    assert class_sentences(UNKNOWN)[2][0] == "a photo of an owl"
    assert class_sentences(UNKNOWN, "zh")[2][0] == "一张owl的照片"
    assert class_sentences(digits[::-1])[0][0] == "a photo of a 9"  # not the table in the wrong order


def test_names_of_cifar_are_the_published_ones():
    """In their published order, which is alphabetical; a hundred English and Chinese names, none twice."""
    assert list(labels.CIFAR10) == sorted(labels.CIFAR10)
    assert list(labels.CIFAR100) == sorted(labels.CIFAR100)
    assert len(set(labels.CIFAR100)) == len(set(labels.CIFAR100_CHINESE)) == 100


@pytest.mark.parametrize(
    ("names", "language", "says"),
    [
        ("cifar11", "en", r"'cifar11' are known.*Did you mean: cifar10"),
        ("cifar10", "de", r"language='de' .*Allowed: en, zh"),
        ((), "en", r"label_names=\(\)"),
        (("cat", " "), "en", r"label_names\[1\]"),
        (("night_owl", "night owl"), "zh", "two classes are called 'night owl'"),
        (("A", "b", "a"), "en", "two classes are called 'a', letter case aside"),
        (None, "en", "label_names=None"),
    ],
)
def test_classes_that_cannot_be_told_apart_or_are_unknown_are_refused(names, language, says):
    with pytest.raises(ConfigError, match=says):
        class_sentences(names, language)
