"""Every name of the document is here and does its job; what each is worth is tested where it lives."""

import pytest
import torch
from multiscale_toys import sightings, small

import moezoo
import moezoo.models.multiscale_moe as family
from moezoo.errors import ConfigError


def test_every_name_resolves_and_a_wrong_one_is_told():
    document = {
        *("ExpertNetwork", "GatingNetwork", "MultiScaleMoE", "MultiHeadGatingNetwork", "AdaptiveExpertNetwork"),
        *("HierarchicalMoE", "DynamicMoE", "CrossModalMoE", "ArchitectureSearch", "FederatedMoE", "ExplainableMoE"),
        *("CachedMoE", "prune_expert_networks", "batch_inference", "expert_balance_loss", "visualize_expert_weights"),
        "analyze_expert_activation_patterns",
    }
    assert document <= set(family.__all__)
    assert all(callable(getattr(family, name)) for name in family.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        family.Nothing  # noqa: B018
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        family.functions.Nothing  # noqa: B018


def test_the_parts_fuse_features():
    features = [torch.randn(4, 16) for _ in range(3)]
    fused, weights = family.MultiScaleMoE(16, (4, 8, 16), hidden_dim=8)(features)
    assert fused.shape == (4, 16)
    torch.testing.assert_close(weights.sum(1), torch.ones(4))
    assert family.ExpertNetwork(16, 8, 16)(features[0]).shape == (4, 16)
    assert family.AdaptiveExpertNetwork(16, 16).hidden_dim == 32
    for gate in (family.GatingNetwork(48), family.MultiHeadGatingNetwork(48, 3)):
        torch.testing.assert_close(gate(torch.cat(features, 1)).sum(1), torch.ones(4))
    hierarchical = family.HierarchicalMoE(16, ("RGB", "NIR", "TIR"), (4, 8, 16), hidden_dim=8)
    assert hierarchical([features] * 3)[1].shape == (4, 3, 3)
    assert family.CrossModalMoE(16, hidden_dim=8)(features)[1].shape == (4, 3)
    counts = (family.DynamicMoE(16).eval()(features[0])[1] > 0).sum(-1)
    assert 2 <= counts.min() <= counts.max() <= 8
    assert family.FederatedMoE(16, hidden_dim=8)(features[0]).shape == (4, 16)
    assert family.expert_balance_loss(torch.full((4, 3), 1 / 3)) == pytest.approx(0, abs=1e-9)
    assert family.expert_balance_loss(torch.eye(3)[[0, 0, 0]]) > 0.2


def test_inference_some_at_a_time_gives_what_one_batch_gives_and_a_cache_gives_it_again():
    model = small()
    images = sightings(model, 5)
    found = family.batch_inference(model, images, batch_size=2)
    assert model.training
    assert not found.requires_grad
    torch.testing.assert_close(found, model.eval()(images).detach())
    cached = family.CachedMoE(model)
    present = torch.tensor([True, False]).expand(5, 2)
    with torch.no_grad():
        first, lacking, again = cached(images), cached(images, present), cached(images)
        assert torch.equal(cached(images, present), lacking)
        assert torch.equal(model(images), first)
    assert cached.cache_info().hits == 2
    assert torch.equal(first, again)
    with pytest.raises(ConfigError, match="batch_size=0"):
        family.batch_inference(model, images, batch_size=0)
    with pytest.raises(ConfigError, match=r"threads.*files"):
        family.batch_inference(model, images, threads=2)
    two_headed = moezoo.create_model("diff_moe/digits")
    some = sightings(two_headed, 2)
    torch.testing.assert_close(family.batch_inference(two_headed, some), two_headed.eval()(some)["logits"].detach())


def test_pruning_makes_the_experts_smaller_and_the_model_still_answers():
    model = small().eval()
    before = sum(p.numel() for p in model.fusion.parameters())
    family.prune_expert_networks(model, 0.25)
    assert sum(p.numel() for p in model.fusion.parameters()) < before
    assert model(sightings(model)).isfinite().all()


def test_decisions_and_weights_are_explained_and_drawn(tmp_path):
    model = small(structure="cross_modal").eval()
    images = sightings(model, 1)
    case = family.ExplainableMoE(model, steps=2, random_orders=1).explain_decision(images, cells=(2, 2))[0]
    assert "NIR" in case.text()
    weights = model(images, return_weights=True).scale_weights.flatten(0, 1).detach()
    assert family.visualize_expert_weights(weights, tmp_path / "weights.png", scales=(1, 4)).is_file()
    patterns = family.analyze_expert_activation_patterns([weights, weights])
    assert patterns is not None


def test_a_folder_of_images_is_embedded(tmp_path):
    from PIL import Image

    for i in range(3):
        Image.new("RGB", (16, 32), (80 * i, 40, 40)).save(tmp_path / f"{i}.png")
    model = small(modalities=("RGB",))
    found = family.batch_inference(model, tmp_path, batch_size=2)
    assert found.features.shape == (3, 24)
    assert len(set(found.paths)) == 3


def test_the_search_names_the_familys_space():
    search = family.ArchitectureSearch(trials=1)
    assert callable(search.search)
    fields = {*moezoo.config.field_names(family.MultiScaleMoEConfig)}
    assert {"hidden_dim", "num_heads", "gate_layers", "temperature", "scales", "top_k", "window_op"} <= fields
