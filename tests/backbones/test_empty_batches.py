"""Empty batches: zero rows out, and nothing left behind on the model."""

import copy
import pickle

import pytest
import timm
import torch

import moezoo
from moezoo.backbones.empty import allow_empty_batches
from moezoo.moe.routers import AdaptiveRouter

ADAPTER = {"num_experts": 2, "num_experts_shared": 1, "expert_dim": 8, "mlp_ratio": 0.25}
SWIN = {
    "img_size": 32,
    "num_classes": 5,
    "backbone_args": {"embed_dim": 16, "depths": [1, 2], "num_heads": [1, 2], "window_size": 2},
}
EMPTY, IMAGES = torch.zeros(0, 3, 32, 32), torch.randn(2, 3, 32, 32)


@pytest.fixture
def swin():
    """A backbone that cannot take an empty batch itself."""
    return moezoo.create_model("entity_moe/swin_tiny", **SWIN, **ADAPTER)


def test_images_by_keyword_are_checked_and_may_be_empty(swin):
    assert swin(x=EMPTY).shape == (0, 5)
    with pytest.raises(moezoo.errors.InputError, match="in_chans=1"):
        swin(x=torch.zeros(2, 1, 32, 32))


def test_a_forward_that_raises_leaves_no_stand_in_behind(swin):
    def fail(*_):
        raise ValueError("interrupted")

    handle = swin.head.register_forward_hook(fail)
    with pytest.raises(ValueError, match="interrupted"):
        swin(EMPTY)
    handle.remove()
    assert swin.forward_features(IMAGES).shape[0] == 2
    assert swin(IMAGES).shape == (2, 5)


def test_running_statistics_do_not_see_the_stand_in():
    model = moezoo.create_model("entity_moe/levit_128s", num_classes=3, **ADAPTER).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    out = model(torch.zeros(0, 3, 224, 224))
    assert out.shape == (0, 3)
    (out.sum() + moezoo.aux_loss(model)).backward()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("name", ["vit_tiny", "swin_tiny"])
def test_feature_models_take_empty_batches(name):
    args = SWIN if name == "swin_tiny" else {"img_size": 32, "backbone_args": {"patch_size": 8, "depth": 2}}
    model = moezoo.create_model(f"entity_moe/{name}", features_only=True, **args, **ADAPTER)
    assert [m.shape[1:] for m in model(EMPTY)] == [m.shape[1:] for m in model(IMAGES)]
    assert all(len(m) == 0 for m in model(EMPTY))


def test_copies_and_exports_after_an_empty_batch_work(swin):
    swin.eval()(EMPTY)
    for twin in (copy.deepcopy(swin), pickle.loads(pickle.dumps(swin))):
        assert twin(EMPTY).shape == (0, 5)
        assert torch.equal(twin(IMAGES), swin(IMAGES))
    exported = torch.export.export(swin, (IMAGES,)).module()
    torch.testing.assert_close(exported(IMAGES), swin(IMAGES))


def test_compiled_models_take_full_and_empty_batches_in_turn(swin):
    compiled = torch.compile(swin.eval(), backend="eager", dynamic=False)
    assert [len(compiled(x)) for x in (IMAGES, EMPTY, IMAGES, EMPTY)] == [2, 0, 2, 0]


def test_routers_that_count_do_not_count_the_stand_in():
    model = moezoo.upcycle(
        timm.create_model("test_vit4", img_size=32), "last", num_experts=2, top_k=1, router="sigmoid_bias"
    )
    allow_empty_batches(model)
    model.moezoo_takes_empty = False  # so that blank images stand in
    router = next(m for m in model.modules() if isinstance(m, AdaptiveRouter))
    model(IMAGES)
    counted = router.tally.clone()
    assert counted[-1] > 0
    model(EMPTY)
    assert torch.equal(router.tally, counted)
