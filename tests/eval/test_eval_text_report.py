"""A classifier that reads text: its accuracy never comes from a sentence that the label made."""

import logging

import pytest
import torch
from text_toys import Captioner, Pairs, TwoTowers
from torch.nn import functional as F

from moezoo.data import CaptionedSplits, ImageTensors, Splits
from moezoo.data.captioned import CaptionedImages
from moezoo.data.items import LabelledImages
from moezoo.errors import ConfigError, InputError, UnreadableImage
from moezoo.eval import (
    class_prototypes,
    classification_metrics,
    evaluate,
    evaluate_part,
    evaluate_text,
    text_report,
    zero_shot,
    zero_shot_logits,
)
from moezoo.eval.part import passes

NAMES = ("cat", "dog", "owl")
SENTENCES = (("a cat",), ("a dog", "the loud dog"), ("an owl", "owl"))
WORDS = "a an the loud cat dog owl photo of picture that shows this is"


@pytest.fixture
def model():
    torch.manual_seed(0)
    return TwoTowers(WORDS)


@pytest.fixture
def data():
    return ImageTensors(torch.randn(50, 1, 2, 2), torch.arange(50) % 3)


def test_a_class_is_the_mean_of_its_sentences_unit_vectors(model):
    found = class_prototypes(model, SENTENCES)
    for own, prototype in zip(SENTENCES, found, strict=True):
        with torch.no_grad():
            each = [model.eval().encode_text(*model.tokenizer.encode([text], 9))[0].double() for text in own]
        mean = sum(x / x.norm() for x in each) / len(each)
        assert torch.allclose(prototype.double(), mean / mean.norm(), atol=1e-6)
    images = torch.randn(4, 1, 2, 2)
    with torch.no_grad():
        cosines = F.cosine_similarity(model.encode_image(images)[:, None], found[None], dim=-1)
        assert torch.allclose(zero_shot_logits(model, images, found), cosines, atol=1e-6)
    model.moe = torch.nn.Sequential(torch.nn.Dropout(0.5), model.moe)
    again = zero_shot_logits(model.train(), images, found)
    assert torch.allclose(again, cosines, atol=1e-6)
    assert not again.requires_grad
    assert model.training
    with pytest.raises(InputError, match=r"class_sentences\[1\] must be one or more sentences, got \(\)"):
        class_prototypes(model, [("a cat",), ()])


def test_zero_shot_names_the_nearest_class_without_a_head_or_a_label(model, data):
    with torch.no_grad():
        nearest = zero_shot_logits(model.eval(), data.images, class_prototypes(model, SENTENCES)).argmax(-1)
    model.head = None
    assert zero_shot(model.train(), data, SENTENCES, batch_size=8) == float((nearest == data.labels).double().mean())
    assert model.training
    assert zero_shot(model, ImageTensors(data.images, nearest), SENTENCES) == 1.0
    with pytest.raises(InputError, match="labels must be from 0 to 1, got 0 to 2"):
        zero_shot(model, data, SENTENCES[:2])
    with pytest.raises(InputError, match="empty"):
        zero_shot(model, ImageTensors(data.images[:0], data.labels[:0]), SENTENCES)


def test_what_a_sentence_of_the_label_gives_away_is_an_upper_bound_and_warned_of(model, data, caplog):
    # A head that reads the class off the sentence and can tell nothing from an image.
    with torch.no_grad():
        told = torch.cat([model.encode_text(*model.eval().tokenizer.encode([own[0]], 9)) for own in SENTENCES])
        model.head.weight.copy_(torch.linalg.pinv(told).T * 100)
        model.head.bias.zero_()
    seen = []
    with caplog.at_level(logging.WARNING):
        report = evaluate_text(model, data, SENTENCES, batch_size=20, progress=seen.append)
    assert seen == [20, 20, 10]
    assert report.label_text_upper_bound == 1.0
    assert report.image_only == evaluate(model, data).classification.top1 < 0.6
    assert report.zero_shot == zero_shot(model, data, SENTENCES) < 0.6
    assert "label_text_upper_bound is no accuracy" in caplog.text
    assert "true label" in report.note


def test_all_three_figures_are_among_the_same_classes(model, data):
    """With sentences of some classes alone, zero-shot would choose among fewer than the head does."""
    some = ImageTensors(data.images, data.labels % 2)
    with pytest.raises(InputError, match="class_sentences are of 2 classes, the model has 3"):
        evaluate_text(model, some, SENTENCES[:2])
    assert 0 <= zero_shot(model, some, SENTENCES[:2]) <= 1  # which needs no head


def test_an_answer_of_nan_is_never_right():
    good, labels = torch.eye(3), torch.arange(3)
    bad = good.clone()
    bad[0] = float("nan")  # argmax would say 0
    report = text_report(bad, good, good, labels)
    assert (report.image_only, report.zero_shot, report.label_text_upper_bound) == (2 / 3, 1.0, 1.0)
    assert report.image_only == classification_metrics(bad, labels).top1


def splits_of(data, names=NAMES):
    return Splits("animals", data, data, data, names, (0.5,), (0.5,))


def captioned(images, captions):
    part = Pairs(images, captions)
    return CaptionedSplits("scenes", part, part, part, (0.5,), (0.5,))


def test_a_part_is_judged_as_its_kind_asks(model, data):
    report, seen = evaluate_part(model, splits_of(data), "val", batch_size=25, metrics=None), []
    assert report.classification.top1 == report.text.image_only
    assert report.classification.labels[2].label == "owl"
    assert "macro_f1" in report.metrics
    assert report.routing[0].tokens == 50
    turned = evaluate_part(model, splits_of(data), sentences=SENTENCES[::-1], progress=seen.append)
    assert turned.text.zero_shot == zero_shot(model, data, SENTENCES[::-1]) != report.text.zero_shot
    assert sum(seen) == 50 * passes(model, splits_of(data)) == 100
    images = torch.zeros(4, 1, 2, 2)
    images[:, 0, 0, 0] = torch.arange(4) % 2
    scenes = captioned(images, [("a cat", "the cat"), ("a dog",)] * 2)
    assert set(evaluate_part(model, scenes).to_dict()) == {"retrieval", "routing", "metrics", "robustness"}
    writer = Captioner(["a cat", "a owl"], WORDS)
    report = evaluate_part(writer, scenes, generation={"num_beams": 3})
    assert report.captions.exact_match == 0.5
    assert passes(writer, scenes) == 1
    assert writer.options == {"num_beams": 3, "min_length": 0, "max_length": 77, "no_repeat_ngram_size": 0}


def test_an_unreadable_file_of_a_training_part_ends_an_evaluation_by_its_name(model, data):
    """Training passes it over; a figure over fewer images would be another figure."""

    def read(item):
        if item == 2:
            raise UnreadableImage("c.jpg", "is empty (0 bytes)")
        return data.images[item]

    items, known = list(range(4)), {"read": read, "skip_unreadable": True}
    labelled = LabelledImages(items, [0, 1, 2, 0], lambda image: image, **known)
    scenes = CaptionedImages(items, [("a cat",)] * 4, lambda image: image, **known)
    for splits in (
        Splits("animals", labelled, labelled, labelled, NAMES, (0.5,), (0.5,)),
        CaptionedSplits("scenes", scenes, scenes, scenes, (0.5,), (0.5,)),
    ):
        with pytest.raises(UnreadableImage, match=r"c\.jpg: is empty"):
            evaluate_part(model, splits, "train")


def test_a_model_of_another_data_set_is_an_error(model, data, caplog):
    blind = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
    model.label_names, model.num_classes = NAMES, 3
    evaluate_part(model, splits_of(data))
    scenes = captioned(data.images, [("a cat",)] * 50)
    for wrong, splits, says in [
        (model, splits_of(data, ("cat", "dog", "cow")), "classes are cat, dog, owl; the data set's are cat, dog, cow"),
        (model, splits_of(data, ("dog", "cat", "owl")), "same in another order"),
        (model, splits_of(data, ("cat", "dog")), "the model has 3 classes, the data set 2"),
        (Captioner(["a"], WORDS), splits_of(data), "names no classes"),
        (blind, scenes, "neither reads nor writes text"),
    ]:
        with pytest.raises(ConfigError, match=says):
            evaluate_part(wrong, splits)
    model.moezoo_config = type("Config", (), {"vocab_size": 4, "max_text_len": 9})()
    for splits in (splits_of(data), scenes):
        with pytest.raises(ConfigError, match="15 tokens, vocab_size=4"):
            evaluate_part(model, splits)
    model.tokenizer = None
    with pytest.raises(ConfigError, match="no tokenizer"):
        evaluate_part(model, scenes)
    with caplog.at_level(logging.WARNING):
        assert evaluate_part(model, splits_of(data)).text is None
    assert "nothing about text" in caplog.text
    with pytest.raises(ConfigError, match=r"part='tset' is not allowed\. Did you mean: test"):
        evaluate_part(model, splits_of(data), "tset")
