"""Captions against references: by hand where that is possible, else against a second computation."""

import math
from collections import Counter

import pytest
import torch
from text_toys import Captioner, Pairs, TwoTowers

from moezoo.data.captioned import CaptionedImages
from moezoo.data.text import train_bpe
from moezoo.errors import ConfigError, InputError
from moezoo.eval import caption_metrics, evaluate_captions
from moezoo.eval.captioned import as_decoded


def bleu4(captions, references):
    """Corpus BLEU-4 of words, written out: clipped n-gram counts over all references, closest length, no smoothing."""
    right, total, length, closest = Counter(), Counter(), 0, 0
    for caption, own in zip(captions, references, strict=True):
        words = caption.split()
        length += len(words)
        closest += min((abs(len(r.split()) - len(words)), len(r.split())) for r in own)[1]
        for n in range(1, 5):

            def grams(text, n=n):
                return Counter(tuple(text.split()[i : i + n]) for i in range(len(text.split()) - n + 1))

            most = Counter()
            for reference in own:
                most |= grams(reference)
            right[n] += sum((grams(caption) & most).values())
            total[n] += sum(grams(caption).values())
    mean = sum(math.log(right[n] / total[n]) for n in range(1, 5)) / 4
    return 100 * min(1.0, math.exp(1 - closest / length)) * math.exp(mean)


def test_several_references_of_unequal_number_count_and_figures_are_by_corpus():
    captions = ["a small red circle above a blue square", "two dogs run over the wet grass", "a man sits"]
    references = [
        ("a red circle above a small blue square", "a small red circle over a blue square"),
        ("two dogs run over the green grass", "dogs run over the wet grass", "two brown dogs run"),
        ("a man sits",),
    ]
    report = caption_metrics(captions, references, ["x.png", "y.png", "z.png"])
    assert report.images == 3
    assert report.exact_match == pytest.approx(1 / 3)
    assert report.bleu == pytest.approx(bleu4(captions, references))
    assert 50 < report.chrf < 100
    assert [(each.image, each.caption) for each in report.samples] == list(
        zip(["x.png", "y.png", "z.png"], captions, strict=True)
    )
    # The order of references and of images changes nothing.
    turned = caption_metrics(captions[::-1], [own[::-1] for own in references[::-1]])
    assert (turned.bleu, turned.chrf) == pytest.approx((report.bleu, report.chrf))
    fewer = caption_metrics(captions, [own[:1] for own in references])
    assert fewer.bleu < report.bleu
    assert fewer.chrf < report.chrf


def test_perfect_and_empty_captions():
    references = [("A small red circle  above a square", "b"), ("a blue square below a large circle",)]
    perfect = caption_metrics(["a small RED circle above a square", references[1][0]], references)
    assert (perfect.exact_match, perfect.bleu, perfect.chrf) == pytest.approx((1.0, 100.0, 100.0))
    nothing = caption_metrics(["", ""], references)
    assert (nothing.exact_match, nothing.bleu, nothing.chrf) == (0.0, 0.0, 0.0)
    many = caption_metrics([f"caption {i}" for i in range(100)], [("caption",)] * 100)
    assert [each.image for each in many.samples] == ["0", "14", "28", "42", "57", "71", "85", "99"]


def test_mistakes_are_named():
    for captions, references, says in [
        ([], [], "at least 1"),
        (["a"], [("a",), ("b",)], r"equally many .* got \[1, 2\]"),
        (["a", "b"], [("a",), ()], r"references of image 1 .* got \(\)"),
        (["a"], ["a"], "references of image 0 .* got 'a'"),
        ([""], [("a", " ")], r"references of image 0 .* got \('a', ' '\)"),  # or nothing would match something
    ]:
        with pytest.raises(InputError, match=says):
            caption_metrics(captions, references)


def test_captions_that_end_as_flickrs_do_are_no_cause_for_a_warning(caplog):
    told = [f"dog {i} runs over the grass ." for i in range(120)]
    assert caption_metrics(told, [(each,) for each in told]).bleu == pytest.approx(100.0)
    assert caplog.text == ""


def test_signs_that_the_tokenizer_does_not_know_are_not_taken_for_equal():
    known = train_bpe(["a cat"], vocab_size=12)  # no room for all bytes
    same = as_decoded(known)
    assert same("A  Cat") == same("a cat") == "a cat"
    assert known.decode(known.encode_ids(["a cat z"], 12)) == ["a cat"]
    assert same("a Cat z") == "a cat z"


def test_what_writes_no_captions_or_takes_no_such_option_is_refused():
    images = torch.zeros(2, 1, 2, 2)
    data, model = Pairs(images, [("red dot",)] * 2), Captioner(["red dot"], "red dot")
    with pytest.raises(ConfigError, match="TwoTowers writes no captions"):
        evaluate_captions(TwoTowers("red dot"), data)
    for generation, says in [
        ({"images": 3}, "images=3 is not allowed"),
        ({"generator": 0}, r"generator=0 is not allowed: it must be a torch\.Generator"),
    ]:
        with pytest.raises(ConfigError, match=says):
            evaluate_captions(model, data, generation=generation)
    drawn = torch.Generator()
    evaluate_captions(model, data, generation={"generator": drawn})
    assert model.options["generator"] is drawn


def test_a_captioner_writes_for_every_image_and_is_compared_as_its_tokenizer_writes():
    images = torch.zeros(5, 1, 2, 2)
    images[:, 0, 0, 0] = torch.tensor([0.0, 1, 2, 0, 1])
    model = Captioner(["red dot", "blue dot", ""], "red blue dot the").train()
    captions = [("RED  Dot",), ("the blue dot", "blue DOT"), ("red",), ("the red dot",), ("blue dot",)]
    seen = []
    data = CaptionedImages(
        list(images), captions, lambda image: image, read=lambda i: i, name_of=lambda i: f"<{i[0, 0, 0]:g}>"
    )
    report = evaluate_captions(model, data, batch_size=2, progress=seen.append)
    assert model.training
    assert seen == [2, 2, 1]
    assert report.captions.exact_match == 3 / 5
    assert report.captions.samples[2].image == "<2>"
    assert report.routing[0].tokens == 5
    assert set(report.to_dict()["captions"]) == {"images", "exact_match", "bleu", "chrf", "samples"}
    with pytest.raises(InputError, match="empty"):
        evaluate_captions(model, Pairs(images[:0], []))
