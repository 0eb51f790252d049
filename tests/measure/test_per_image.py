"""FLOPs of each image: by its own routing, summing to those of the batch, formula and count alike."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import moezoo
from moezoo.errors import InputError
from moezoo.measure import flops, flops_per_image
from moezoo.moe import MoELayer


class Looking(nn.Module):
    """A part that looks, and two MLPs of unequal size for what it finds."""

    routing_modules = ("look",)

    def __init__(self, **args):
        super().__init__()
        self.look, self.stem = nn.Linear(6, 1), nn.Linear(6, 6)
        big = nn.Sequential(nn.Linear(6, 32), nn.GELU(), nn.Linear(32, 6))
        self.moe = MoELayer(
            6,
            num_experts=2,
            router="score_threshold",
            expert="modules",
            expert_args={"modules": [big, nn.Linear(6, 6)]},
            aux_weights={},
            **args,
        )

    def forward(self, x):
        return self.moe(self.stem(x), scores=self.look(x)[..., 0].sigmoid())


def test_each_image_pays_for_its_own_tokens_and_all_of_them_for_the_rest():
    model, x = Looking().eval(), torch.randn(5, 8, 6)
    counted, each = flops(model, x), flops_per_image(model, x)
    assert counted.analytic == counted.executed == each.flops.sum().item()
    mask = model.look(x)[..., 0].sigmoid() >= 0.5
    assert 0 < mask.sum() < mask.numel()
    big, small = 2 * (6 * 32 + 32 * 6), 2 * 36
    expected = 8 * 2 * 6 + 8 * 2 * 36 + mask.sum(1) * big + (~mask).sum(1) * small
    assert each.flops.tolist() == expected.tolist()
    assert each.without_encoder.tolist() == (expected - 8 * 2 * 6).tolist()
    assert each.mean == pytest.approx(each.flops.mean().item())
    assert each.p50 == each.flops.median().item()
    assert each.p50 <= each.p95 <= each.flops.max().item()
    for budget in (0.0, 0.25, 1.0):
        moezoo.set_budget(model, budget)
        each, counted = flops_per_image(model, x), flops(model, x)
        assert each.flops.sum().item() == counted.analytic == counted.executed
        assert len(set(each.flops.tolist())) == 1


def test_without_images_or_with_tokens_that_are_nobodys_it_says_so():
    model, x = Looking(), torch.randn(7, 4, 6)
    with pytest.raises(InputError, match="the batch is empty"):
        flops_per_image(model, x[:0])

    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.moe = model.moe

        def forward(self, x):
            return self.moe(x.flatten(0, 1)[:5], scores=x.new_full((5,), 0.5))

    with pytest.raises(InputError, match="the 5 tokens of 'moe' are not those of 7 images"):
        flops_per_image(Pooled(), x)


@pytest.mark.parametrize(
    "args",
    [
        {"top_k": 2, "num_shared_experts": 1},
        {"capacity_factor": 0.5},
        {"router": "soft", "router_args": {"num_slots": 2}},
        {"router": "top_p", "expert": "mixed", "expert_args": {"kinds": ["mlp", "zero", "copy", "glu"]}},
    ],
)
def test_any_moe_layer_has_images(args):
    model = nn.Sequential(nn.Linear(8, 8), MoELayer(8, num_experts=4, hidden_dim=5, **args)).eval()
    nn.init.normal_(next(p for p in model[1].router.parameters() if p.dim() > 1))
    x = torch.randn(3, 7, 8)
    assert flops_per_image(model, x).flops.sum().item() == pytest.approx(flops(model, x).analytic, rel=1e-12)
