"""Freezing and learning rates by role, where experts hold weights that never learn."""

from __future__ import annotations

import torch
from torch import nn

import moezoo
from moezoo.backbones.params import split_parameters
from moezoo.moe import MoELayer
from moezoo.moe.experts import experts as registry


class Classifier(nn.Module):
    def __init__(self, **args):
        super().__init__()
        self.stem = nn.Linear(4, 4)
        self.moe = MoELayer(4, num_experts=2, hidden_dim=6, **args)
        self.head = nn.Linear(4, 3)

    def get_classifier(self):
        return self.head

    def forward(self, x):
        return self.head(self.moe(self.stem(x)))


def named(model, parameters):
    names = {id(p): name for name, p in model.named_parameters()}
    return {names[id(p)] for p in parameters}


def test_freezing_the_backbone_leaves_the_frozen_mlp_of_low_rank_experts_frozen():
    model = Classifier(expert="lora")
    base = {f"moe.experts.base.{name}" for name, _ in model.moe.experts.base.named_parameters()}
    for _ in range(2):
        assert moezoo.freeze_backbone(model) is model
        frozen = named(model, [p for p in model.parameters() if not p.requires_grad])
        assert frozen == {"stem.weight", "stem.bias", *base}
    before = {name: p.clone() for name, p in model.named_parameters()}
    groups = moezoo.param_groups(model, lr_backbone=0.1, lr_moe=0.1, lr_head=0.1)
    assert [g["name"] for g in groups] == ["moe", "head"]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.5)
    model(torch.randn(5, 4)).square().sum().backward()
    optimizer.step()
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert "moe.experts.up_in" in changed
    assert changed.isdisjoint(frozen)


def test_the_frozen_mlp_counts_as_backbone_and_is_in_one_role():
    model = Classifier(expert="lora")
    roles = {role: named(model, ps) for role, ps in split_parameters(model).items()}
    assert {"moe.experts.base.fc1.weight", "stem.weight"} <= roles["backbone"]
    assert {"moe.router.weight", "moe.experts.up_in", "moe.experts.down_out"} <= roles["moe"]
    assert sum(map(len, roles.values())) == len(list(model.parameters()))


def test_experts_of_other_kinds_all_learn():
    args = {
        "conv": {"expert_args": {"grid": (1, 2)}, "router": "per_image"},
        "modules": {"expert_args": {"make": lambda e: nn.Linear(4, 4)}},
    }
    for kind in set(registry) - {"lora"}:
        model = moezoo.freeze_backbone(Classifier(expert=kind, **args.get(kind, {})))
        frozen = named(model, [p for p in model.parameters() if not p.requires_grad])
        assert frozen == {"stem.weight", "stem.bias"}, kind
