"""Losses that are summed over the layers, reported unweighted, and told beside the output."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from moezoo.errors import ConfigError
from moezoo.moe import MoELayer, aux_loss, collect_aux, losses, set_aux_mode
from moezoo.moe.aux import aux_terms, mark_root

WEIGHTS = {"router_z": 0.5, "load_balancing": 0.25}


class Net(nn.Module):
    def __init__(self, reductions=("sum", "sum", "sum")):
        super().__init__()
        args = {"num_experts": 4, "top_k": 2, "hidden_dim": 6, "aux_weights": WEIGHTS}
        self.layers = nn.ModuleList(MoELayer(8, layer_reduction=how, **args) for how in reductions)
        mark_root(self)

    def forward(self, x):
        for layer in self.layers:
            x = x + layer(x)
        return x


def terms_of_layers(net, x):
    """The losses of every layer, kind by kind."""
    routings = []
    handles = [
        layer.router.register_forward_hook(lambda _m, _a, routing: routings.append(routing)) for layer in net.layers
    ]
    net(x)
    for handle in handles:
        handle.remove()
    return {kind: [losses.AUX_LOSSES[kind](routing) for routing in routings] for kind in WEIGHTS}


def test_layers_may_ask_for_the_sum():
    net, x = Net(), torch.randn(5, 8)
    found = terms_of_layers(net, x)
    sums = {kind: torch.stack(values).sum() for kind, values in found.items()}
    torch.testing.assert_close(aux_loss(net), sum(WEIGHTS[kind] * value for kind, value in sums.items()))
    torch.testing.assert_close(aux_terms(net), sums)
    net.eval()
    net(x)
    assert aux_terms(net) == {}


def test_sums_and_means_live_side_by_side():
    net, x = Net(("mean", "sum", "mean")), torch.randn(5, 8)
    found = terms_of_layers(net, x)
    want = {kind: values[1] + (values[0] + values[2]) / 2 for kind, values in found.items()}
    torch.testing.assert_close(aux_terms(net), want)


def test_several_forwards_are_averaged_and_layers_summed():
    net, parts = Net(), torch.randn(3, 5, 8)
    one_by_one = []
    for part in parts:
        net(part)
        one_by_one.append(aux_loss(net))
    with collect_aux(net) as aux:
        for part in parts:
            net(part)
    torch.testing.assert_close(aux(), torch.stack(one_by_one).mean())


@pytest.mark.parametrize("reductions", [("sum",) * 3, ("mean", "sum", "mean")])
def test_attached_sums_give_the_gradient_of_collected_ones(reductions):
    net, x = Net(reductions).double(), torch.randn(5, 8, dtype=torch.float64)
    (net(x).sum() + aux_loss(net)).backward()
    want = [p.grad.clone() for p in net.parameters()]
    reported = aux_terms(net)
    set_aux_mode(net, "attached")
    net.zero_grad()
    output = net(x)
    assert aux_loss(net) == 0
    torch.testing.assert_close(aux_terms(net), reported)
    output.sum().backward()
    for p, grad in zip(net.parameters(), want, strict=True):
        torch.testing.assert_close(p.grad, grad)


def test_losses_of_weight_zero_are_reported_where_they_are_asked_for():
    layer, x = MoELayer(8, num_experts=4, aux_weights={"router_z": 0.0}), torch.randn(5, 8)
    layer(x)
    assert aux_terms(layer) == {}
    layer.aux.report = True
    layer(x)
    assert aux_terms(layer)["router_z"] > 0
    assert aux_loss(layer) == 0


def test_a_layer_tells_its_routing_once_whatever_is_recomputed():
    layer, x, told = MoELayer(8, num_experts=4), torch.randn(5, 8, requires_grad=True), []
    checkpoint(layer, x, note=told.append, use_reentrant=False).sum().backward()
    (routing,) = told
    assert routing.num_tokens == 5


def test_unknown_reductions_are_refused():
    with pytest.raises(ConfigError, match=r"layer_reduction='summ'.*Did you mean: sum"):
        MoELayer(8, num_experts=4, layer_reduction="summ")
