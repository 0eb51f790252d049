"""What the captioner writes: the same with its cache as without, for every image as alone, and learnt from captions."""

from __future__ import annotations

import math

import pytest
import torch
from test_captioner import batch, captioner, spread
from torch import Tensor
from torch.nn import functional as F

from moezoo.data import load_dataset
from moezoo.data.text import make_tokenizer
from moezoo.errors import ConfigError
from moezoo.models.diff_moe.captioner import Steps
from moezoo.models.diff_moe.generate import generate, generation_options

HOW = [{}, {"num_beams": 1}, {"do_sample": True, "num_beams": 2, "temperature": 0.8, "top_k": 20}]


@pytest.fixture
def model():
    return spread(captioner()).eval()


@pytest.fixture
def images():
    return batch()[0]


def seeded():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("how", HOW)
def test_kept_keys_and_values_change_nothing(model, images, how):
    """The plain way computes every word anew from all words before it, by the forward that training uses."""
    beams = how.get("num_beams", 4)
    rows = images.repeat_interleave(beams, dim=0)

    def all_anew(ids: Tensor) -> Tensor:
        return model(rows, ids).logits[:, -1]

    plain = generate(all_anew, 3, generation_options(**how).within(12), generator=seeded())
    kept = model.generate(images, generator=seeded(), **how)
    assert torch.equal(kept.generated_ids, plain.generated_ids)
    torch.testing.assert_close(kept.scores, plain.scores)
    assert len({tuple(row) for row in kept.generated_ids.tolist()}) == 3, "the images must tell"


def test_the_documented_call_is_the_default(model, images):
    documented = model.generate(
        images,
        max_length=30,
        min_length=5,
        num_beams=4,
        temperature=1,
        top_k=50,
        top_p=0.9,
        repetition_penalty=1,
        length_penalty=1,
        no_repeat_ngram_size=2,
        early_stopping=True,
    )
    default = model.generate(images)
    assert set(default) == {"generated_ids", "scores", "lengths"}
    for key in default:
        assert torch.equal(documented[key], default[key])
    assert model.generate(images, do_sample=True, top_k=10_000).lengths.min() >= 5, "more than there are words"


def test_several_words_at_once_are_taken_in_as_one_by_one(model, images):
    _, text, _ = batch()
    one_by_one, at_once = (Steps(model.decoder, model.encode_image(images), 1, None) for _ in range(2))
    for length in range(1, 8):
        logits = one_by_one(text[:, :length])
    torch.testing.assert_close(at_once(text[:, :3]), model(images, text[:, :3]).logits[:, -1])
    torch.testing.assert_close(at_once(text[:, :7]), logits)


def test_every_image_is_captioned_as_alone_and_reproducibly(model, images):
    together = model.generate(images)
    for row in range(3):
        alone = model.generate(images[row : row + 1])
        length = alone.lengths[0]
        assert torch.equal(alone.generated_ids[0], together.generated_ids[row, :length])
        assert together.lengths[row] == length
    encoded = model.encode_image(images)
    assert encoded.shape == (3, 16, 32)
    assert torch.equal(model.generate(encoded).generated_ids, together.generated_ids)


def test_scores_are_the_models_log_probabilities(model, images):
    output = model.generate(images, num_beams=1, min_length=0, length_penalty=0.5)
    log_probs = model(images, output.generated_ids).logits.log_softmax(-1)
    for row, length in enumerate(output.lengths.tolist()):
        ids = output.generated_ids[row, :length]
        total = log_probs[row, : length - 1].gather(1, ids[1:, None]).sum()
        torch.testing.assert_close(output.scores[row], total / math.sqrt(length - 1))


def test_generating_leaves_the_model_as_it_was(model, images):
    model.train()
    model.decoder.blocks[0].eval()
    modes = [module.training for module in model.modules()]
    first = model.generate(images)
    assert torch.equal(first.generated_ids, model.generate(images).generated_ids), "no dropout"
    assert [module.training for module in model.modules()] == modes
    assert not first.scores.requires_grad
    with pytest.raises(ConfigError):
        model.generate(images, top_p=0.0)
    assert [module.training for module in model.modules()] == modes


def test_lengths_beyond_the_models_positions_are_cut(model, images):
    output = model.generate(images, max_length=500, eos_id=39, no_repeat_ngram_size=0, min_length=500)
    assert output.lengths.tolist() == [12, 12, 12]


def test_only_words_of_the_tokenizer_are_written(model, images):
    class Small:
        pad_id, bos_id, eos_id, vocab_size = 5, 6, 7, 9

        def decode(self, ids):
            return [" ".join(map(str, row)) for row in ids.tolist()]

    model.tokenizer = Small()
    output = model.generate(images)
    assert output.generated_ids.max() < 9
    assert (output.generated_ids[:, 0] == 6).all()
    assert model.caption(images, num_beams=1)[0].startswith("6 ")


def test_learns_to_write_what_shapes_show():
    """A tiny captioner, a plain loop, a few captions by heart."""
    options = {"num_shapes": (1, 1), "num_captions": 1, "input_size": (3, 32, 32)}
    part = load_dataset("shapes", train_images=12, val_images=1, test_images=1, **options).train
    images = torch.stack([part[i][0] for i in range(12)])
    captions = [part[i][1][0] for i in range(12)]
    tokenizer = make_tokenizer(captions, vocab_size=300, kind="bpe")
    ids, mask = tokenizer.encode(captions, 32)
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "text_embed_dim": 32, "vocab_size": 300}
    model = captioner(**sizes, max_text_len=32, dropout=0.0, initializer_range=0.1, use_gradient_checkpointing=False)
    model.tokenizer = tokenizer
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(90):
        output = model(images, ids[:, :-1], mask[:, :-1])
        targets = ids[:, 1:].masked_fill(~mask[:, 1:], -100)
        task = F.cross_entropy(output.logits.flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        (task + output.router_loss).backward()
        optimizer.step()
        losses.append(task.item())
    assert losses[-1] < 0.05 * losses[0]
    wanted = [tokenizer.normalize(caption) for caption in captions]
    assert len(set(wanted)) > 6
    for how in ({}, {"num_beams": 1}, {"early_stopping": "never"}):
        assert model.caption(images, no_repeat_ngram_size=0, **how) == wanted
