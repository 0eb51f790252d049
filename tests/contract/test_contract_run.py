"""Every registered model, made small, on real tensors: what any of them must be able to do."""

import copy
import pickle

import pytest
import timm
import torch
from contract_models import (
    answer,
    distinct_when_small,
    disturb,
    full_answer,
    images_for,
    is_classifier,
    is_routed,
    layers_run,
    learns_routes,
    make,
)
from torch.nn import functional as F

import moezoo

NAMES = distinct_when_small(moezoo.list_models())
pytestmark = pytest.mark.parametrize("name", NAMES)
UNPROMPTED = "prompt_encoder."
"""What SAM has for prompts gets no gradient from images alone."""


def test_every_parameter_gets_a_finite_gradient_and_a_step_lowers_the_loss(name):
    model = make(name)
    images, labels = images_for(model, 4), torch.tensor([0, 1, 2, 3])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(4):
        torch.manual_seed(0)  # routers that draw lots draw the same
        output = full_answer(model, images)
        task = F.cross_entropy(output, labels) if is_classifier(name) else (output - 1).square().mean()
        loss = task + moezoo.aux_loss(model)
        optimizer.zero_grad()
        loss.backward()
        losses.append(loss.item())
        for key, parameter in model.named_parameters():
            if not key.startswith(UNPROMPTED):
                assert parameter.grad is not None, key
                assert parameter.grad.isfinite().all(), key
        optimizer.step()
    assert losses[-1] < losses[0]


def test_bfloat16_and_autocast_stay_close(name):
    model = make(name).eval()
    if getattr(model.moezoo_config, "compute", None) == "random":
        model.set_budget(1.0)  # lots are drawn by what a sample holds: rounded otherwise, it draws others
    images = images_for(model)
    with torch.no_grad():
        want = answer(model, images)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            auto = answer(model, images)
        half = answer(model.to(torch.bfloat16), images.to(torch.bfloat16))
    assert half.dtype == torch.bfloat16
    scale = want.abs().max()
    assert (auto.float() - want).abs().max() < 0.15 * scale
    assert (half.float() - want).abs().max() < 0.15 * scale


def test_features_are_nchw_under_the_classifiers_own_keys(name):
    if getattr(make(name), "encoder", True) is None:
        with pytest.raises(moezoo.errors.ConfigError, match="no encoder"):
            make(name, features_only=True)
        return
    indices = (-2, -1) if is_classifier(name) else (0,)  # SAM has one map, its neck's
    model, features = make(name), make(name, features_only=True, out_indices=indices).eval()
    assert set(features.state_dict()) <= set(model.state_dict())
    kept = (".entity_moe.", ".token_routing.", ".mlp.")
    own = ("img_encoder.", "encoder.", "backbone.")
    assert any(key.startswith(own) or any(part in key for part in kept) for key in features.state_dict())
    result = features.load_state_dict({k: v for k, v in model.state_dict().items() if k in features.state_dict()})
    assert not result.missing_keys
    images = images_for(model)
    images = images[:, 0] if images.dim() == 5 else images  # maps are those of an image of one modality
    maps = features(images)
    want = model.eval().forward_intermediates(
        images, indices=indices, intermediates_only=True, norm=False, output_fmt="NCHW"
    )
    assert [m.shape[1] for m in maps] == features.feature_info.channels()
    assert all(torch.equal(a, b) for a, b in zip(maps, want, strict=True))


def test_timm_methods_go_on_working(name):
    model = make(name).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    assert transform is not None
    if not is_classifier(name):
        return
    images = images_for(model)
    logits = answer(model, images)
    assert torch.equal(model.forward_head(model.forward_features(images)), logits)
    groups = model.group_matcher(coarse=False)
    assert groups
    model.reset_classifier(3)
    assert answer(model, images).shape == (2, 3)
    model.reset_classifier(0)
    assert answer(model, images).shape == (2, model.head_hidden_size)


def test_copies_pickles_and_ema(name):
    model = make(name)
    images = images_for(model)
    model(images)  # leaves a graph behind, which no copy may carry
    clone, restored = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
    ema = timm.utils.ModelEmaV3(model)
    model.eval()
    want = answer(model, images)
    for other in (clone, restored, ema.module):
        assert torch.equal(answer(other.eval(), images), want)
    disturb(clone)
    assert not torch.equal(answer(clone, images), want)
    assert torch.equal(answer(model, images), want)


def test_save_and_load_give_equal_logits(name, tmp_path):
    model = make(name).eval()
    images = images_for(model)
    moezoo.save_pretrained(model, tmp_path / "saved")
    loaded = moezoo.create_model(f"local-dir:{tmp_path / 'saved'}", pretrained=True).eval()
    assert torch.equal(answer(loaded, images), answer(model, images))
    assert loaded.moezoo_config == model.moezoo_config
    fresh = moezoo.create_model(f"local-dir:{tmp_path / 'saved'}")
    assert fresh.weights_origin == "fresh"
    assert fresh.moezoo_name == model.moezoo_name


def test_aux_loss_and_recording(name):
    model = make(name)
    images = images_for(model)
    config = model.moezoo_config
    with moezoo.record_routing(model) as records:
        model(images)
    loss = moezoo.aux_loss(model)
    assert loss.isfinite()
    assert (loss > 0) if learns_routes(config) else (loss == 0)
    assert [record.name for record in records] == layers_run(model)
    assert bool(records) == is_routed(config)
    for record in records:
        assert record.grid is not None
        per_image = record.grid[0] * record.grid[1] + record.prefix_tokens
        assert record.routing.num_tokens == 2 * per_image
    model.eval()
    model(images)
    assert moezoo.aux_loss(model) == 0


def test_checkpointing_changes_neither_loss_nor_gradients(name):
    results = []
    for checkpointing in (False, True):
        model = make(name)
        model.set_grad_checkpointing(checkpointing)
        with moezoo.record_routing(model) as records:
            loss = answer(model, images_for(model)).square().mean() + moezoo.aux_loss(model)
            loss.backward()
        results.append((loss.detach(), _gradients(model), len(records)))
    (loss_a, grads_a, calls_a), (loss_b, grads_b, calls_b) = results
    torch.testing.assert_close(loss_a, loss_b)
    assert calls_a == calls_b
    for key, grad in grads_a.items():
        torch.testing.assert_close(grads_b[key], grad, rtol=1e-4, atol=1e-6, msg=key)


def test_an_empty_batch_gives_no_rows_and_no_nan(name):
    model = make(name).eval()
    assert answer(model, images_for(model)[:0]).shape == (0, answer(model, images_for(model)).shape[1])
    model.train()
    out = answer(model, images_for(model)[:0])
    loss = out.sum() + moezoo.aux_loss(model)
    loss.backward()
    assert loss == 0
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_a_batch_does_not_change_a_samples_result_in_evaluation(name):
    model = make(name).eval()
    images = images_for(model, 3)
    with torch.no_grad():
        alone = answer(model, images[1:2])
        torch.testing.assert_close(answer(model, images)[1:2], alone, rtol=1e-4, atol=1e-5)


def _gradients(model):
    return {key: p.grad for key, p in model.named_parameters() if not key.startswith(UNPROMPTED)}
