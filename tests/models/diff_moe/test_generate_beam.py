"""Beam search against the whole of what a toy model may say."""

from __future__ import annotations

import math

import pytest
import torch
from generate_toys import BOS, EOS, PAD, Scripted, Toy, every_text, repeated_pairs
from hypothesis import given, settings
from hypothesis import strategies as st

from moezoo.models.diff_moe.generate import generate, generation_options


def search(toy: Toy, images: int = 1, **options):
    return generate(toy, images, generation_options(**options))


def text(output, row: int = 0) -> list[int]:
    return output.generated_ids[row, : output.lengths[row]].tolist()


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    max_length=st.integers(2, 6),
    min_length=st.integers(0, 6),
    length_penalty=st.sampled_from([0.0, 0.5, 1.0, 2.0, -1.0]),
    repetition_penalty=st.sampled_from([1.0, 1.7, 0.6]),
    no_repeat_ngram_size=st.integers(0, 3),
    early_stopping=st.sampled_from([True, False, "never"]),
)
def test_enough_beams_find_what_an_exhaustive_search_finds(seed, max_length, min_length, **options):
    options = {"max_length": max_length, "min_length": min(min_length, max_length), **options}
    beams = 3**4 * 2 + 1  # more than hypotheses, so the finished ones are never full
    toy = Toy(seed, images=2, beams=beams)
    found = search(toy, 2, num_beams=beams, **options)
    for image in range(2):
        score, ids = every_text(toy, image, generation_options(**options))[0]
        assert text(found, image) == ids
        assert found.scores[image].item() == pytest.approx(score, rel=1e-4, abs=1e-5)


def test_more_beams_find_better_texts():
    scores = [
        sum(
            search(Toy(seed, vocabulary=9, beams=beams), num_beams=beams, early_stopping="never").scores.item()
            for seed in range(20)
        )
        for beams in (1, 3, 20)
    ]
    assert scores[0] < scores[1] < scores[2]


@pytest.mark.parametrize("beams", [1, 3])
def test_every_row_is_as_alone(beams):
    toy = Toy(3, vocabulary=9, images=5, beams=beams)
    together = search(toy, 5, num_beams=beams)
    assert len(set(together.lengths.tolist())) > 1, "the rows must end at different times"
    for image in range(5):
        alone = search(toy.of(image), num_beams=beams)
        assert text(alone) == text(together, image)
        assert alone.scores[0] == together.scores[image]


def test_only_ends_among_the_best_candidates_count():
    """As many as there are beams; the third best of the first step is an end, better than all that comes later."""
    nothing = -torch.inf
    first = [nothing, nothing, math.log(0.25), math.log(0.4), math.log(0.35)] + [nothing] * 8
    later = [nothing, nothing, math.log(0.05)] + [math.log(0.095)] * 10
    options = {"min_length": 0, "max_length": 4, "early_stopping": "never"}
    two, three = (generate(Scripted(first, later), 1, generation_options(num_beams=n, **options)) for n in (2, 3))
    assert text(three) == [BOS, EOS]
    assert two.lengths.item() == 4


def test_what_follows_the_end_is_padding():
    output = search(Toy(3, vocabulary=9, images=5, beams=3), 5, num_beams=3)
    assert output.generated_ids.shape == (5, output.lengths.max())
    for ids, length in zip(output.generated_ids.tolist(), output.lengths.tolist(), strict=True):
        assert ids[0] == BOS
        assert set(ids[length:]) <= {PAD}
        assert not {PAD, BOS, EOS} & set(ids[1 : length - 1])


def test_early_stopping_searches_less_the_earlier_it_stops():
    def effort(early_stopping):
        toys = [Toy(seed, vocabulary=9, beams=3) for seed in range(20)]
        scores = [
            search(t, num_beams=3, length_penalty=2.0, max_length=12, early_stopping=early_stopping).scores
            for t in toys
        ]
        return sum(toy.calls for toy in toys), torch.stack(scores).sum()

    (first, worst), (later, better), (last, best) = effort(True), effort(False), effort("never")
    assert first < later < last
    assert worst < better < best


@pytest.mark.parametrize("early_stopping", [True, False, "never"])
def test_a_long_text_that_the_model_is_sure_of_is_waited_for(early_stopping):
    """The other beams, improbable and short, are finished long before it."""

    def sure(ids):
        logits = torch.full((len(ids), 8), -9.0)
        for row, text in enumerate(ids.tolist()):
            meant = all(token == 3 for token in text[1:])
            logits[row, 3 if meant and len(text) < 12 else EOS] = 9.0
        return logits

    found = generate(sure, 1, generation_options(early_stopping=early_stopping, no_repeat_ngram_size=0))
    assert text(found) == [BOS, *[3] * 11, EOS]


def test_never_is_never_worse_than_going_to_the_end():
    """A finished text is returned only if nothing unfinished could have become better: longer runs change nothing."""
    for seed in range(10):
        for length_penalty in (-1.0, 0.0, 1.0, 2.0):
            options = {"num_beams": 3, "length_penalty": length_penalty, "max_length": 8, "no_repeat_ngram_size": 0}
            toy = Toy(seed, vocabulary=5, beams=3)
            stopped = search(toy, early_stopping="never", **options).scores.item()
            ended = search(toy, early_stopping=False, **options).scores.item()
            assert stopped >= ended - 1e-6


def test_improbable_ends_do_not_crowd_out_the_text_that_is_meant():
    words, end = [-20.0, -20.0, -15.0, 3.0, 2.0, 1.0], [-20.0, -20.0, 9.0, 0.0, 0.0, 0.0]
    found = generate(Scripted(*[words] * 7, end), 1, generation_options(min_length=0))
    assert found.lengths.item() == 9
    assert found.generated_ids[0, -1] == EOS


def test_a_larger_length_penalty_gives_longer_texts():
    lengths = [
        sum(
            search(Toy(seed, vocabulary=9, beams=4), length_penalty=power, early_stopping="never").lengths.item()
            for seed in range(10)
        )
        for power in (0.0, 1.0, 3.0)
    ]
    assert lengths[0] < lengths[1] < lengths[2]


def test_rows_change_places_as_told():
    """A step function that keeps its own copy of the ids, moved only by ``reorder``, sees what it was promised."""

    class Cache:
        def __init__(self):
            self.toy, self.kept = Toy(5, vocabulary=9, images=2, beams=4), None

        def __call__(self, ids):
            if self.kept is not None:
                assert torch.equal(self.kept, ids[:, :-1])
            self.kept = ids
            return self.toy(ids)

        def reorder(self, rows):
            self.moved = getattr(self, "moved", False) or bool((rows != torch.arange(len(rows))).any())
            self.kept = self.kept[rows]

    cache = Cache()
    generate(cache, 2, generation_options(), reorder=cache.reorder)
    assert cache.moved


def test_no_pair_of_tokens_comes_twice_by_default():
    loop = Scripted([-20.0, -20.0, 0.0, 9.0, 9.0, 9.0])  # three ordinary tokens, and an end nobody wants
    default = text(generate(loop, 1, generation_options()))
    assert not repeated_pairs(default)
    assert repeated_pairs(text(generate(loop, 1, generation_options(no_repeat_ngram_size=0))))


def test_an_empty_batch_gives_no_texts():
    output = search(Toy(0), 0)
    assert output.generated_ids.shape == (0, 1)
    assert output.scores.shape == output.lengths.shape == (0,)
