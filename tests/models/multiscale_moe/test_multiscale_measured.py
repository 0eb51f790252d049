"""Sightings in several modalities pass every measurement, export and store."""

import pytest
import torch
from multiscale_toys import TINY, sightings, small

import moezoo
from moezoo.backbones.inputs import example_images, example_shape
from moezoo.export import export_model
from moezoo.measure import flops, flops_per_image, latency
from moezoo.measure.bench import run_bench


def test_an_example_is_a_sighting_and_of_one_modality_an_image():
    assert example_shape(small()) == (2, 3, 32, 16)
    assert example_shape(small(modalities=("RGB",))) == (3, 32, 16)
    other = moezoo.create_model("entity_moe/test_vit")
    assert example_images(other, 2).shape == (2, *other.pretrained_cfg["input_size"])


def test_flops_time_and_memory_of_sightings():
    model = small()
    images = sightings(model, 2)
    counted = flops(model, images)
    assert counted.executed == counted.analytic > 0
    each = flops_per_image(model, images)
    torch.testing.assert_close(each.flops.sum().item(), float(counted.analytic))
    assert latency({"it": model.eval()}, images, rounds=2, warmup=1)["it"].p50 > 0
    with torch.device("meta"):
        big = moezoo.create_model("multiscale_moe/rgbnt201").eval()
        three = flops(big, torch.empty(1, *example_shape(big))).executed
    assert 3 * 20e9 < three < 3 * 26e9  # ViT-B/16 on 128 tokens, three times


def test_a_benchmark_puts_the_dense_twin_beside_it():
    rows = run_bench("multiscale_moe/synthetic", batch_sizes=[2], rounds=1, warmup=1, overrides=TINY)
    assert [(row.role, row.error) for row in rows] == [("model", None), ("dense", None)]
    assert rows[0].input_size == (2, 3, 32, 16)
    assert abs(rows[0].flops_vs_dense - 1) < 0.02
    rows = run_bench("multiscale_moe/synthetic.hierarchical", batch_sizes=[2], rounds=1, warmup=1, overrides=TINY)
    assert [(row.role, row.error) for row in rows] == [("model", None)]


@pytest.mark.slow  # the contract exports it too; here the file is read back
def test_an_exported_file_takes_sightings_and_gives_features(tmp_path):
    model = small().eval()
    exported = export_model(model, tmp_path / "model.pt2", format="pt2")
    images = sightings(model)
    again = torch.export.load(exported.file).module()
    with torch.no_grad():
        torch.testing.assert_close(again(images), model(images), rtol=1e-4, atol=1e-5)


def test_a_stored_model_comes_back_for_another_number_of_identities_too(tmp_path):
    model = small(shared_backbone=False).eval()
    moezoo.save_pretrained(model, tmp_path / "saved")
    images = sightings(model)
    name = f"local-dir:{tmp_path / 'saved'}"
    same = moezoo.create_model(name, pretrained=True).eval()
    other = moezoo.create_model(name, pretrained=True, num_classes=9).eval()
    assert torch.equal(same(images), model(images))
    assert torch.equal(other(images), model(images))
    assert other(images, return_weights=True).logits.shape == (3, 9)
    grey = moezoo.create_model(name, pretrained=True, in_chans=1).eval()
    assert grey(images[:, :, :1]).shape == (3, 48)
    assert "multiscale_moe" in (tmp_path / "saved" / "README.md").read_text()
