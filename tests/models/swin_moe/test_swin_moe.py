"""Swin-MoE: what is published of it, and its routers."""

import pytest
import torch

import moezoo
from moezoo.moe import MoELayer
from moezoo.moe.routers.cosine import CosineRouter

SMALL = {
    "img_size": 32,
    "num_classes": 5,
    "backbone_args": {"embed_dim": 16, "depths": [1, 2], "num_heads": [1, 2], "window_size": 2},
    "moe_layers": [(1, 1)],
}


def layer(name, **more):
    torch.manual_seed(0)
    return next(m for m in moezoo.create_model(name, **SMALL, **more).modules() if isinstance(m, MoELayer))


def test_presets_say_what_the_published_configurations_do():
    config = moezoo.model_config("swin_moe/small")
    assert config == moezoo.model_config("swin_moe/small.e8")
    assert config.moe_layers == (*((2, i) for i in (1, 3, 5, 7, 9, 11, 13, 15, 17)), (3, 1))
    assert (config.img_size, config.backbone_args["window_size"], config.drop_path_rate) == (192, 12, 0.2)
    moe = layer("swin_moe/base.e16")
    router = moe.router
    assert (moe.num_experts, moe.top_k, router.normalize, router.priority) == (16, 1, False, "score")
    assert (router.capacity_factor, router.capacity_rule, router.noise_std) == (1.25, "tutel", 1 / 16)
    assert (moe.aux.weights, moe.aux.reduction) == ({"importance": 0.005, "load": 0.005}, "sum")
    assert moe.experts.dropout == 0.1
    cosine = layer("swin_moe/small.cosine").router
    assert isinstance(cosine, CosineRouter)
    assert (cosine.num_experts, cosine.sigma, cosine.priority) == (32, 1.0, "score")
    assert cosine.log_scale.exp().item() == pytest.approx(2.0)  # a temperature of 0.5


@pytest.mark.parametrize("name", ["swin_moe/small", "swin_moe/small.cosine"])
def test_noise_is_drawn_in_training_alone_and_the_surest_tokens_stay(name):
    moe = layer(name, num_experts=4)
    x = 0.3 * torch.randn(2, 4, 4, 32) + torch.randn(32)  # much alike, so that they crowd
    torch.manual_seed(1)
    noisy = moe.router(x.flatten(0, 2), samples=2)
    spread = (noisy.logits - noisy.clean_logits).std()
    assert 0.15 < spread.item() < 0.35  # 1 / 4
    routing = moe.eval().router(x.flatten(0, 2), samples=2)
    assert torch.equal(routing.logits, routing.clean_logits)
    assert routing.dropped.any()
    room = 10  # floor(1.25 * 32 / 4)
    for expert in range(4):
        mine = routing.expert_index == expert
        kept, lost = routing.weight[mine & ~routing.dropped], routing.weight[mine & routing.dropped]
        assert len(kept) <= room
        assert not len(lost) or (len(kept) == room and kept.min() >= lost.max())
