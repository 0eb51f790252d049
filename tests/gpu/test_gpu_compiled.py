"""Compiled, exported and captured, a layer and a model compute on a GPU what they do eagerly."""

from __future__ import annotations

import copy

import pytest
import torch
from comparing import apart, assert_near
from contract_models import answer, images_for, make
from torch import nn

import moezoo
from moezoo.export import export_model
from moezoo.moe import MoELayer, aux_loss
from moezoo.moe.aux import mark_root


class Block(nn.Module):
    def __init__(self, **args):
        super().__init__()
        self.moe = MoELayer(32, num_experts=4, hidden_dim=64, **args)

    def forward(self, x):
        return x + self.moe(x)


CASES = {
    "one": {"top_k": 1},
    "two, shared": {"top_k": 2, "num_shared_experts": 1},
    "gated, dropping": {"top_k": 2, "expert": "glu", "capacity_factor": 0.5},
    "slots": {"router": "soft"},
    "all": {"router": "dense_softmax", "top_k": 4},
    "experts choose": {"router": "expert_choice"},
}


@pytest.fixture(autouse=True)
def _anew():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("case", CASES)
def test_a_layer_compiled_as_one_graph_trains_as_eager_does(device, case):
    dtype = torch.float32 if case in ("one", "slots", "all") else torch.bfloat16
    model = Block(**CASES[case]).to(device, dtype)
    mark_root(model)
    compiled = torch.compile(model, fullgraph=True)
    for size in (2, 5):  # the second is of another shape than was compiled
        x = torch.randn(size, 24, 32, device=device, dtype=dtype)
        found = []
        for run in (model, compiled):
            model.zero_grad()
            inputs = x.clone().requires_grad_()
            y = run(inputs)
            aux = aux_loss(model)
            (y.float().square().sum() + aux).backward()
            found.append({"y": y, "aux": aux.reshape(1), "x": inputs.grad, **_gradients(model)})
        assert_near(found[1], found[0], 1e-4 if dtype == torch.float32 else 3e-2)


def _gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def test_compiled_under_autocast_it_follows_other_experts(device):
    model = Block(top_k=1).to(device).eval()
    with torch.no_grad():
        model.moe.router.weight.copy_(torch.eye(32)[:4])
    compiled = torch.compile(model, fullgraph=True)
    with torch.autocast(device.type, torch.bfloat16), torch.no_grad():
        for expert in range(4):
            x = torch.eye(32, device=device)[expert].expand(6, 32)
            assert apart(compiled(x), model(x)) < 1e-2


@pytest.mark.parametrize("case", CASES)
def test_exported_it_follows_other_experts_and_sizes(device, case):
    model = Block(**CASES[case]).to(device).eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    x = torch.randn(3, 24, 32, device=device)
    program = torch.export.export(model, (x,), dynamic_shapes={"x": {0: batch}}).module()
    for size in (3, 1, 8):
        x = torch.randn(size, 24, 32, device=device)
        assert apart(program(x), model(x)) < 1e-4


@pytest.mark.parametrize("name", ["entity_moe/digits", "multiscale_moe/msvr310", "soft_moe/b16"])
def test_a_model_compiled_as_one_graph(device, name):
    model = make(name).to(device)
    images = images_for(model).to(device)
    reference = copy.deepcopy(model)
    compiled = torch.compile(model, fullgraph=True)
    found = []
    for run, owner in ((compiled, model), (reference, reference)):
        (answer(run, images).square().mean() + moezoo.aux_loss(owner)).backward()
        found.append({key: p.grad for key, p in owner.named_parameters() if p.grad is not None})
    assert_near(*found, 1e-3)
    model.eval(), reference.eval()
    with torch.no_grad():
        assert apart(answer(compiled, images), answer(reference, images)) < 1e-4


@pytest.mark.parametrize("format", ["pt2", "onnx"])
def test_a_file_is_exported_from_the_device(device, format, tmp_path):
    if format == "onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    model = make("entity_moe/digits").eval().to(device)
    exported = export_model(model, tmp_path / f"model.{format}", format=format)
    assert exported.parity is not None
    assert {p.device.type for p in model.parameters()} == {device.type}
