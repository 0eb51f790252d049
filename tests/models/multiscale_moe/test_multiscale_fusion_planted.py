"""The gates find what was planted, and effort goes where it is hard."""

import pytest
import torch
from fusion_toys import DIM, easy_and_hard, learn, learn_waves, rank_correlation
from torch_threads import one_thread  # noqa: F401

from moezoo.models.multiscale_moe.fusion import (
    AdaptiveExpertNetwork,
    CrossModalMoE,
    DynamicMoE,
    HierarchicalMoE,
    MultiScaleMoE,
)
from moezoo.moe import record_routing

MODALITIES = {"RGB": 0.2, "NIR": 0.7, "TIR": 2.0}
SMALL = {"hidden_dim": 16, "dropout": 0.0}


def shuffled(values, seed):
    torch.manual_seed(seed)
    return [values[i] for i in torch.randperm(len(values))]


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_the_scale_and_the_modality_that_tell_most_get_the_weight(seed):
    strengths = shuffled([0.2, 0.5, 1.0, 2.0], seed)
    scales = MultiScaleMoE(DIM, (2, 4, 8, 16), **SMALL)
    assert rank_correlation(strengths, learn(scales, scales, strengths, seed).tolist()) >= 0.8

    strengths = shuffled(list(MODALITIES.values()), seed)
    across = CrossModalMoE(DIM, **SMALL)
    assert rank_correlation(strengths, learn(across, across, strengths, seed).tolist()) >= 0.8

    fine = shuffled([0.2, 1.0], seed)
    strengths = [modality * scale for modality in strengths for scale in fine]
    both = HierarchicalMoE(DIM, scales=(2, 4), **SMALL)
    found = learn(both, lambda f: both([f[:2], f[2:4], f[4:]]), strengths, seed, steps=240)
    coarse = [sum(strengths[i : i + 2]) for i in (0, 2, 4)]
    assert rank_correlation(coarse, found.sum(1).tolist()) >= 0.8
    assert rank_correlation(strengths, found.flatten().tolist()) >= 0.8
    strongest = max(range(3), key=coarse.__getitem__)
    assert found[strongest].argmax() == fine.index(1.0)


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_harder_inputs_get_more_experts(seed):
    torch.manual_seed(seed)
    model = DynamicMoE(8, num_experts=8, min_experts=2, max_experts=8, hidden_dim=8, price=0.01)
    learn_waves(model, lambda x: model(x)[0], seed)
    x, _, hard = easy_and_hard(1000, torch.Generator().manual_seed(99))
    with torch.no_grad(), record_routing(model) as records:
        count = (model(x)[1] > 0).sum(-1).float()
    assert count.min() >= 2
    assert count.max() <= 8
    assert count[hard].mean() > count[~hard].mean() + 0.2
    assert sum(records[0].routing.expert_rows()) == count.sum()  # no more are computed


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_harder_inputs_get_more_hidden_units_and_cost_more(seed):
    torch.manual_seed(seed)
    model = AdaptiveExpertNetwork(8, 8, 8.0, num_slices=4, price=0.02, dropout=0.0)
    learn_waves(model, model, seed)
    x, _, hard = easy_and_hard(1000, torch.Generator().manual_seed(99))
    with torch.no_grad():
        units = model.hidden_units(x).float()
    assert units[hard].mean() > 1.5 * units[~hard].mean()
    cost = [model.moe.flops(model.moe.router(x[part])) / part.sum() for part in (hard, ~hard)]
    assert cost[0] > 1.2 * cost[1]
