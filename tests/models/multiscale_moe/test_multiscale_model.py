"""The re-identification model: what comes out, which modalities take part, what every option costs."""

import pytest
import timm
import torch
from multiscale_toys import sightings, small
from safetensors.torch import save_file
from timm.optim import param_groups_layer_decay
from torch.nn import functional as F

import moezoo
from moezoo.backbones.create import create_backbone, load_backbone_weights
from moezoo.backbones.live import current_config
from moezoo.errors import ConfigError, InputError
from moezoo.moe import MoELayer

STRUCTURES = ("flat", "hierarchical", "cross_modal")
FUSIONS = ("moe", "mlp", "concat", "mean", "attention")


def disturb(model):
    """Gates that decide, and statistics that are not those of fresh necks."""
    generator = torch.Generator().manual_seed(3)
    for p in model.fusion.parameters():
        p.data += 0.2 * torch.randn(p.shape, generator=generator)
    for neck in model.necks.values():
        neck.running_mean.normal_(generator=generator)
    return model


def test_training_gives_pairs_of_each_modality_and_of_all_and_evaluation_one_feature():
    model = small()
    pairs = model(sightings(model))
    assert [(tuple(score.shape), tuple(feature.shape)) for score, feature in pairs] == [
        ((3, 5), (3, 24)),
        ((3, 5), (3, 24)),
        ((3, 5), (3, 48)),
    ]
    torch.testing.assert_close(torch.cat([pairs[0][1], pairs[1][1]], 1), pairs[2][1])
    features = model.eval()(sightings(model))
    assert features.shape == (3, 48)
    assert not torch.allclose(features.norm(dim=1), torch.ones(3))
    alone = small(modalities=("RGB",))
    images = sightings(alone)
    assert images.shape == (3, 3, 32, 16)
    assert [tuple(score.shape) for score, _ in alone(images)] == [(3, 5)]
    assert torch.equal(alone.eval()(images), alone(images[:, None]))
    without = small(num_classes=0)
    assert without(sightings(without)).shape == (3, 48)
    assert not list(without.get_classifier().parameters())


@pytest.mark.parametrize("structure", STRUCTURES)
def test_weights_sum_to_one_over_the_scales_and_over_the_modalities_that_are_there(structure):
    model = disturb(small(structure=structure)).eval()
    images = sightings(model)
    present = torch.tensor([[True, True], [True, False], [False, True]])
    for mask in (None, present):
        out = model(images, mask, return_weights=True)
        there = torch.ones(3, 2, dtype=torch.bool) if mask is None else mask
        torch.testing.assert_close(out.scale_weights.sum(-1), there.float())
        if structure == "flat":
            assert "modality_weights" not in out
        else:
            torch.testing.assert_close(out.modality_weights.sum(-1), torch.ones(3))
            assert (out.modality_weights[~there] == 0).all()
        assert torch.equal(out.features, model(images, mask))
        assert out.logits.shape == (3, 5)
        by_modality = out.features.unflatten(1, (2, 24))
        assert (by_modality[~there] == 0).all()
        assert (by_modality[there] != 0).any(-1).all()


@pytest.mark.parametrize("structure", STRUCTURES)
def test_a_missing_modality_says_nothing_whatever_stands_in_its_place(structure):
    """And one that is missing in the whole batch does not pass the backbone."""
    model = disturb(small(structure=structure, modalities=("RGB", "NIR", "TIR"))).eval()
    images = sightings(model)
    present = torch.tensor([[True, False, True], [True, True, True], [False, False, True]])
    other = images.clone()
    other[~present] = torch.nan
    with torch.no_grad():
        want = model(images, present)
        torch.testing.assert_close(model(other, present), want)
        torch.testing.assert_close(model(images[:1], present[:1]), want[:1])
        seen = []
        handle = model.backbone.patch_embed.register_forward_hook(lambda m, args, out: seen.append(len(args[0])))
        only = torch.tensor([True, False, False]).expand(3, 3)
        first = model(images, only)
        torch.testing.assert_close(model(images[:, 0]), first)
        model(images, present)
        handle.remove()
        assert seen == [3, 3, 9]
        assert (first.unflatten(1, (3, 24))[:, 1:] == 0).all()
        counted = moezoo.measure.flops(model, (images, only)), moezoo.measure.flops(model, images)
    block = "backbone.blocks.0"
    assert counted[0].by_module[block] * 3 == counted[1].by_module[block]


@pytest.mark.parametrize("structure", STRUCTURES)
def test_a_model_that_is_told_what_is_missing_is_exported(structure):
    """As one graph, which computes all modalities and answers as the model that leaves some out."""
    model = disturb(small(structure=structure, model_name="moezoo_patches_figures", backbone_args={})).eval()
    images, batch = sightings(model), torch.export.Dim("batch", min=2, max=9)
    both = torch.ones(3, 2, dtype=torch.bool)
    program = torch.export.export(model, (images, both), dynamic_shapes=({0: batch}, {0: batch})).module()
    for number, rows in ((3, [[True, False], [True, True], [False, True]]), (2, [[True, False]] * 2)):
        present = torch.tensor(rows)
        torch.testing.assert_close(program(images[:number], present), model(images[:number], present))


@pytest.mark.parametrize("structure", STRUCTURES)
def test_records_have_a_token_for_each_modality_that_is_there(structure):
    model = small(structure=structure, modalities=("RGB", "NIR", "TIR")).eval()
    images, present = sightings(model), torch.tensor([True, False, True]).expand(3, 3)
    for mask, number in ((None, 3), (present, 2)):
        with moezoo.record_routing(model) as records:
            model(images, mask)
        assert records
        for record in records:
            per_sighting = record.grid[0] * record.grid[1] + record.prefix_tokens
            assert record.routing.num_tokens == 3 * per_sighting
        flat = [record for record in records if record.name.startswith(("fusion.scales", "fusion.flat"))]
        assert [record.grid for record in flat] == ([] if structure == "hierarchical" else [(1, number)])


@pytest.mark.parametrize("neck_feature", ["after", "before"])
def test_every_parameter_gets_a_gradient_in_every_arrangement(neck_feature):
    arrangements = [
        *({"fusion": fusion} for fusion in FUSIONS),
        *({"structure": structure} for structure in STRUCTURES[1:]),
        {"dense": True},
        {"shared_backbone": False, "window_op": "conv"},
        {"window_op": "depthwise", "window_mode": "1d", "final_fusion": False, "num_heads": 2, "gate_layers": 3},
        {"num_classes": 0},
        {"modalities": ("RGB",), "scales": (2,), "top_k": 1},
        {"scales": (1, 2, 3, 4), "gate_layers": 1, "residual_weight": 0.0},
    ]
    for options in arrangements:
        model = small(**options, neck_feature=neck_feature)
        out = model(sightings(model, 4))
        parts = [out] if isinstance(out, torch.Tensor) else [part for pair in out for part in pair]
        loss = sum((part.float() - 0.3).square().sum() for part in parts) + moezoo.aux_loss(model)
        loss.backward()
        dead = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
        assert not dead, (options, dead)
        zero = [n for n, p in model.named_parameters() if not p.grad.any()]
        # One expert gets all the weight, so its gate has nothing to learn.
        assert all("router" in n or "gate" in n for n in zero) if len(model.scales) == 1 else not zero, (options, zero)


def test_parameters_are_counted_honestly():
    """The document claims 1.5 M for its fusion of 512 numbers in 3 scales; its code has 13.0 M, of which 1.05 M are
    dead. Ours: the same convolutions without those, and what the light windows leave of them."""

    def count(**options):
        config = moezoo.model_config("multiscale_moe/rgbnt201", **options)
        # The small preset's grid is the same; its backbone is quicker to build.
        fields = {key: getattr(config, key) for key in ("feat_dim", "scales", "hidden_dim", "window_op", "window_mode")}
        with torch.device("meta"):
            model = moezoo.create_model("multiscale_moe/synthetic", **fields)
        assert model.token_grid == (16, 8)
        parts = {name: sum(p.numel() for p in getattr(model, name).parameters()) for name in ("windows", "fusion")}
        return {**parts, "all": sum(parts.values())}

    documents = 7_341_568 + 3_150_000 + 1_186_000 + 1_050_000 + 263_000
    assert documents == pytest.approx(13.0e6, rel=0.005)
    full, light, means = (count(window_op=op, window_mode="1d") for op in ("conv", "depthwise", "pool"))
    assert full["windows"] == pytest.approx(7.34e6, rel=0.001)
    linear_residuals = 3 * (512 * 512 + 512)  # as the document has them; its code has none between equal widths
    assert full["all"] == pytest.approx(documents - 1_050_000 + linear_residuals, rel=0.003)
    assert light["windows"] < 0.85e6
    assert means["windows"] == 3 * 2 * 512
    assert count()["windows"] == 896_000
    assert count(scales=(1, 2, 4, 8, 16), window_op="pool")["all"] < 42.9e6 / 4  # the document's, with scales to 64


@pytest.mark.parametrize(
    ("name", "args", "grid", "prefix"),
    [
        ("test_vit", {}, (4, 2), 1),
        ("moezoo_vit_figures", {"embed_dim": 16, "num_heads": 2}, (8, 4), 0),
        ("test_convnext", {}, (2, 1), 0),
        ("test_resnet", {}, (2, 1), 0),
        (
            "swin_tiny_patch4_window7_224",
            {"embed_dim": 16, "depths": [1, 1], "num_heads": [1, 2], "window_size": 2},
            (8, 4),
            0,
        ),
    ],
)
def test_any_timm_backbone_gives_tokens_on_their_grid(name, args, grid, prefix):
    model = small(model_name=name, backbone_args=args, img_size=(64, 32), scales=(1, 8)).eval()
    assert model.token_grid == grid
    assert model.layout.prefix_tokens == prefix
    images = sightings(model)
    feature = model.backbone.forward_features(images[:, 0])
    tokens = model.layout.tokens(feature)
    assert tokens.shape == (3, grid[0] * grid[1], model.layout.dim)
    if feature.dim() == 4 and model.layout.layout == "NCHW":
        assert torch.equal(tokens[:, grid[1]], feature[:, :, 1, 0])
    elif feature.dim() == 4:
        assert torch.equal(tokens[:, grid[1]], feature[:, 1, 0])
    else:
        assert torch.equal(tokens, feature[:, prefix:])
    assert model(images).shape == (3, 48)
    with pytest.raises(ConfigError, match=r"global_pool=''.*no one global feature"):
        small(model_name=name, backbone_args=args, img_size=(64, 32), scales=(1,), global_pool="")
    with pytest.raises(ConfigError, match=f"a grid of {grid[0]} x {grid[1]} tokens"):
        small(model_name=name, backbone_args=args, img_size=(64, 32), scales=(32, 64))


@pytest.mark.parametrize("kind", ["vit", "dinov2"])
def test_a_transformers_backbone_gives_tokens_and_its_class_token(kind):
    sizes = {
        "model_type": kind,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
        **({"mlp_ratio": 2} if kind == "dinov2" else {"intermediate_size": 32}),
    }
    model = small(model_name="hf:someone/backbone", backbone_args=sizes, img_size=32).eval()
    assert (model.token_grid, model.layout.prefix_tokens) == ((4, 4), 1)
    images = sightings(model)
    hidden, pooled = model.backbone.forward_tokens(images[:, 0])
    assert torch.equal(model.layout.tokens(hidden), hidden[:, 1:])
    assert hidden.shape == (3, 17, 16)
    torch.testing.assert_close(pooled, hidden[:, 0])
    assert model(images).shape == (3, 48)


def test_one_backbone_each_and_pretrained_weights_in_all_of_them(tmp_path):
    shared, own = small(), small(shared_backbone=False)
    assert {n for n in own.state_dict() if n.startswith("backbone.RGB.")} == {
        n.replace("backbone.", "backbone.RGB.", 1) for n in shared.state_dict() if n.startswith("backbone.")
    }
    args = {"model_name": "test_vit", "backbone_args": {}, "img_size": (64, 32), "scales": (1, 4)}
    donor = timm.create_model("test_vit", num_classes=1000).eval()
    path = tmp_path / "donor.safetensors"
    save_file(donor.state_dict(), path)
    model = small(**args, shared_backbone=False)
    fusion = {k: v.clone() for k, v in model.state_dict().items() if not k.startswith("backbone.")}
    load_backbone_weights(model, model.moezoo_config, path)
    for name in model.modalities:
        trunk = model.backbone[name]
        assert torch.equal(trunk.blocks[0].attn.qkv.weight, donor.blocks[0].attn.qkv.weight)
        assert trunk.pos_embed.shape == (1, 4 * 2 + 1, 64)
        assert torch.equal(trunk.pos_embed[:, 0], donor.pos_embed[:, 0])
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in fusion.items())
    assert create_backbone(model.moezoo_config.of_backbone()).num_classes == 0


def test_timms_methods_and_roles_of_parameters():
    model = small()
    images = sightings(model)
    model.eval()
    features = model.forward_features(images)
    assert features.shape == (3, 2, 24)
    assert torch.equal(model.forward_head(features), model(images))
    assert torch.equal(model.forward_head(features, pre_logits=True), features.flatten(1))
    model.reset_classifier(7)
    assert [tuple(score.shape) for score, _ in model.train()(images)] == [(3, 7)] * 3
    assert current_config(model, model.moezoo_config).num_classes == 7
    with pytest.raises(ConfigError, match="global_pool='avg'"):
        model.reset_classifier(7, global_pool="avg")
    groups = param_groups_layer_decay(model, layer_decay=0.5, no_weight_decay_list=model.no_weight_decay())
    scale = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    assert len(scale) == len(list(model.parameters()))
    assert scale[id(model.global_proj.weight)] == 1.0
    assert (
        scale[id(model.backbone.patch_embed.backbone[0].conv.weight)]
        < scale[id(model.backbone.blocks[1].mlp.fc1.weight)]
        < 1
    )
    roles = {g["name"]: g["params"] for g in moezoo.param_groups(model, lr_backbone=1e-5, lr_moe=1e-3, lr_head=1e-2)}
    ids = {role: {id(p) for p in ps} for role, ps in roles.items()}
    assert ids["backbone"] == {id(p) for p in model.backbone.parameters()}
    assert ids["head"] == {id(p) for p in model.classifiers.parameters()}
    moezoo.freeze_backbone(model)
    assert {n.partition(".")[0] for n, p in model.named_parameters() if not p.requires_grad} == {"backbone"}


def test_wrong_inputs_are_told_with_what_is_expected():
    model = small()
    images = sightings(model)
    mistakes = [
        ((images[:, :, :, :, :8],), r"\(batch, 2, 3, 32, 16\), got \(3, 2, 3, 32, 8\): wrong size; img_size=\(32, 8\)"),
        ((images[:, :, :1],), "wrong number of channels; in_chans=1"),
        ((torch.cat([images, images], 1),), "wrong number of modalities, they are RGB, NIR"),
        ((images.to(torch.uint8),), "floating point, got torch.uint8"),
        ((images[0, 0],), r"modalities RGB, NIR; got \(3, 32, 16\)"),
        ((list(images.unbind(1)),), r"modalities RGB, NIR; got list\.$"),
        ((images, torch.ones(3, 2)), r"present must be a bool tensor of \(3, 2\).*got torch.float32"),
        ((images, torch.ones(3, 3).bool()), r"got torch.bool \(3, 3\)"),
        ((images, torch.tensor([[1, 0], [0, 0], [1, 1]]).bool()), r"sightings \[1\] have no modality at all"),
        ((images[:, 0], torch.ones(3, 2).bool()), "images are of one modality"),
    ]
    for args, told in mistakes:
        with pytest.raises(InputError, match=told):
            model.eval()(*args)
    model.train()
    for args in ((images, torch.ones(3, 2).bool()), (images[:, 0],)):
        with pytest.raises(InputError, match=r"training needs the images of all modalities \(RGB, NIR\)"):
            model(*args)


def test_one_sighting_is_too_few_to_train_on():
    model = small()
    with pytest.raises(InputError, match="training needs two sightings or more in a batch, got 1"):
        model(sightings(model, 1))
    assert model.eval()(sightings(model, 1)).shape == (1, 48)
    without = small(num_classes=0, neck_feature="before")
    assert without(sightings(without, 1)).shape == (1, 48)


@pytest.mark.parametrize("neck_feature", ["after", "before"])
def test_another_number_of_identities_leaves_the_model_that_its_configuration_builds(neck_feature, tmp_path):
    for number, other in ((0, 5), (5, 0), (5, 7)):
        model = small(num_classes=number, neck_feature=neck_feature)
        model.reset_classifier(other)
        assert list(model.state_dict()) == list(small(num_classes=other, neck_feature=neck_feature).state_dict())
        for score, _ in model(sightings(model)) if other else ():
            assert score.shape == (3, other)
    moezoo.save_pretrained(model.eval(), tmp_path)
    without = moezoo.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=0).eval()
    assert torch.equal(without(sightings(model)), model(sightings(model)))


def test_nothing_is_printed_and_no_history_grows(capsys):
    model = small(scales=(1, 4))
    images = sightings(model)
    before = None
    for _ in range(3):
        model(images)
        held = [len(v) for m in model.modules() for v in vars(m).values() if isinstance(v, (list, dict))]
        assert before in (None, held)
        before = held
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""


def test_all_modalities_take_part_in_the_auxiliary_loss():
    """One call of the gate sees them all, so none overwrites another's."""
    model = disturb(small(diversity_weight=0.0, sparsity_weight=0.0, balance_weight=1.0)).train()
    images = sightings(model, 4)
    losses = []
    for i in range(2):
        changed = images.clone()
        changed[:, i] = -3 * changed[:, i]
        model(changed)
        losses.append(moezoo.aux_loss(model).item())
    model(images)
    assert len({round(v, 9) for v in [*losses, moezoo.aux_loss(model).item()]}) == 3


def test_skipped_scales_are_not_computed_and_features_follow():
    dense, best = (disturb(small(top_k=k, temperature=0.5)).eval() for k in (None, 1))
    images = sightings(dense, 8)
    counts = [moezoo.measure.flops(model, images) for model in (dense, best)]
    assert counts[1].executed < counts[0].executed
    assert counts[1].analytic == counts[1].executed
    weights = best(images, return_weights=True).scale_weights
    assert ((weights == 0) | (weights == 1)).all()
    experts = next(m for m in best.modules() if isinstance(m, MoELayer)).experts
    assert experts.num_experts == 2


def test_a_sharp_gate_is_one_hot_and_a_flat_one_uniform():
    for temperature, check in ((1e-3, lambda w: w.max(-1).values), (1e3, lambda w: 1 - (w - 0.5).abs().amax(-1))):
        model = disturb(small(temperature=temperature)).eval()
        weights = model(sightings(model), return_weights=True).scale_weights
        assert check(weights).min() > 0.99


def test_it_learns_to_tell_identities_from_a_cue_in_one_modality():
    """Four identities, told apart by the brightness of the second modality alone."""
    model = small(num_classes=4)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    labels = torch.arange(16) % 4
    generator = torch.Generator().manual_seed(0)
    for _ in range(25):
        images = 0.3 * torch.randn(16, 2, 3, 32, 16, generator=generator)
        images[:, 1] += labels.view(-1, 1, 1, 1) - 1.5
        loss = sum(F.cross_entropy(score, labels) for score, _ in model(images)) + moezoo.aux_loss(model)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    out = model.eval()(images, return_weights=True)
    assert (out.logits.argmax(1) == labels).float().mean() > 0.9
