"""Mobile V-MoE: whole images go to experts, which super-classes may teach."""

import copy
import pickle

import pytest
import torch

import moezoo
from moezoo.errors import ConfigError, InputError
from moezoo.models.mobile_vmoe import SuperClassLoss
from moezoo.moe import MoELayer


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return moezoo.create_model("mobile_vmoe/digits").train()


def images(batch=6):
    """Of different brightness."""
    noise = torch.randn(batch, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    return noise + 3 * torch.linspace(-1, 1, batch).view(-1, 1, 1, 1)


def test_an_image_uses_the_same_expert_for_all_its_tokens(model):
    with moezoo.record_routing(model) as records:
        model(images())
    assert [record.name for record in records] == ["blocks.2.mlp.moe", "blocks.3.mlp.moe"]
    for record in records:
        chosen = record.routing.expert_index.view(6, -1)
        assert (chosen == chosen[:, :1]).all()
        assert len(chosen[:, 0].unique()) > 1
        assert record.routing.weight.max() < 1  # the router's probability, so that it learns from the task


def test_super_classes_are_taught_by_cross_entropy_on_the_choice(model):
    classes = [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    loss, labels = SuperClassLoss(model, classes, weight=0.3), torch.tensor([9, 0, 3, 4, 7, 2])
    with moezoo.record_routing(model) as records:
        model(images())
    got = loss(labels)
    want = 0.0
    for record in records:
        logits = record.routing.logits.detach().double().view(6, -1, 5)[:, 3]
        for row, label in zip(logits, labels.tolist(), strict=True):
            want += (row.exp().sum().log() - row[label // 2]).item() / 6 / 2 * 0.3
    assert got.item() == pytest.approx(want, rel=1e-5)
    model.zero_grad()
    got.backward()
    layers = [m for m in model.modules() if isinstance(m, MoELayer)]
    assert all(layer.router.weight.grad.any() for layer in layers)
    assert layers[-1].experts.w_in.grad is None
    with pytest.raises(InputError, match="4 labels were given for the 6 images"):
        loss(labels[:4])
    for wrong, words in ((labels - 1, "from 0 to 9, got -1"), (labels + 1, "got 10"), (labels.float(), "float32")):
        with pytest.raises(InputError, match=words):
            loss(wrong)
    loss.remove()
    with pytest.raises(InputError, match="there was none"):
        loss(labels)


def test_a_copy_of_a_model_that_is_taught_is_its_own(model):
    loss, labels = SuperClassLoss(model, torch.arange(10) // 2), torch.tensor([9, 0, 3, 4, 7, 2])
    model(images())
    want = loss(labels)
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        copied(-images())
        assert torch.equal(loss(labels), want)
    loss.remove()


def test_it_learns_to_send_super_classes_to_their_experts():
    torch.manual_seed(0)
    model = moezoo.create_model("mobile_vmoe/digits", load_balance_weight=0.0).train()
    loss, labels = SuperClassLoss(model, list(range(5)) * 2), torch.tensor([0, 1, 2, 3, 4, 9])
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(25):
        optimizer.zero_grad()
        model(images())
        (loss(labels) + moezoo.aux_loss(model)).backward()
        optimizer.step()
    with moezoo.record_routing(model) as records:
        model(images())
    assert records[-1].routing.expert_index.view(6, -1)[:, 0].tolist() == [0, 1, 2, 3, 4, 4]


@pytest.mark.parametrize(
    ("classes", "words"),
    [([0, 5], "5 is no super-class; allowed are 0 to 4"), ([-1], "-1 is no"), ([True], "True is no"), ([], "none")],
)
def test_super_classes_without_an_expert_are_refused(model, classes, words):
    with pytest.raises(ConfigError, match=words):
        SuperClassLoss(model, classes)


def test_a_model_without_such_a_router_is_refused():
    with pytest.raises(ConfigError, match="no per-image router"):
        SuperClassLoss(torch.nn.Linear(2, 2), [0])
