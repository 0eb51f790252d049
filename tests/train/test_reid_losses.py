"""The losses of re-identification against their definitions in float64."""

import math

import numpy as np
import pytest
import torch

from moezoo.train.tasks.reid_losses import hard_triplet_loss, identity_loss


def triplet_reference(features, identities):
    """By its definition, image by image."""
    total = 0.0
    for i, anchor in enumerate(features):
        distances = [math.sqrt(sum((a - b) ** 2 for a, b in zip(anchor, other, strict=True))) for other in features]
        near = [d for d, who in zip(distances, identities, strict=True) if who != identities[i]]
        far = max(d for d, who in zip(distances, identities, strict=True) if who == identities[i])
        total += math.log1p(math.exp(far - min(near))) if near else 0.0
    return total


@pytest.mark.parametrize("identities", [[0, 0, 1, 1, 2, 2], [3, 3, 3, 3, 1, 0], [0, 1, 2, 3, 4, 5]])
def test_the_triplet_loss_is_its_definition_and_its_gradient_too(identities):
    features = torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    who = torch.tensor(identities)
    loss = hard_triplet_loss(features, who)
    assert float(loss.detach()) == pytest.approx(triplet_reference(features.tolist(), identities), rel=1e-12)
    assert torch.autograd.gradcheck(lambda x: hard_triplet_loss(x, who), features)
    loss.backward()
    assert torch.isfinite(features.grad).all()
    assert float(hard_triplet_loss(features.float(), who).detach()) == pytest.approx(float(loss.detach()), rel=1e-5)


def test_the_triplet_loss_where_there_is_little_to_compare():
    same = torch.ones(4, 3, requires_grad=True)  # equal images of two identities: every distance is 0
    loss = hard_triplet_loss(same, torch.tensor([0, 0, 1, 1]))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(4 * math.log(2))
    assert torch.isfinite(same.grad).all()
    alone = torch.randn(3, 2, requires_grad=True)  # a single identity, after files were left out
    loss = hard_triplet_loss(alone, torch.tensor([5, 5, 5]))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert not alone.grad.any()
    nothing = torch.zeros(0, 2, requires_grad=True)  # a process without images
    hard_triplet_loss(nothing, torch.zeros(0, dtype=torch.int64)).backward()
    assert nothing.grad.shape == (0, 2)


def test_near_distances_are_not_lost_beside_large_features():
    generator = torch.Generator().manual_seed(1)
    offset = 1e3 * torch.randn(8, generator=generator, dtype=torch.float64)
    features = offset + 1e-2 * torch.randn(6, 8, generator=generator, dtype=torch.float64)
    identities = [0, 0, 1, 1, 2, 2]
    want = triplet_reference(features.float().double().tolist(), identities)
    assert float(hard_triplet_loss(features.float(), torch.tensor(identities))) == pytest.approx(want, rel=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_identity_loss_is_smoothed_cross_entropy(smoothing):
    scores = torch.randn(4, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    who = torch.tensor([0, 6, 3, 3])
    log_p = scores.numpy() - np.log(np.exp(scores.numpy()).sum(1, keepdims=True))
    target = np.full((4, 7), smoothing / 7)
    target[np.arange(4), who.numpy()] += 1 - smoothing
    assert float(identity_loss(scores, who, smoothing)) == pytest.approx(-(target * log_p).sum(), rel=1e-12)
