"""FLOPs: counted ones equal hand calculations and formulas, and belong to the right module."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from moezoo.errors import InputError
from moezoo.measure import Flops, flops
from moezoo.moe import MoELayer


class Block(nn.Module):
    """Its MoE is a child applied by a forward hook, as injected adapters are."""

    def __init__(self, **args):
        super().__init__()
        self.fc = nn.Linear(8, 8)
        self.entity_moe = MoELayer(8, **{"num_experts": 4, "hidden_dim": 12, **args})
        self.register_forward_hook(lambda module, _args, out: out + module.entity_moe(out))

    def forward(self, x):
        return self.fc(x)


class Net(nn.Module):
    def __init__(self, **args):
        super().__init__()
        self.block = Block(**args)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.drop(self.block(x)))


MOE = 2 * 10 * 8 * 4 + 20 * 2 * 192  # router and 20 assignments of (8 -> 12 -> 8)


@pytest.mark.parametrize("path", ["loop", "grouped"])
def test_executed_and_analytic_flops_equal_the_hand_calculation(path):
    result = flops(Net(top_k=2, path=path), torch.randn(2, 5, 8))
    assert isinstance(result, Flops)
    assert result.executed == result.analytic == 2 * 10 * 64 + MOE + 2 * 10 * 16
    assert result.macs == result.executed // 2


def test_every_module_owns_what_ran_inside_it_hooks_included():
    by_module = flops(Net(top_k=2), torch.randn(2, 5, 8)).by_module
    assert by_module == {
        "": 2 * 10 * 64 + MOE + 2 * 10 * 16,
        "block": 2 * 10 * 64 + MOE,
        "block.fc": 2 * 10 * 64,
        "block.entity_moe": MOE,
        "block.entity_moe.router": 2 * 10 * 8 * 4,
        "block.entity_moe.experts": 20 * 2 * 192,
        "head": 2 * 10 * 16,
    }


def test_dropped_assignments_cost_nothing():
    net = Net(top_k=2, capacity_factor=0.5)
    result = flops(net, torch.randn(2, 5, 8))
    kept = (result.by_module["block.entity_moe.experts"]) // (2 * 192)
    assert kept < 20
    assert result.executed == result.analytic


def test_padding_is_executed_work_and_not_in_the_formula():
    result = flops(MoELayer(5, num_experts=2, hidden_dim=7, path="grouped"), torch.randn(10, 5))
    assert result.analytic == 2 * 10 * 5 * 2 + 10 * 2 * 70
    assert result.executed == 2 * 10 * 5 * 2 + 10 * 2 * (8 * 8 + 8 * 8)


def test_a_layer_called_twice_counts_twice():
    layer = MoELayer(8, num_experts=4, top_k=2, hidden_dim=12)
    result = flops(nn.Sequential(layer, layer), torch.randn(10, 8))
    assert result.executed == result.analytic == 2 * MOE
    assert result.by_module["0"] == 2 * MOE


def test_the_model_is_as_before_mode_by_mode():
    net = Net()
    net.train()
    net.block.eval()
    grads = torch.is_grad_enabled()
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules()]
    result = flops(net, torch.randn(2, 5, 8))
    assert net.training
    assert net.head.training
    assert not net.block.training
    assert not net.block.fc.training
    assert torch.is_grad_enabled() is grads
    assert hooks == [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules()]
    assert result.executed == flops(net.eval(), torch.randn(2, 5, 8)).executed


def test_counting_happens_in_evaluation_mode():
    norm = nn.BatchNorm1d(8)
    before = norm.running_mean.clone()
    flops(nn.Sequential(nn.Linear(8, 8), norm), torch.randn(4, 8) + 5)
    assert torch.equal(norm.running_mean, before)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_attention_products_of_a_vit_are_counted(device):
    with torch.device(device):
        vit = timm.create_model("test_vit", num_classes=10)
    batch = 2
    x = torch.randn(batch, *vit.default_cfg["input_size"])
    result = flops(vit, x)
    block = vit.blocks[0].attn
    tokens, width = vit.patch_embed.num_patches + vit.num_prefix_tokens, vit.embed_dim
    products = 4 * batch * block.num_heads * tokens * tokens * block.head_dim
    linear = 2 * batch * tokens * width * 4 * width
    assert result.by_module["blocks.0.attn"] == products + linear
    assert result.analytic == result.executed


@pytest.mark.parametrize("mask", [False, True])
def test_fused_attention_counts_like_its_two_products(mask):
    class Attention(nn.Module):
        def forward(self, q, k, v):
            bias = torch.zeros(7, 9) if mask else None
            return nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)

    q, k, v = torch.randn(2, 3, 7, 4), torch.randn(2, 3, 9, 4), torch.randn(2, 3, 9, 4)
    assert flops(Attention(), (q, k, v)).executed == 2 * 2 * 3 * 7 * 9 * 4 * 2


def test_the_fused_transformer_path_is_opened_and_restored():
    layer = nn.TransformerEncoderLayer(8, 2, dim_feedforward=16, batch_first=True).eval()
    result = flops(layer, torch.randn(2, 5, 8))
    attention = 2 * 10 * 8 * 32 + 4 * 2 * 2 * 5 * 5 * 4
    assert result.executed == attention + 2 * 10 * 8 * 16 * 2
    assert torch.backends.mha.get_fastpath_enabled()


def test_matrix_vector_products_count():
    class Vectors(nn.Module):
        def forward(self, m, v):
            return m @ v, v @ v, torch.addmv(m[:, 0], m, v)

    assert flops(Vectors(), (torch.randn(5, 3), torch.randn(3))).executed == 2 * 15 + 2 * 3 + 2 * 15


def test_meta_models_are_counted_as_if_nothing_was_dropped():
    with torch.device("meta"):
        net = Net(top_k=2, capacity_factor=0.25)
    result = flops(net, torch.randn(2, 5, 8))
    assert result.executed == result.analytic == 2 * 10 * 64 + MOE + 2 * 10 * 16


def test_inputs_are_moved_to_the_models_type_and_may_be_named():
    net = Net(top_k=2).bfloat16()
    x = torch.randn(2, 5, 8)
    assert flops(net, x).executed == flops(net, (x,)).executed == flops(net, {"x": x}).executed > 0


def test_a_meta_input_for_a_real_model_is_refused():
    with pytest.raises(InputError, match="meta device"):
        flops(Net(), torch.randn(2, 5, 8, device="meta"))


def test_a_compiled_model_is_counted_as_it_was():
    net = Net(top_k=2)
    x = torch.randn(2, 5, 8)
    assert flops(torch.compile(net, backend="eager"), x) == flops(net, x)


def test_a_parameter_handed_to_a_module_is_no_obstacle_and_stays_trainable():
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.query, self.inner = nn.Parameter(torch.ones(3, 4)), nn.Linear(4, 5)

        def forward(self, x):
            return x + self.inner(self.query)

    model = Outer()
    assert flops(model, torch.randn(3, 5)).executed == 2 * 3 * 4 * 5
    assert all(p.requires_grad for p in model.parameters())
