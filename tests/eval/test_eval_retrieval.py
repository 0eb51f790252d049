"""Ranks of sentences and images: against a plain float64 loop, and where the answer is known by hand."""

import numpy as np
import pytest
import torch
from text_toys import Pairs, TwoTowers

import moezoo.eval.retrieval as retrieval
from moezoo.errors import ConfigError, InputError
from moezoo.eval import evaluate_retrieval, retrieval_metrics


def by_loops(images, texts, owner, captions):
    """((r1, r5, r10, median), the same of the other direction), one score after the other in float64."""
    images, texts = (x.double().numpy() for x in (images, texts))
    own = [{captions[j] for j in range(len(texts)) if owner[j] == i} for i in range(len(images))]

    def cosine(i, j):
        return images[i] @ texts[j] / np.linalg.norm(images[i]) / np.linalg.norm(texts[j])

    def rank(scored):
        best = max(score for score, hit in scored if hit)
        return 1 + sum(score >= best - 1e-6 for score, hit in scored if not hit)

    ways = (
        [rank([(cosine(i, j), captions[j] in own[i]) for j in range(len(texts))]) for i in range(len(images))],
        [rank([(cosine(i, j), captions[j] in own[i]) for i in range(len(images))]) for j in range(len(texts))],
    )
    return [[*(np.mean(np.array(ranks) <= k) for k in (1, 5, 10)), np.median(ranks)] for ranks in ways]


def figures(recall):
    return [recall.r1, recall.r5, recall.r10, recall.median_rank]


@pytest.mark.parametrize("seed", range(4))
def test_ranks_are_those_of_a_plain_loop_whatever_the_parts(seed, monkeypatch):
    torch.manual_seed(seed)
    count = 30 + seed
    owner = torch.cat([torch.randperm(count), torch.randint(count, (3 * count,))])  # one to many sentences each
    captions = [f"sentence {int(owner[j]) % 25 if j % 3 else j}" for j in range(len(owner))]  # some shared by images
    images = torch.randn(count, 6)
    texts = images[owner] + 1.5 * torch.randn(len(owner), 6)
    texts[5], images[1] = texts[9], images[2]  # exact ties
    found = retrieval_metrics(images, texts, owner, captions)
    assert (found.images, found.texts) == (count, 4 * count)
    assert found.distinct_texts == len(set(captions))
    expected = by_loops(images, texts, owner.tolist(), captions)
    assert figures(found.image_to_text) == pytest.approx(expected[0])
    assert figures(found.text_to_image) == pytest.approx(expected[1])
    assert found.mean_recall_at_1 == pytest.approx((expected[0][0] + expected[1][0]) / 2)
    monkeypatch.setattr(retrieval, "SCORES", 7 * 4 * count)
    assert retrieval_metrics(images, texts, owner.tolist(), captions) == found


def test_four_images_by_hand():
    images = torch.eye(4)
    texts = torch.eye(4)[[0, 2, 1, 3]]  # the sentences of images 1 and 2 lie at each other's image
    found = retrieval_metrics(images, texts, [0, 1, 2, 3])
    # The others score 0 like the right one, which stands behind all of them: rank 4.
    assert figures(found.image_to_text) == figures(found.text_to_image) == [0.5, 1.0, 1.0, 2.5]
    same = retrieval_metrics(images, texts, [0, 1, 2, 3], ["a", "b", "b", "c"])
    assert figures(same.image_to_text) == figures(same.text_to_image) == [1.0, 1.0, 1.0, 1.0]
    # Length says nothing.
    assert retrieval_metrics(3 * images, texts * torch.rand(4, 1).add(0.1), [0, 1, 2, 3]) == found


def test_the_best_of_an_images_sentences_counts_and_each_sentence_is_a_query():
    images = torch.eye(2)
    texts = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.1, 1.0]])
    found = retrieval_metrics(images, texts, [0, 0, 1])
    assert found.image_to_text.r1 == 0.5  # image 1 sees a sentence of image 0 first
    assert found.text_to_image.r1 == pytest.approx(2 / 3)


def test_features_that_say_nothing_score_nothing():
    for features in (torch.ones(200, 8), torch.randn(1, 8).expand(200, 8), torch.zeros(200, 8)):
        found = retrieval_metrics(features, features.clone(), range(200))
        assert figures(found.image_to_text) == figures(found.text_to_image) == [0.0, 0.0, 0.0, 200.0]


def test_mistakes_are_named():
    images, texts = torch.randn(3, 4), torch.randn(5, 4)
    owner = [0, 1, 2, 2, 2]
    bad = texts.clone()
    bad[3, 1] = float("nan")
    for wrong, says in [
        ((images, bad, owner), "1 of 5 text_features hold NaN"),
        ((images / 0, texts, owner), "3 of 3 image_features"),
        ((images, texts[:, :3], owner), "equally wide, got 4 and 3"),
        ((images, texts, owner[:4]), "5 texts need as many image_of_text"),
        ((images, texts, owner, ["a"]), "1 captions"),
        ((images, texts, [0, 1, 2, 3, 2]), "from 0 to 2, got 0 to 3"),
        ((images, texts, [0.0, 1, 2, 2, 1.5]), "image_of_text must be whole numbers"),
        ((images, texts, [0, 0, 2, 2, 2]), "1 of 3 images have no text, the first is image 1"),
        ((images[0], texts, owner), r"image_features must be \(N, D\)"),
        ((images, texts[:0], []), r"text_features must be \(M, D\)"),
    ]:
        with pytest.raises(InputError, match=says):
            retrieval_metrics(*wrong)


def test_a_model_finds_sentences_and_images_and_every_sentence_is_encoded_once():
    torch.manual_seed(0)
    model = TwoTowers("a red blue green dot").train()
    model.moe = torch.nn.Identity()
    images, captions = torch.randn(7, 1, 2, 2), [("a red dot", "red dot")] * 3 + [("a blue dot",)] * 3 + [("green",)]
    seen = []
    report = evaluate_retrieval(model, Pairs(images, captions), batch_size=3, progress=seen.append)
    assert model.training
    assert (seen, model.seen) == ([3, 3, 1], [3, 1])
    found = report.retrieval
    assert (found.images, found.texts, found.distinct_texts) == (7, 10, 4)
    sentences = [text for own in captions for text in own]
    owner = [i for i, own in enumerate(captions) for _ in own]
    with torch.no_grad():
        texts = torch.cat([model.eval().encode_text(*model.tokenizer.encode([text], 9)) for text in sentences])
    expected = by_loops(images.flatten(1), texts, owner, sentences)
    assert figures(found.image_to_text) == pytest.approx(expected[0])
    assert figures(found.text_to_image) == pytest.approx(expected[1])
    data = report.to_dict()
    assert data["retrieval"]["image_to_text"]["median_rank"] == found.image_to_text.median_rank
    assert not {"classification", "captions", "text"} & set(data)


def test_retrieval_counts_the_tokens_of_the_experts_and_refuses_what_is_no_captioned_image():
    model = TwoTowers("red blue")
    data = Pairs(torch.randn(4, 1, 2, 2), [("red",), ("blue",)] * 2)
    (load,) = evaluate_retrieval(model, data).routing
    assert load.tokens == 4
    with pytest.raises(InputError, match=r"captions must be a sequence .* got 'red'"):
        evaluate_retrieval(model, Pairs(data.images, ["red"] * 4))
    with pytest.raises(InputError, match="empty"):
        evaluate_retrieval(model, Pairs(data.images[:0], []))
    model.tokenizer = None
    with pytest.raises(ConfigError, match="TwoTowers has no tokenizer"):
        evaluate_retrieval(model, data)
    with pytest.raises(ConfigError, match="Linear has no encode_image and encode_text"):
        evaluate_retrieval(torch.nn.Linear(4, 4), data)
