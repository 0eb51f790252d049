"""Every option of a named upcycled model does something."""

import dataclasses
from functools import cache

import pytest
import torch

import moezoo

TINY = {
    "num_classes": 5,
    "img_size": 32,
    "backbone_args": {"patch_size": 8, "depth": 2},
    "moe_layers": "last",
    "num_experts": 4,
}
COMMON = {
    "model_name": ("test_vit3", {}),
    "backbone_args": ({"patch_size": 16, "depth": 2}, {}),
    "num_classes": (3, {}),
    "in_chans": (1, {}),
    "img_size": (16, {}),
    "drop_rate": (0.5, {}),
    "drop_path_rate": (0.9, {}),
    "global_pool": ("max", {}),
    "moe_layers": ("all", {}),
    "num_experts": (6, {}),
    "expert_dropout": (0.5, {}),
    "init": ("noise", {}),
    "init_noise": (3.0, {"init": "noise"}),
    "partition": ("contiguous", {"init": "partition"}),
    "dense": (True, {}),
}
TOP_K = {
    "top_k": (1, {}),
    "router": ("softmax_topk", {}),
    "router_args": ({"sigma": 0.0}, {}),
    "normalize": (False, {}),
    "capacity_factor": (0.5, {}),
    "capacity_rule": ("vmoe", {"capacity_factor": 0.5, "global_pool": "avg"}),
    "importance_weight": (5.0, {}),
    "load_weight": (5.0, {}),
    "load_balance_weight": (5.0, {}),
    "router_z_weight": (5.0, {}),
}
SOFT = {
    "init": ("recycle", {}),
    "sampling": ("uniform", {"init": "recycle"}),
    "num_core": (3, {"init": "recycle"}),
    "core_ratio": (0.5, {"init": "recycle"}),
    "universal_ratio": (0.5, {"init": "recycle"}),
    "router": ("sphero", {}),
    "router_args": ({"expert_drop": 0.5}, {"router": "sphero"}),
    "num_slots": (2, {}),
    "capacity_factor": (3.0, {}),
    "router_noise": (5.0, {}),
}
ELSEWHERE = {"backbone_tag", "eval_capacity_factor"}
"""Whose weights a file has, and what only evaluation goes by (see below)."""
CASES = [
    *(("vmoe/test_vit", field, *case) for field, case in {**COMMON, **TOP_K}.items()),
    *(("soft_moe/test_vit", field, *case) for field, case in SOFT.items()),
]


def step(name, changes):
    """Shapes, and numbers of a training step."""
    torch.manual_seed(0)
    model = moezoo.create_model(name, **{**TINY, **changes}).train()
    images = torch.randn(4, *model.pretrained_cfg["input_size"], generator=torch.Generator().manual_seed(1))
    torch.manual_seed(2)
    output = model(images)
    loss = moezoo.aux_loss(model)
    (output.square().sum() + loss).backward()
    shapes = {key: p.shape for key, p in model.state_dict().items()}
    return shapes, [output.detach(), loss.detach(), model.blocks[0].norm1.weight.grad]


@cache
def unchanged(name, base):
    return step(name, dict(base))


def test_no_option_is_left_out():
    for name, own in (("vmoe/test_vit", TOP_K), ("soft_moe/test_vit", SOFT)):
        fields = {field.name for field in dataclasses.fields(moezoo.model_config(name))}
        assert fields - ELSEWHERE == COMMON.keys() | own.keys()


@pytest.mark.parametrize(("name", "field", "value", "base"), CASES)
def test_every_option_changes_a_training_step(name, field, value, base):
    shapes_a, a = unchanged(name, tuple(base.items()))
    shapes_b, b = step(name, {**base, field: value})
    assert shapes_a != shapes_b or any(x.shape != y.shape or not torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_room_in_evaluation_is_its_own():
    model = moezoo.create_model("vmoe/test_vit", **TINY, capacity_factor=0.3, eval_capacity_factor=4.0)
    x = torch.randn(2, 3, 32, 32)
    assert model(x, return_stats=True)["router_stats"]["dropped"].min() > 0.3
    assert model.eval()(x, return_stats=True)["router_stats"]["dropped"].max() == 0


def test_noise_is_the_routers_own_unless_it_is_said():
    for router, want in (("soft", 0.0), ("sphero", 1 / 6)):
        model = moezoo.create_model("soft_moe/test_vit", **{**TINY, "num_experts": 6}, router=router)
        found = model.blocks[-1].mlp.moe.train().router
        assert torch.as_tensor(found.noise_now()).item() == pytest.approx(want), router
