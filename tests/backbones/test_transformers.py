"""Injection into a user's own transformers model: every kind of vision encoder, bit for bit, hidden states included."""

import copy
import pickle

import pytest
import torch
from torch.utils._pytree import tree_leaves
from transformers_models import BLOCKS, LAYOUTS, MAKERS, make

import moezoo
from moezoo.backbones.hf.config import image_size
from moezoo.backbones.hf.encoder import vision_part
from moezoo.backbones.inject import adapters_of
from moezoo.errors import InjectionError

SMALL = {"num_experts": 2, "num_experts_shared": 1, "mlp_ratio": 0.5, "dropout": 0.0}


def run(name, model, **kwargs):
    """All floating tensors of the model's output; MAE draws the patches it hides, here always the same."""
    torch.manual_seed(3)
    height, width = image_size(model.config)
    images = torch.randn(2, 3, min(height, 64), min(width, 64))
    more = {"noise": torch.rand(2, 16)} if name == "mae" else {}
    with torch.no_grad():
        return model(pixel_values=images, **more, **kwargs)


def floats(output):
    return [t for t in tree_leaves(dict(output)) if isinstance(t, torch.Tensor) and t.is_floating_point()]


def open_adapters(model):
    for adapter in adapters_of(model).values():
        torch.nn.init.normal_(adapter.ffn.fc2.weight, std=0.5)


@pytest.mark.parametrize("name", MAKERS)
def test_every_encoder_is_exact_at_first_and_changed_by_an_adapter_that_ran_once(name):
    model = make(name)
    keys = list(model.state_dict())
    before = floats(run(name, model))
    assert moezoo.inject_moe(model, "all", **SMALL) is model
    adapters = adapters_of(model)
    assert len(adapters) == BLOCKS.get(name, 3)
    assert {a.site.layout for a in adapters.values()} == {
        next((layout for layout, names in LAYOUTS.items() if name in names), "NLC")
    }
    assert [key for key in model.state_dict() if ".entity_moe." not in key] == keys

    calls = dict.fromkeys(adapters, 0)
    for path, adapter in adapters.items():
        adapter.register_forward_hook(lambda *_, path=path: calls.__setitem__(path, calls[path] + 1))
    after = floats(run(name, model))
    assert set(calls.values()) == {1}
    assert len(before) == len(after)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))

    open_adapters(model)
    changed = floats(run(name, model))
    assert any(not torch.allclose(a, b, rtol=1e-3) for a, b in zip(before, changed, strict=True))


@pytest.mark.parametrize("name", [name for name in MAKERS if name not in ("sam", "sam2", "sam3")])
def test_hidden_states_hold_what_the_adapters_made(name):
    model = make(name)
    plain = run(name, model, output_hidden_states=True).hidden_states
    moezoo.inject_moe(model, "last", **SMALL)
    exact = run(name, model, output_hidden_states=True).hidden_states
    assert len(plain) == len(exact)
    assert all(torch.equal(a, b) for a, b in zip(plain, exact, strict=True))

    open_adapters(model)
    kept = []
    (path,) = adapters_of(model)
    model.get_submodule(path.rpartition(".")[0]).register_forward_hook(lambda m, args, out: kept.append(out))
    states = run(name, model, output_hidden_states=True).hidden_states
    wanted = kept[0][0] if isinstance(kept[0], tuple) else kept[0]
    if name == "segformer":  # its stages end with a norm behind the last block
        wanted = model.stages[-1].layer_norm(wanted)
    assert any(s.numel() == wanted.numel() and torch.equal(_rows(s), _rows(wanted)) for s in states)
    assert torch.equal(states[0], plain[0])


def _rows(tensor):
    """The same values whatever the layout: (B, everything), sorted."""
    return tensor.flatten(1).sort(dim=1).values


def test_the_encoder_of_a_model_with_prompts_or_text_is_found():
    model = make("sam")
    moezoo.inject_moe(model, ["vision_encoder.layers.0", -1], **SMALL)
    assert list(adapters_of(model)) == ["vision_encoder.layers.0.entity_moe", "vision_encoder.layers.3.entity_moe"]
    assert vision_part(model) == ("vision_encoder", model.vision_encoder)
    assert model.vision_encoder.entity_moe_config["inject_layers"] == [0, 3]
    model.train()
    run("sam", model)
    with pytest.raises(InjectionError, match="already has an adapter"):
        moezoo.inject_moe(model, "last")


def test_the_towers_of_clip_share_nothing():
    import transformers as hf
    from transformers_models import VIT

    text = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = hf.CLIPModel(hf.CLIPConfig(text_config=text, vision_config=VIT, projection_dim=8)).eval()
    moezoo.inject_moe(model, "last", **SMALL)
    assert [path.split(".")[0] for path in adapters_of(model)] == ["vision_model"]
    assert moezoo.aux_loss(model) == 0


def test_training_gives_the_router_a_gradient_and_the_auxiliary_loss_counts_once():
    model = make("vit").train()
    moezoo.inject_moe(model, "all", **SMALL)
    open_adapters(model)
    output = model(pixel_values=torch.randn(2, 3, 32, 32))
    loss = output.last_hidden_state.square().mean() + moezoo.aux_loss(model)
    loss.backward()
    assert moezoo.aux_loss(model) > 0
    for adapter in adapters_of(model).values():
        assert adapter.moe.router.weight.grad.abs().sum() > 0


def test_transformers_own_checkpointing_gives_the_same_gradients_and_loss():
    def gradients(checkpointing):
        model = make("dinov2").train()
        torch.manual_seed(1)
        moezoo.inject_moe(model, "all", **SMALL)
        open_adapters(model)
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        torch.manual_seed(2)
        (model(pixel_values=torch.randn(2, 3, 32, 32)).last_hidden_state.sum() + moezoo.aux_loss(model)).backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    plain, again = gradients(False), gradients(True)
    assert plain.keys() == again.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(again[name], gradient, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["vit", "swin", "sam"])
def test_injected_models_copy_pickle_and_save_as_transformers_models_do(name, tmp_path):
    model = make(name)
    moezoo.inject_moe(model, "last", **SMALL)
    open_adapters(model)
    want = floats(run(name, model))
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert all(torch.equal(a, b) for a, b in zip(want, floats(run(name, other)), strict=True))
    model.save_pretrained(tmp_path)
    plain = type(model).from_pretrained(tmp_path)  # the adapters' keys are extra to transformers
    moezoo.inject_moe(plain, "last", **SMALL)
    plain.load_state_dict(model.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(want, floats(run(name, plain.eval())), strict=True))


def test_a_library_cache_filled_while_tracing_hands_out_no_fake_tensor():
    model = make("dinov3_vit")
    moezoo.inject_moe(model, "last", **SMALL)  # traced before the first real forward
    assert all(type(t) is torch.Tensor for t in floats(run("dinov3_vit", model)))


def test_masked_tokens_are_not_taken_for_a_grid():
    model = make("mae")
    moezoo.inject_moe(model, "last", **SMALL)
    (adapter,) = adapters_of(model).values()
    assert adapter.site.grid is None
