"""mAP, mINP and CMC: hand-made cases, an independent computation, and how much is held in memory."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from moezoo.errors import ConfigError, InputError
from moezoo.eval import RerankOptions, reid_metrics, top_matches
from moezoo.eval.reid import scores


def at(*degrees):
    """Unit vectors in the plane: the nearer two angles, the nearer two images."""
    return torch.tensor([[math.cos(math.radians(d)), math.sin(math.radians(d))] for d in degrees])


# Query 1 stands at 0 degrees and sees, in this order: its own camera's picture (left out), another, a match, another.
# Query 2 at 90: a match, then two others, then a match. Query 3 has no match, query 4 only one by its own camera.
QUERY = (at(0, 90, 180, 270), [1, 2, 3, 4], [1, 1, 1, 1])
GALLERY = (at(1, 5, 10, 89, 100, 110, 120, 271), [1, 2, 1, 2, 9, 9, 2, 4], [1, 1, 2, 2, 3, 3, 3, 1])


def test_average_precision_cmc_and_minp_of_a_case_by_hand():
    found = reid_metrics(QUERY, GALLERY)
    # Query 1: ranks of its matches {2}: AP 1/2, INP 1/2. Query 2: ranks {1, 4}: AP (1 + 2/4) / 2, INP 2/4.
    assert found["num_queries"] == 4
    assert found["num_valid_queries"] == 2
    assert found["mAP"] == pytest.approx((1 / 2 + 3 / 4) / 2)
    assert found["mINP"] == pytest.approx((1 / 2 + 2 / 4) / 2)
    assert found["cmc"] == pytest.approx([0.5, 1, 1, 1, 1, 1, 1, 1])
    assert reid_metrics(QUERY, GALLERY, max_rank=2)["cmc"] == pytest.approx([0.5, 1])
    for same_rule in ("rgbnt201", "rgbnt100"):
        assert reid_metrics(QUERY, GALLERY, same_rule) == found


def test_only_the_own_camera_or_the_own_scene_is_left_out():
    features, identities = at(0, 2, 4), [1, 1, 1]
    one = (at(0), [1], [1], [7])
    others = (features, identities, [1, 1, 2], [8, 7, 7])
    assert reid_metrics(one, others)["mAP"] == 1  # two of its own camera are gone
    assert reid_metrics(one, others, "msvr310")["mAP"] == 1
    wrong_between = (at(0, 1, 2), [1, 9, 1], [1, 1, 2], [8, 8, 7])
    assert reid_metrics(one, wrong_between)["mAP"] == pytest.approx(1 / 2)
    assert reid_metrics(one, wrong_between, "msvr310")["mAP"] == 1
    with pytest.raises(InputError, match="query has no scenes"):
        reid_metrics(one[:3], others, "msvr310")
    with pytest.raises(InputError, match="gallery has no scenes"):
        reid_metrics(one, (*others[:3], [-1, -1, -1]), "msvr310")


def test_without_the_rule_every_image_finds_itself():
    torch.manual_seed(0)
    both = (torch.randn(60, 8), torch.arange(60) % 6, torch.arange(60) % 4)
    assert reid_metrics(both, both, "none")["cmc"][0] == 1.0
    assert reid_metrics(both, both)["cmc"][0] < 0.5


def test_junk_counts_for_nothing_and_distractors_against():
    query = (at(0), [1], [1])
    with_junk = (at(1, 2, 3), [-1, 0, 1], [2, 2, 2])
    assert reid_metrics(query, with_junk)["mAP"] == pytest.approx(1 / 2)
    assert reid_metrics(query, with_junk, "none")["mAP"] == pytest.approx(1 / 3)
    only_junk = reid_metrics(query, (at(1, 2), [-1, -1], [2, 2]))
    assert only_junk["num_valid_queries"] == 0
    assert math.isnan(only_junk["mAP"])


def test_no_query_with_a_match_gives_no_figure():
    found = reid_metrics((at(0, 1), [1, 2], [1, 1]), (at(0, 1), [1, 2], [1, 1]))  # a single camera
    assert found["num_queries"] == 2
    assert found["num_valid_queries"] == 0
    assert all(math.isnan(x) for x in (found["mAP"], found["mINP"], *found["cmc"]))


@pytest.mark.parametrize("count", [4, 700])
def test_equal_distances_keep_the_order_of_the_gallery(count):
    torch.manual_seed(1)
    same = torch.randn(1, 48).repeat(count, 1) * torch.rand(count, 1)  # one direction, many lengths
    identities = list(range(count))
    found = reid_metrics((same, identities, [0] * count), (same, identities, [1] * count), max_rank=count)
    assert found["cmc"] == pytest.approx([(i + 1) / count for i in range(count)])
    assert found["mAP"] == pytest.approx(np.mean([1 / (i + 1) for i in range(count)]))
    assert top_matches((same, identities, [0] * count), (same, identities, [1] * count), 3).indices[-1].tolist() == [
        0,
        1,
        2,
    ]


def by_sorting(query, gallery, place, max_rank):
    """Precision at every hit of whole sorted rows, in float64. ``place``: the column that may not be the same."""
    unit = [np.asarray(side[0], dtype=np.float64) for side in (query, gallery)]
    unit = [x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-300) for x in unit]
    precisions, inverses, curves = [], [], []
    for i, (identity, own) in enumerate(zip(query[1], query[place], strict=True)):
        distance = ((unit[0][i] - unit[1]) ** 2).sum(1).round(9)
        order = np.argsort(distance, kind="stable")
        kept = [
            g for g in order if not (gallery[1][g] == identity and gallery[place][g] == own) and gallery[1][g] != -1
        ]
        right = np.array([gallery[1][g] == identity for g in kept], dtype=float)
        if not right.any():
            continue
        precision = right.cumsum() / np.arange(1, len(right) + 1)
        precisions.append((precision * right).sum() / right.sum())
        inverses.append(right.sum() / (np.flatnonzero(right)[-1] + 1))
        curves.append(np.minimum(right.cumsum(), 1)[:max_rank].tolist() + [1.0] * (max_rank - len(right)))
    return np.mean(precisions), np.mean(inverses), np.mean(curves, axis=0), len(precisions)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_figures_are_those_of_sorting_whole_rows(data):
    queries, gallery, width = (data.draw(st.integers(1, high)) for high in (6, 12, 3))
    columns = st.lists(st.integers(0, 2), min_size=queries + gallery, max_size=queries + gallery)
    seed = data.draw(st.integers(0, 9))
    features = np.random.RandomState(seed).randint(-2, 3, (queries + gallery, width)).astype(np.float32)
    identities, cameras, scenes = (np.array(data.draw(columns)) for _ in range(3))
    identities[queries:] -= data.draw(st.integers(0, 1))  # some are junk
    sides = [
        tuple(x[part] for x in (features, identities, cameras, scenes))
        for part in (slice(queries), slice(queries, None))
    ]
    for protocol, place in (("market1501", 2), ("msvr310", 3)):
        kept = int((sides[1][1] != -1).sum())
        found = reid_metrics(*sides, protocol, max_rank=5)
        if not found["num_valid_queries"]:
            continue
        average, inverse, curve, valid = by_sorting(*sides, place, min(5, kept))
        assert found["num_valid_queries"] == valid
        assert found["mAP"] == pytest.approx(average)
        assert found["mINP"] == pytest.approx(inverse)
        assert found["cmc"] == pytest.approx(curve)


def test_order_is_that_of_the_cosine():
    torch.manual_seed(2)
    query, gallery = torch.randn(7, 16), torch.randn(90, 16)
    zeros = [0] * 90
    first = top_matches((query, zeros[:7], zeros[:7]), (gallery, range(1, 91), zeros), 90, "none").indices
    cosine = torch.nn.functional.normalize(query) @ torch.nn.functional.normalize(gallery).T
    assert torch.equal(torch.from_numpy(first), cosine.argsort(-1, descending=True))


def test_top_matches_are_the_rankings_behind_the_figures():
    found = top_matches(QUERY, GALLERY, count=4)
    assert found.indices[0].tolist() == [1, 2, 3, 7]  # image 0 is left out: the query's identity and camera
    assert found.right[0].tolist() == [False, True, False, False]
    assert found.matches.tolist() == [1, 2, 0, 0]
    few = top_matches((at(0), [1], [1]), (at(1, 2, 3), [-1, 1, 1], [2, 2, 1]), count=9)
    assert few.indices.tolist() == [[1, -1, -1]]
    assert few.right.tolist() == [[True, False, False]]


@pytest.mark.parametrize("rerank", [False, RerankOptions(k1=5, k2=3)])
def test_the_first_matches_are_those_that_the_figures_count_whatever_junk_there_is(rerank):
    rng = np.random.RandomState(0)
    centres, identities = rng.randn(5, 4), np.arange(60) % 5
    features = centres[identities] + 0.9 * rng.randn(60, 4)
    sides = [(features[part], identities[part], np.arange(60)[part] % 3) for part in (slice(20), slice(20, None))]
    sides[1][1][::4] = -1  # junk that looks like somebody, and may not describe anybody's neighbours
    figures = reid_metrics(*sides, max_rank=40, rerank=rerank)
    found = top_matches(*sides, count=40, rerank=rerank)
    first = [row.argmax() for row, number in zip(found.right, found.matches, strict=True) if number]
    assert figures["cmc"] == pytest.approx([np.mean([rank <= k for rank in first]) for k in range(30)])
    assert not np.isin(np.flatnonzero(sides[1][1] == -1), found.indices).any()


class Largest(TorchDispatchMode):
    """Notes the bytes of the largest tensor that is made."""

    bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.bytes = max(self.bytes, tensor.numel() * tensor.element_size())
        return result


def test_what_is_held_does_not_grow_with_queries_times_gallery(monkeypatch):
    monkeypatch.setattr(scores, "SCORES", 2**12)

    def largest(queries, gallery, **options):
        torch.manual_seed(0)
        sides = [(torch.randn(n, 8), torch.arange(n) % 50, torch.arange(n) % 3) for n in (queries, gallery)]
        with Largest() as seen:
            reid_metrics(*sides, **options)
        return seen.bytes

    assert largest(1600, 400) <= 1600 * 8 * 8  # the features in float64
    assert largest(400, 1600) <= 1600 * 8 * 8
    assert largest(300, 100, rerank=True) <= 400 * 51 * 8  # neighbour lists, k1 + 1 of each
    whole = reid_metrics(QUERY, GALLERY)
    monkeypatch.setattr(scores, "SCORES", 1)
    assert reid_metrics(QUERY, GALLERY) == whole


def test_what_does_not_fit_is_named():
    good = (at(0, 1), [1, 2], [1, 1])
    for bad, error, says in (
        ((at(0, 1), [1, 2]), InputError, "query must be .features, identities, cameras"),
        ((at(0), [1, 2], [1, 1]), InputError, "1 features need as many identities"),
        ((at(0, 1), [1.5, 2], [1, 1]), InputError, "query identities must be whole numbers"),
        ((torch.full((2, 2), float("nan")), [1, 2], [1, 1]), InputError, "2 of 2 query features hold NaN"),
        ((torch.zeros(0, 2), [], []), InputError, r"must be \(N, D\)"),
        ((torch.ones(2, 3), [1, 2], [1, 1]), InputError, "equally wide, got 3 and 2"),
        (([[1.0, 2.0], [1.0]], [1, 2], [1, 1]), InputError, "query features must be numbers in equally long rows"),
        ((at(0, 1), [[1], [2, 3]], [1, 1]), InputError, "query identities must be whole numbers"),
        (None, InputError, "query must be .features, identities, cameras.*got NoneType"),
    ):
        with pytest.raises(error, match=says):
            reid_metrics(bad, good)
    with pytest.raises(ConfigError, match="Did you mean: market1501"):
        reid_metrics(good, good, "market15")
    with pytest.raises(ConfigError, match="rerank='yes' is not allowed"):
        reid_metrics(good, good, rerank="yes")
    with pytest.raises(ConfigError, match="max_rank=0"):
        reid_metrics(good, good, max_rank=0)
