"""Compiled and exported, what every registered name is made of computes what it does eagerly."""

import copy

import pytest
import torch
from contract_models import answer, distinct_when_small, images_for, make, one_per_layout, others_slow

import moezoo

NAMES = distinct_when_small(moezoo.list_models())


@pytest.mark.parametrize("name", others_slow(NAMES, one_per_layout(NAMES)))
def test_compiles_as_one_graph_and_exports(name):
    model = make(name).eval()
    images = images_for(model)
    other = torch.randn_like(images)  # other tokens, other experts than those traced
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    exported = torch.export.export(model, (images,)).module()
    with torch.no_grad():
        for x in (images, other):
            want = answer(model, x)
            torch.testing.assert_close(answer(compiled, x), want, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(answer(exported, x), want, rtol=1e-4, atol=1e-5)


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
