"""k-reciprocal re-ranking against a slow, dense computation written from the paper's formulas."""

import numpy as np
import pytest
import torch

from moezoo.errors import ConfigError, InputError
from moezoo.eval import RerankOptions, reid_metrics, rerank_distances, top_matches


def clusters(identities, each, width=6, spread=0.6, seed=0):
    rng = np.random.RandomState(seed)
    centres = rng.randn(identities, width)
    features = np.repeat(centres, each, axis=0) + spread * rng.randn(identities * each, width)
    return torch.from_numpy(features), np.repeat(np.arange(identities), each)


def dense(query, gallery, k1, k2, weight):
    """(Q, G), set by set: reciprocal neighbours R(p, k1), their expansion R*, Gaussian weights, their mean, Jaccard."""
    x = np.concatenate([query, gallery]).astype(np.float64)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    n = len(x)
    distance = ((x[:, None] - x[None]) ** 2).sum(-1)
    relative = distance / distance.max(1, keepdims=True)
    own_first = distance - 10 * np.eye(n)
    order = np.argsort(own_first.round(9), axis=1, kind="stable")

    def reciprocal(p, k):
        return {int(c) for c in order[p, : k + 1] if p in order[c, : k + 1]}

    described = np.zeros((n, n))
    for p in range(n):
        near = reciprocal(p, k1)
        wide = set(near)
        for c in near:
            other = reciprocal(c, int(np.around(k1 / 2)))
            if 3 * len(near & other) > 2 * len(other):
                wide |= other
        members = sorted(wide)
        described[p, members] = np.exp(-relative[p, members])
        described[p] /= described[p].sum()
    described = np.stack([described[order[p, :k2]].mean(0) for p in range(n)])
    found = np.empty((len(query), len(gallery)))
    for i in range(len(query)):
        for g in range(len(gallery)):
            both = np.minimum(described[i], described[len(query) + g]).sum()
            either = np.maximum(described[i], described[len(query) + g]).sum()
            found[i, g] = (1 - weight) * (1 - both / either) + weight * relative[i, len(query) + g]
    return found


@pytest.mark.parametrize(("k1", "k2", "weight"), [(7, 3, 0.3), (6, 1, 0.0), (1, 1, 0.5), (50, 15, 0.3), (4, 9, 1.0)])
def test_distances_are_those_of_the_formulas(k1, k2, weight):
    features, _ = clusters(6, 6)
    query, gallery = features[::3], features[np.arange(36) % 3 > 0]
    found = rerank_distances(3 * query, gallery.float(), k1, k2, weight)
    assert found.dtype == torch.float32
    assert torch.allclose(found.double(), torch.from_numpy(dense(query, gallery.float(), k1, k2, weight)), atol=1e-6)


def test_an_image_is_its_own_nearest_even_among_copies():
    features, _ = clusters(5, 4, seed=3)  # query and gallery are the same images, as in RGBNT201
    found = rerank_distances(features, features, 5, 3, 0.3)
    assert torch.allclose(found.double(), torch.from_numpy(dense(features, features, 5, 3, 0.3)), atol=1e-6)
    same = rerank_distances(torch.ones(3, 2), torch.ones(70, 2))
    assert same.isfinite().all()


def test_neighbours_in_common_find_what_distance_alone_does_not():
    features, identities = clusters(12, 10, width=8, spread=0.75)
    cameras = np.arange(120) % 5
    both = (features, identities, cameras)
    plain, again = (reid_metrics(both, both, rerank=rerank) for rerank in (False, RerankOptions(k1=12, k2=5)))
    assert again["mAP"] > plain["mAP"] + 0.02
    assert again["num_valid_queries"] == plain["num_valid_queries"] == 120
    distances = rerank_distances(features, features, 12, 5)
    distances[(identities[:, None] == identities) & (cameras[:, None] == cameras)] = 9.0
    first = top_matches(both, both, 5, rerank=RerankOptions(k1=12, k2=5)).indices
    assert torch.equal(distances.gather(1, torch.from_numpy(first)), distances.sort(-1).values[:, :5])


def test_numbers_out_of_range_are_refused():
    for bad in ({"k1": 0}, {"k2": 1.5}, {"lambda_value": 1.1}):
        with pytest.raises(ConfigError, match=next(iter(bad))):
            rerank_distances(torch.ones(2, 2), torch.ones(2, 2), **bad)
    with pytest.raises(InputError, match="equally wide"):
        rerank_distances(torch.ones(2, 2), torch.ones(2, 3))
