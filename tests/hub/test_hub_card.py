"""What others' programs read of a stored model: the card's metadata and how images are prepared."""

from __future__ import annotations

import json

import numpy as np
import pytest
import timm
import torch
from huggingface_hub import HfApi, ModelCard
from PIL import Image

import moezoo
from moezoo.data.text import train_bpe
from moezoo.errors import ConfigError
from moezoo.eval.routing import LayerLoad
from moezoo.hub.card import model_card

LOAD = LayerLoad("blocks.2.entity_moe.moe", 640, (0.5, 0.5, 0.0, 0.0), 0.5, 0.5, 0.0, (2, 3), 0.0)


def test_the_card_shows_routing_cost_results_and_the_dense_twin_and_its_metadata_is_valid(hub, model, tmp_path, capsys):
    metrics = {"dataset": "My Digits", "test_top1": 0.875, "val_top1": 0.75, "epochs": 3, "note": "a|b"}
    flops = {"executed": 1_234_567, "dense_twin": 2_000_000}
    folder = moezoo.save_pretrained(model, tmp_path, metrics=metrics, routing=[LOAD, vars(LOAD)], flops=flops)
    content = json.loads((folder / "config.json").read_text())
    assert content["routing"][0] == {**vars(LOAD), "share": [0.5, 0.5, 0.0, 0.0], "dead_experts": [2, 3]}
    assert content["flops"] == flops
    card = ModelCard.load(folder / "README.md")
    assert "| blocks.2.entity_moe.moe | 4 | 0.5 | 0.5 | 0 | 2 | 0 |" in card.text
    assert "| executed | 1,234,567 |" in card.text
    assert "dense=True" in card.text
    assert "| note | a\\|b |" in card.text
    assert "`entity_moe` on the backbone" in card.text
    assert f"{model.moezoo_config.num_experts} experts" in card.text
    assert "10 classes" in card.text
    assert "The figures above are of `My Digits`" in card.text
    assert "licence of these weights is not stated" in card.text
    assert "| None |" not in card.text
    code = card.text.split("```python\n")[1].split("```")[0]
    image = tmp_path / "image.png"
    Image.new("L", (16, 16)).save(image)
    exec(code.replace("local-dir:PATH/TO/THIS/FOLDER", f"local-dir:{folder}").replace("image.jpg", str(image)), {})
    assert capsys.readouterr().out.startswith(f"{image} (")
    data = card.data.to_dict()
    assert data["pipeline_tag"] == "image-classification"
    assert data["library_name"] == "moezoo"
    assert data["datasets"] == ["my-digits"]
    assert {"mixture-of-experts", "moezoo"} <= set(data["tags"])
    results = data["model-index"][0]["results"]
    found = {(r["dataset"]["split"], m["type"]): m["value"] for r in results for m in r["metrics"]}
    assert found == {("test", "accuracy"): 0.875, ("validation", "accuracy"): 0.75}
    hub.users["hf_token"] = "user"
    card.validate()
    HfApi(token="hf_token")._validate_yaml(card.content)
    assert hub.count("POST", "/api/validate-yaml") == 2
    hub.put("user/other", {"README.md": model_card(content, repo_id="user/other").encode()})
    assert "hf-hub:user/other" in ModelCard.load("user/other").text


def test_the_card_of_a_captioner_has_it_write_a_sentence(tmp_path, capsys):
    model = moezoo.create_model("diff_moe/shapes.captioner", embed_dim=16, img_encoder_layers=1, decoder_layers=1)
    model.tokenizer = train_bpe(["a red circle"], vocab_size=400)
    folder = moezoo.save_pretrained(model, tmp_path)
    card = ModelCard.load(folder / "README.md")
    assert card.data.pipeline_tag == "image-to-text"
    code = card.text.split("```python\n")[1].split("```")[0]
    image = tmp_path / "image.png"
    Image.new("RGB", (64, 64)).save(image)
    exec(code.replace("local-dir:PATH/TO/THIS/FOLDER", f"local-dir:{folder}").replace("image.jpg", str(image)), {})
    assert capsys.readouterr().out.startswith(f"{image} ")


@pytest.mark.parametrize("modalities", [("RGB",), ("RGB", "NIR")])
def test_the_card_of_a_model_that_finds_identities_has_it_give_features(hub, tmp_path, capsys, modalities):
    hub.users["hf_writer"] = "user"
    model = moezoo.create_model("multiscale_moe/synthetic", num_classes=5, modalities=modalities).eval()
    name = moezoo.push_to_hub(model, "user/reid", token="hf_writer", metrics={"dataset": "rgbnt201", "test_mAP": 0.5})
    card = ModelCard(hub.files("user/reid")["README.md"].decode())
    assert card.data.pipeline_tag == "image-feature-extraction"
    assert f"tells 5 identities apart by {' and '.join(modalities)}" in card.text
    assert "class" not in card.text.partition("## Configuration")[0]
    code = card.text.split("```python\n")[1].split("```")[0]
    places = modalities if len(modalities) > 1 else (".",)
    for place in places:
        (tmp_path / place).mkdir(exist_ok=True)
        Image.new("RGB", (64, 128)).save(tmp_path / place / "image.jpg")
    code = code.replace('"hf-hub:user/reid"', f'"{name}", token="hf_writer", cache_dir={str(tmp_path / "cache")!r}')
    found: dict = {}
    for place in places:
        code = code.replace(f'"{place}/image.jpg"', repr(str(tmp_path / place / "image.jpg")))
    exec(code.replace('"image.jpg"', repr(str(tmp_path / "image.jpg"))), found)
    assert f"torch.Size([1, {64 * len(modalities)}])" in capsys.readouterr().out
    images = torch.randn(2, len(modalities), 3, 128, 64)
    assert torch.equal(found["model"](images), model(images))


def test_a_model_without_classes_gives_features_and_results_need_a_data_set():
    content = {"name": "entity_moe/x", "moezoo_version": "1", "config": {"num_classes": 0}, "metrics": {"top1": 0.5}}
    data = ModelCard(model_card(content)).data
    assert data.pipeline_tag == "image-feature-extraction"
    assert data.eval_results is None


@pytest.mark.parametrize("routing", [[{"layer": 3}], [{}], [{"layer": "a", "x": float("nan")}], ["a"]])
def test_routing_and_flops_must_be_plain_json(model, tmp_path, routing):
    with pytest.raises(ConfigError, match=r"routing\[0\]"):
        moezoo.save_pretrained(model, tmp_path / "a", routing=routing)
    with pytest.raises(ConfigError, match="flops"):
        moezoo.save_pretrained(model, tmp_path / "a", flops=[1])
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(("channels", "mode"), [(3, "center"), (1, "center"), (3, "squash")])
def test_the_image_processor_of_transformers_prepares_images_as_timm_does(tmp_path, channels, mode):
    from transformers import AutoImageProcessor

    slim = {"expert_dim": 8, "mlp_ratio": 0.25, "num_experts": 2, "num_classes": 5}
    model = moezoo.create_model("entity_moe/test_vit2", img_size=32, in_chans=channels, **slim)
    model.pretrained_cfg["crop_mode"] = mode
    processor = AutoImageProcessor.from_pretrained(moezoo.save_pretrained(model, tmp_path))
    assert moezoo.create_model(f"local-dir:{tmp_path}").pretrained_cfg["crop_mode"] == mode
    values = np.random.default_rng(0).integers(0, 255, (50, 70, channels), dtype=np.uint8)
    image = Image.fromarray(values.squeeze()).resize((140, 100))
    got = processor(image, return_tensors="pt")["pixel_values"]
    config = timm.data.resolve_model_data_config(model)
    want = timm.data.create_transform(**config)(image)[None]
    assert got.shape == want.shape == (1, channels, 32, 32)
    assert (got - want).abs().mean() < 0.02
    assert torch.isfinite(model.eval()(got)).all()
