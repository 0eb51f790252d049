"""Options of text generation: each has its effect, wrong ones are refused, and nothing is ever impossible."""

from __future__ import annotations

import pytest
import torch
from generate_toys import BOS, EOS, PAD, Scripted, Toy, repeated_pairs

from moezoo.errors import ConfigError, InputError, NonFiniteError
from moezoo.models.diff_moe.generate import GenerationOptions, generate, generation_options

INF = float("inf")


def texts(model, images=1, seed=0, **options):
    return generate(
        model, images, generation_options(**options), generator=torch.Generator().manual_seed(seed)
    ).generated_ids.tolist()


def draws(**options) -> list[int]:
    """The first tokens of 4,000 texts whose logits are 4, 3, 2, 1, 0 for the tokens from 3 on."""
    step = Scripted([-INF, -INF, -INF, 4.0, 3.0, 2.0, 1.0, 0.0], [0.0] * 2 + [9.0] + [0.0] * 5)
    options = {"min_length": 0, "num_beams": 1, "do_sample": True, "top_p": 1.0, **options}
    return [ids[1] for ids in texts(step, 4000, **options)]


def test_the_documented_defaults():
    options = GenerationOptions()
    assert (options.max_length, options.min_length, options.num_beams, options.do_sample) == (30, 5, 4, False)
    assert (options.temperature, options.top_k, options.top_p) == (1.0, 50, 0.9)
    assert (options.repetition_penalty, options.length_penalty, options.no_repeat_ngram_size) == (1.0, 1.0, 2)
    assert options.early_stopping is True
    assert (options.pad_id, options.bos_id, options.eos_id) == (0, 1, 2)
    assert generation_options(temperature=1, early_stopping="never").early_stopping == "never"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"num_beam": 2}, ["'num_beam'", "Did you mean: num_beams"]),
        ({"num_beams": 0}, ["num_beams=0", "1"]),
        ({"max_length": 4}, ["min_length=5", "max_length=4"]),
        ({"max_length": 1}, ["max_length=1"]),
        ({"temperature": 0.0, "do_sample": True}, ["temperature=0.0", "0.001"]),
        ({"top_p": 1.5, "do_sample": True}, ["top_p=1.5"]),
        ({"top_k": 0, "do_sample": True}, ["top_k=0"]),
        ({"top_k": 5}, ["top_k=5", "do_sample=True"]),
        ({"temperature": 0.7}, ["temperature=0.7", "do_sample=True"]),
        ({"repetition_penalty": -1.0}, ["repetition_penalty=-1.0"]),
        ({"length_penalty": float("nan")}, ["length_penalty"]),
        ({"early_stopping": "always"}, ["early_stopping='always'", "'never'"]),
        ({"no_repeat_ngram_size": -1}, ["no_repeat_ngram_size=-1"]),
        ({"num_beams": "4"}, ["num_beams='4'"]),
        ({"eos_id": -1}, ["eos_id=-1"]),
    ],
)
def test_wrong_options_are_refused_by_name(given, words):
    with pytest.raises(ConfigError) as error:
        generation_options(**given)
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize("ids", [{"bos_id": 6}, {"eos_id": 7}, {"pad_id": 99}])
def test_special_tokens_outside_the_vocabulary_are_refused(ids):
    with pytest.raises(ConfigError, match=f"{next(iter(ids))}={next(iter(ids.values()))}.*size, 6"):
        texts(Toy(0, beams=4), **ids)


@pytest.mark.parametrize("how", [{"num_beams": 1}, {"num_beams": 3}, {"do_sample": True, "num_beams": 2}])
def test_lengths_are_kept(how):
    beams = how["num_beams"]
    for seed in range(5):
        toy = Toy(seed, vocabulary=8, images=4, beams=beams)
        for shortest, longest in ((0, 3), (6, 9), (9, 9)):
            options = generation_options(min_length=shortest, max_length=longest, **how)
            output = generate(toy, 4, options, generator=torch.Generator().manual_seed(seed))
            assert output.lengths.min() >= max(shortest, 2)
            assert output.lengths.max() <= longest
            for ids, length in zip(output.generated_ids.tolist(), output.lengths.tolist(), strict=True):
                assert length == longest or ids[length - 1] == EOS


def test_greedy_takes_the_most_probable_token_and_one_beam_is_greedy():
    toy = Toy(4, vocabulary=8)
    ids = texts(toy, num_beams=1)[0]
    for i, token in enumerate(ids[1:], start=1):
        logits = toy.row(0, ids[:i])
        logits[[PAD, BOS] + ([EOS] if i + 1 < 5 else [])] = -INF
        for j in range(1, i):
            if ids[j - 1] == ids[i - 1]:
                logits[ids[j]] = -INF
        assert token == logits.argmax()


def test_a_repetition_penalty_makes_texts_less_repetitive():
    def distinct(penalty):
        step = Scripted([-9.0, -9.0, -9.0, 3.0, 2.9, 0.1, 0.09, 0.08])
        ids = texts(step, num_beams=1, no_repeat_ngram_size=0, repetition_penalty=penalty)[0]
        return len(set(ids))

    assert distinct(1.0) == 2  # the beginning, and one token again and again
    assert distinct(1.0) < distinct(1.2) < distinct(50.0)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_no_run_of_so_many_tokens_comes_twice(size):
    for how in ({"num_beams": 1}, {"num_beams": 3}, {"do_sample": True, "num_beams": 1}):
        ids = texts(Toy(1, vocabulary=30, beams=how["num_beams"]), max_length=25, no_repeat_ngram_size=size, **how)[0]
        runs = [tuple(ids[i : i + size]) for i in range(len(ids) - size + 1)]
        assert len(runs) == len(set(runs))


def test_temperature_top_k_and_top_p_shape_what_is_drawn():
    logits = torch.tensor([4.0, 3.0, 2.0, 1.0, 0.0])

    def shares(tokens):
        return torch.bincount(torch.tensor(tokens) - 3, minlength=5) / len(tokens)

    assert shares(draws()) == pytest.approx(logits.softmax(0).tolist(), abs=0.03)
    assert shares(draws(temperature=3.0)) == pytest.approx((logits / 3).softmax(0).tolist(), abs=0.03)
    assert set(draws(top_k=2)) == {3, 4}
    assert set(draws(top_k=1)) == {3}
    assert set(draws(top_p=0.5)) == {3}
    assert set(draws(top_p=0.8)) == {3, 4}
    assert shares(draws(top_k=9999)).tolist() == shares(draws()).tolist()  # more than there are


def test_draws_come_from_the_generator():
    toy = Toy(0, vocabulary=30, images=3, beams=4, sharpness=0.5)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first, again, other = (texts(toy, 3, seed=seed, do_sample=True) for seed in (0, 0, 1))
    assert first == again != other
    assert torch.equal(state, torch.get_rng_state())


def test_of_several_drawn_texts_the_best_is_kept():
    def score(beams, power=1.0):
        toy = Toy(0, vocabulary=30, images=20, beams=beams, sharpness=0.5)
        options = generation_options(do_sample=True, num_beams=beams, top_p=1.0, length_penalty=power)
        return generate(toy, 20, options, generator=torch.Generator().manual_seed(0))

    assert score(1).scores.mean() < score(4).scores.mean() < score(16).scores.mean()
    assert score(16, 0.0).lengths.sum() < score(16, 3.0).lengths.sum()


@pytest.mark.parametrize("beams", [1, 4])
def test_blocking_that_leaves_nothing_gives_way(beams):
    one_word = Scripted([-INF, -INF, 0.0, 0.0])  # it may only be repeated, or the text may end
    ids = texts(one_word, num_beams=beams, min_length=6)[0]
    assert ids == [BOS, 3, 3, 3, 3, EOS], "repeated pairs are allowed before the text may end, and not after"
    nothing_to_say = Scripted([0.0, 0.0, 0.0])
    assert texts(nothing_to_say, num_beams=beams, min_length=6)[0] == [BOS, EOS]


@pytest.mark.parametrize("how", [{"num_beams": 1}, {"num_beams": 4}, {"do_sample": True}])
def test_damaged_logits_are_errors(how):
    for bad in ([0.0, 0.0, 0.0, float("nan")], [0.0, 0.0, INF, 0.0]):
        with pytest.raises(NonFiniteError, match="NaN or infinite"):
            texts(Scripted(bad), **how)
    for mute in ([0.0, 0.0, -INF, -INF], [-INF] * 4):
        with pytest.raises(NonFiniteError, match="probability 0"):
            texts(Scripted(mute), **how)
    with pytest.raises(InputError, match="next_logits must return"):
        texts(lambda ids: torch.zeros(len(ids), 1, 5), **how)


@pytest.mark.parametrize("how", [{"num_beams": 1}, {"num_beams": 4}, {"do_sample": True}])
def test_nothing_is_asked_of_what_follows_an_end(how):
    class Strict(Toy):
        """Knows nothing of texts that have ended, and gives impossible tokens no chance."""

        def row(self, image, ids):
            logits = super().row(image, ids).clone()
            logits[[PAD, BOS, 4]] = -INF
            return logits * float("nan") if {PAD, EOS, 4} & set(ids) else logits

    toy = Strict(0, vocabulary=6, images=6, beams=how.get("num_beams", 4))
    lengths = {len(ids) - ids.count(PAD) for ids in texts(toy, 6, min_length=0, **how)}
    assert len(lengths) > 1


def test_the_end_may_share_its_token_with_padding_and_beginning():
    toy = Toy(2, vocabulary=8, images=4, beams=4)
    for special in ({"pad_id": 2}, {"pad_id": 0, "bos_id": 2}, {"pad_id": 7, "bos_id": 7, "eos_id": 7}):
        options = generation_options(**special)
        output = generate(toy, 4, options)
        for ids, length in zip(output.generated_ids.tolist(), output.lengths.tolist(), strict=True):
            assert ids[0] == options.bos_id
            assert options.eos_id not in ids[1 : length - 1]
            assert set(ids[length:]) <= {options.pad_id}


def test_shorter_models_clamp_the_lengths():
    options = generation_options().within(4)
    assert (options.max_length, options.min_length) == (4, 4)
    assert generation_options().within(64) == generation_options()


def test_default_texts_repeat_no_pair():
    for seed in range(5):
        assert not repeated_pairs(texts(Toy(seed, vocabulary=12, beams=4))[0])
