"""Which tensors stay with a client and which are shared."""

from __future__ import annotations

import pytest
import torch
from federated_toys import net
from torch import nn

from moezoo.errors import ConfigError, InputError
from moezoo.federated import FederatedMoE, server_model, split_parameters
from moezoo.moe import MoELayer


@pytest.mark.parametrize(
    ("options", "stacks", "kept"),
    [
        ({"router": "softmax_topk"}, {"router.weight": 0, "experts.w_in": 0}, 0),
        ({"router": "multihead", "expert": "glu"}, {"router.weight": 1, "experts.b_out": 0}, 0),
        ({"router": "sigmoid_bias", "expert": "residual_mlp"}, {"router.bias": 0, "experts.norm1_weight": 0}, 0),
        ({"router": "attentive", "expert": "lora"}, {"router.keys": 0, "experts.up_in": 0}, 0),
        ({"expert": "modules", "expert_args": {"make": lambda e: nn.Linear(8, 8)}}, {"router.weight": 0}, 4),
    ],
)
def test_local_and_global_tensors_together_are_the_model_and_apart_they_share_no_number(options, stacks, kept):
    model = nn.Sequential(nn.Linear(8, 8), MoELayer(8, num_experts=5, top_k=2, hidden_dim=4, **options))
    split = split_parameters(model, [1, -1])
    shared, local = split.global_state(model), split.local_state(model)
    whole = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert split.local_experts == {"1": (1, 4)}
    for name, axis in stacks.items():
        assert split.stacks[f"1.{name}"] == ("1", axis)
        assert shared[f"1.{name}"].shape[axis] == 3
        assert torch.equal(local[f"1.{name}"], whole[f"1.{name}"].index_select(axis, torch.tensor([1, 4])))
    assert len(split.kept) == kept
    assert not split.kept & set(shared)
    assert "0.weight" in shared
    assert "0.weight" not in local
    assert sum(t.numel() for t in (*shared.values(), *local.values())) == sum(t.numel() for t in whole.values())
    other = nn.Sequential(nn.Linear(8, 8), MoELayer(8, num_experts=5, top_k=2, hidden_dim=4, **options))
    split.load_global(other, shared)
    split.load_local(other, local)
    assert all(torch.equal(tensor, whole[name]) for name, tensor in other.state_dict().items())


def test_loading_changes_nothing_of_the_other_part():
    model = net()
    split = split_parameters(model)
    before = split.local_state(model)
    split.load_global(model, {name: torch.zeros_like(t) for name, t in split.global_state(model).items()})
    after = split.local_state(model)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(not tensor.any() for tensor in split.global_state(model).values())


def test_layers_are_named_by_patterns_and_wrong_names_and_numbers_are_refused():
    model = nn.Sequential(MoELayer(8, num_experts=2, hidden_dim=4), MoELayer(8, num_experts=4, hidden_dim=4))
    assert split_parameters(model, {"1": [2, 3]}).local_experts == {"0": (), "1": (2, 3)}
    assert split_parameters(model, {"*": [0]}).local_experts == {"0": (0,), "1": (0,)}
    assert split_parameters(model, ()).local_state(model) == {}
    for local, message in (
        ([3], "is no expert of '0', which has 2"),
        ({"2": [0]}, "'2' is no MoE layer"),
        ([0, -2], "twice"),
        ("0", "must be numbers"),
        (None, "FederatedMoE"),
    ):
        with pytest.raises(ConfigError, match=message):
            split_parameters(model, local)
    with pytest.raises(ConfigError, match="no MoE layer"):
        split_parameters(nn.Linear(2, 2), [0])
    with pytest.raises(ConfigError, match="expert_axes"):
        split_parameters(MoELayer(8, num_experts=2, hidden_dim=4, router="score_threshold"), [0])
    split = split_parameters(model, [0])
    with pytest.raises(InputError, match="must be"):
        split.load_global(model, {"0.router.weight": torch.zeros(2, 8)})
    with pytest.raises(InputError, match="no tensor"):
        split.load_global(model, {"0.router.weigth": torch.zeros(1, 8)})


def test_the_layer_alone_gates_over_local_and_global_experts_and_every_parameter_learns():
    torch.manual_seed(0)
    layer = FederatedMoE(8, num_local=2, num_global=3, hidden_dim=16, top_k=2)
    assert (layer.global_experts, layer.local_experts, layer.num_experts) == ((0, 1, 2), (3, 4), 5)
    x = torch.randn(4, 50, 8)
    out = layer(x)
    assert out.shape == x.shape
    out.square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in layer.parameters())
    assert split_parameters(layer).local_experts == {"": (3, 4)}
    with pytest.raises(ConfigError, match="num_global"):
        FederatedMoE(8, num_local=1, num_global=0)


def test_the_servers_model_computes_what_the_whole_one_does_where_no_local_expert_is_chosen():
    model = net().eval()
    split = split_parameters(model)
    with torch.no_grad():
        # Positive tokens against a negative row: the local expert's logit is the least.
        model.moe.router.weight[2] = -100.0
    small = server_model(model, split, split.global_state(model)).eval()
    x = torch.rand(20, 8) + 0.1
    assert small.moe.num_experts == 2
    chosen = model.moe.router(x).expert_index
    assert 2 not in chosen
    assert torch.allclose(small.moe(x), model.moe(x), atol=1e-6)
    assert model.moe.num_experts == 3
