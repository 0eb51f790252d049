"""The path that exporting takes: right for idle experts and dropped rows, and no expert computes rows not its own."""

import onnx
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from moezoo.export import export_model
from moezoo.moe import MoELayer


def build(path: str, **args) -> MoELayer:
    torch.manual_seed(0)
    layer = MoELayer(8, num_experts=4, top_k=2, hidden_dim=5, path=path, **args)
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(torch.randn_like(p))
    return layer.double().eval()


@pytest.mark.parametrize(
    "args",
    [{}, {"capacity_factor": 0.5}, {"router": "relu"}, {"router": "top_p"}, {"expert": "glu"}],
    ids=["plain", "capacity", "relu", "top_p", "glu"],
)
@pytest.mark.parametrize("tokens", [0, 1, 40])
def test_it_gives_what_the_reference_gives(args, tokens):
    x = torch.randn(tokens, 8, dtype=torch.float64)
    torch.testing.assert_close(build("static", **args)(x), build("loop", **args)(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("args", [{}, {"capacity_factor": 0.5}, {"router": "relu"}], ids=["plain", "capacity", "relu"])
def test_no_expert_computes_a_row_that_is_not_its_own(args):
    x = torch.randn(40, 8, dtype=torch.float64)
    flops = []
    for path in ("static", "loop"):
        layer = build(path, **args)
        with FlopCounterMode(display=False) as counter:
            layer(x)
        flops.append(counter.get_total_flops())
    assert flops[0] == flops[1]


def test_an_idle_expert_gets_a_zero_gradient():
    layer = build("static")
    layer(torch.ones(3, 8, dtype=torch.float64)).sum().backward()
    idle = layer.experts.w_in.grad.flatten(1).abs().sum(1) == 0
    assert idle.sum() == 2


def test_an_expert_adds_a_fixed_and_small_number_of_nodes(tmp_path):
    nodes = []
    for num_experts in (2, 4, 8):
        layer = MoELayer(8, num_experts=num_experts, hidden_dim=5)
        file = export_model(layer, tmp_path / "layer.onnx", input_size=(5, 8), check=False).file
        nodes.append(len(onnx.load(file).graph.node))
    assert nodes[2] - nodes[1] == 2 * (nodes[1] - nodes[0])
    assert nodes[1] - nodes[0] <= 2 * 12
