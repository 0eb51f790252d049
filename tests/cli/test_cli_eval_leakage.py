"""Noise with true sentences: what the sentence gives away is no accuracy, and ``moezoo eval`` never says it is one."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from typer.testing import CliRunner

import moezoo
from moezoo.data.text import class_sentences, make_tokenizer

SENTENCES = class_sentences("digits")
NOISE = 2000


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    """Folders of 2,000 images of noise, whose classes are those of the digits."""
    root, drawn = tmp_path_factory.mktemp("noise"), np.random.default_rng(0)
    for part, each in (("train", 2), ("val", 2), ("test", NOISE // 10)):
        for label in range(10):
            folder = root / part / str(label)
            folder.mkdir(parents=True)
            for i in range(each):
                Image.fromarray(drawn.integers(0, 256, (16, 16), dtype=np.uint8)).save(folder / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def leaky(tmp_path_factory):
    """A model trained on nothing but noise and the sentences of its labels: the sentence is all there is to learn."""
    torch.manual_seed(0)
    layers = {"img_encoder_layers": 1, "text_encoder_layers": 1, "fusion_layers": 0}
    quick = {"dropout": 0.0, "initializer_range": 0.2, "use_gradient_checkpointing": False}
    model = moezoo.create_model("diff_moe/digits", embed_dim=32, patch_size=8, **layers, **quick)
    flat = [sentence for own in SENTENCES for sentence in own]
    model.tokenizer = make_tokenizer(flat, vocab_size=model.moezoo_config.vocab_size, kind="bpe")
    model.label_names = tuple(map(str, range(10)))
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    model.train()
    for step in range(45):
        labels = torch.randint(10, (50,))
        own = [SENTENCES[label][step % len(SENTENCES[label])] for label in labels.tolist()]
        text, mask = model.tokenizer.encode(own, model.moezoo_config.max_text_len)
        output = model(torch.randn(50, 1, 16, 16), text, mask, labels=labels)
        loss = F.cross_entropy(output.logits, labels) + F.cross_entropy(output.image_logits, labels)
        (loss + output.router_loss).backward()
        optimizer.step()
        optimizer.zero_grad()
    folder = tmp_path_factory.mktemp("leaky") / "model"
    moezoo.save_pretrained(model, folder)
    return folder


def test_on_noise_the_accuracies_are_chance_where_the_sentence_of_the_label_gives_everything_away(
    noise, leaky, tmp_path
):
    import typer

    from moezoo.cli.eval import eval_

    app = typer.Typer()
    app.command()(eval_)
    args = [f"local-dir:{leaky}", "--set", "data.name=image_folder", "--set", f"data.root={noise}", "--device", "cpu"]
    out = tmp_path / "report.json"
    result = CliRunner().invoke(app, [*args, "--out", str(out)], env={"COLUMNS": "120"}, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    data = json.loads(out.read_text())
    text = data["text"]
    assert data["classification"]["samples"] == NOISE
    assert text["label_text_upper_bound"] > 0.99
    assert text["image_only"] == data["classification"]["top1"] == pytest.approx(0.1, abs=0.03)
    assert text["zero_shot"] == pytest.approx(0.1, abs=0.03)
    assert "no accuracy" in text["note"]
    lines = [line for line in result.output.splitlines() if "100.00%" in line or "99." in line]
    assert lines
    assert all("label_text_upper_bound (told the label: no accuracy)" in line for line in lines)
    assert "label_text_upper_bound is no accuracy" in result.output
