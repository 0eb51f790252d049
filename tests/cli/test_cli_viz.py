"""``moezoo viz`` as typed, of models that read and write sentences."""

import pytest
import torch
from command_line import command

import moezoo
from moezoo.data import load_dataset
from moezoo.data.text import make_tokenizer

SHAPES = {"train_images": 12, "val_images": 4, "test_images": 12}
TINY = {
    "embed_dim": 8,
    "num_heads": 2,
    "mlp_ratio": 1.0,
    "img_encoder_layers": 1,
    "text_embed_dim": 8,
    "vocab_size": 400,
}


@pytest.mark.parametrize(
    ("name", "small"),
    [
        ("diff_moe/shapes.captioner", {"decoder_layers": 1}),
        ("diff_moe/shapes", {"text_encoder_layers": 1, "fusion_layers": 1}),
    ],
)
def test_pictures_of_a_stored_model_on_captioned_images(name, small, tmp_path):
    torch.manual_seed(0)
    model = moezoo.create_model(name, **TINY, **small)
    splits = load_dataset("shapes", **SHAPES)
    sentences = [sentence for i in range(len(splits.train)) for sentence in splits.train.captions(i)]
    model.tokenizer = make_tokenizer(sentences, vocab_size=400, kind="bpe")
    moezoo.save_pretrained(model, tmp_path / "model")
    options = [f"data.{key}={value}" for key, value in SHAPES.items()]
    options += ["data.name=shapes", "viz.images=2", "viz.dpi=40", "training.device=cpu"]
    options = [part for option in options for part in ("--set", option)]
    result = command("viz", f"local-dir:{tmp_path / 'model'}", "--out", tmp_path / "viz", *options)
    assert result.returncode == 0, result.stderr
    names = {path.stem for path in (tmp_path / "viz").iterdir()}
    assert names == {"predictions", "routing", "expert_regions", "expert_load", "attention", "image_text"}
    assert str(tmp_path / "viz" / "image_text.png") in result.stdout
