"""Surgery on upcycled models: copies come and go without a trace, and dense checkpoints load where they can."""

import copy

import pytest
import torch

import moezoo
from moezoo.backbones.upcycle import measure_gap
from moezoo.moe import add_experts, merge_experts, prune_experts


@pytest.fixture
def images():
    return torch.randn(2, 3, 32, 32)


@pytest.fixture
def model(tiny_vit):
    for p in tiny_vit.parameters():
        torch.nn.init.normal_(p, std=p[0].numel() ** -0.5 if p.dim() > 1 else 0.5)
    return tiny_vit


@pytest.mark.parametrize(
    "operate", [(prune_experts, {"keep": 2}), (merge_experts, {"num_experts": 3}), (add_experts, {"num_new": 2})]
)
def test_copies_with_shared_weights_that_sum_to_one_are_spared_and_added_without_a_trace(operate, model, images):
    dense = copy.deepcopy(model)
    moezoo.upcycle(model, "last_half", num_experts=4, top_k=2)
    function, number = operate
    report = function(model, data=images, **number)
    assert [site.name for site in report.layers] == [f"blocks.{i}.mlp.moe" for i in (3, 4, 5)]
    assert report.preserved
    assert measure_gap(model, dense, images) < 1e-5
    with torch.no_grad():
        for p in dense.parameters():
            p.add_(0.05 * torch.randn_like(p))
    model.load_state_dict(dense.state_dict(), strict=True)
    assert measure_gap(model, dense, images) < 1e-5


def test_what_is_left_of_a_partition_does_not_take_a_dense_checkpoint(model, images):
    state = copy.deepcopy(model.state_dict())
    moezoo.upcycle(model, "last", num_experts=4, top_k=2, init="partition")
    prune_experts(model, keep=2, data=images)
    before = copy.deepcopy(model.blocks[5].mlp.state_dict())
    with pytest.raises(RuntimeError, match=r"blocks\.5\.mlp\.moe\.experts\.w_in"):
        model.load_state_dict(state)
    assert all(torch.equal(before[key], tensor) for key, tensor in model.blocks[5].mlp.state_dict().items())
