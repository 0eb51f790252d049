"""Training through inductor, one name for each kind of backbone."""

import copy

import pytest
import torch
from contract_models import images_for, make

import moezoo


@pytest.mark.slow
@pytest.mark.parametrize("name", ["entity_moe/digits", "entity_moe/swin_tiny.last_stage", "entity_moe/resnet50.layer4"])
def test_inductor_compiles_training_as_one_graph(name):
    model = make(name, drop_path_rate=0.0)  # Swin has some by default, and the two runs would draw it differently
    images = images_for(model)
    reference = copy.deepcopy(model)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True)
    for run, owner in ((compiled, model), (reference, reference)):
        (run(images).square().mean() + moezoo.aux_loss(owner)).backward()
    for (key, a), b in zip(model.named_parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-4, msg=key)
