"""Training with text, through the whole loop: what is learnt, what is refused, and that nothing of it is chance."""

import json

import pytest
import torch
from text_runs import COLOURS, RUNS, captioned, labelled, run_of, text_config, tiny
from torch.nn import functional as F
from train_toys import SignalAt, toy, weights

import moezoo
from moezoo.errors import CheckpointError, ConfigError, Interrupted, UnreadableImage
from moezoo.eval import evaluate
from moezoo.train import fit
from moezoo.train.batches import Batch
from moezoo.train.tasks import choose_task, task_of
from moezoo.train.tasks.base import to_device

SCORES = {"described": "accuracy", "retrieval": "recall_at_1", "captioning": "token_accuracy"}


def rows(file):
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in file.read_text().splitlines()]


@pytest.mark.parametrize("task", RUNS)
def test_a_run_interrupted_in_mid_epoch_goes_on_bit_for_bit(task, tmp_path):
    settings = text_config(ema_decay=0.9, grad_accum_steps=2, batch_size=5)  # 4 steps an epoch
    model, splits = run_of(task)
    whole = fit(model, splits, settings, out=tmp_path / "whole")
    other, _ = run_of(task)
    with pytest.raises(Interrupted):
        fit(other, splits, settings, out=tmp_path / "run", observer=SignalAt(6))
    other, _ = run_of(task)
    torch.manual_seed(5)  # nothing of the caller's has a say
    again = fit(other, splits, settings, out=tmp_path / "run", resume="auto")
    assert torch.equal(weights(model), weights(other))
    assert whole.test == again.test
    for log in ("steps.jsonl", "metrics.jsonl"):
        assert rows(tmp_path / "whole" / log) == rows(tmp_path / "run" / log)
    assert f"val_{SCORES[task]}" in rows(tmp_path / "run" / "metrics.jsonl")[0]
    assert whole.best.score_name == SCORES[task]
    helped, _ = run_of(task)
    fit(helped, splits, text_config(ema_decay=0.9, grad_accum_steps=2, batch_size=5, num_workers=1))
    assert torch.equal(weights(model), weights(helped))


def test_a_description_is_learnt_from_and_the_accuracy_is_of_the_images_alone():
    model, splits = run_of("described")
    result = fit(model, splits, text_config(epochs=5))
    assert result.test.classification.top1 > 0.9
    assert result.test.text.image_only == result.test.classification.top1
    assert result.test.text.zero_shot > 0.3  # better than chance; contrast is slower than classes
    assert evaluate(model, splits.test).classification.top1 == result.test.classification.top1
    assert model.tokenizer.encode(["a photo of red"], 16)[0].shape[0] == 1


def test_no_sentence_reaches_the_model_where_it_is_judged():
    """Noise with labels: were a sentence of the true class there, nearly all would be right."""
    model, splits = run_of("described")
    fed = []
    model.register_forward_pre_hook(lambda m, args: fed.append((m.training, len(args) > 1)))
    fit(model, splits, text_config(epochs=1))
    assert {told for training, told in fed if training} == {True}
    # Of the test, the second pass alone, for the upper bound.
    assert [told for training, told in fed if not training] == [False, False, True]
    task = task_of(model, splits, text_config())
    assert task.held_out([splits.val[i] for i in range(3)])._fields == ("images", "labels")


def test_the_loss_is_of_the_image_alone_and_weighted_of_image_and_sentence():
    model, splits = run_of("described", dropout=0.0)
    task = task_of(model, splits, text_config(text_weight=0.3, label_smoothing=0.1))
    batch = task.collate([task.item(splits.train, i, splits.train[i]) for i in range(8)])
    output = task.forward(model.train(), batch)
    alone, both = (
        F.cross_entropy(output[key], batch.labels, label_smoothing=0.1) for key in ("image_logits", "logits")
    )
    assert task.loss(output, batch).item() == pytest.approx(8 * (alone + 0.3 * both).item(), rel=1e-5)
    assert output["contrastive_loss"] > 0
    # Labels make images of one class each other's positives, though their sentences differ.
    assert len({tuple(row) for row in batch.text.tolist()}) > 4
    assert model(batch.images, batch.text, batch.mask)["contrastive_loss"] != output["contrastive_loss"]


def test_images_and_sentences_find_one_another():
    model, splits = run_of("retrieval")[0], captioned(captions=1)
    result = fit(model, splits, text_config(epochs=12, batch_size=12))
    assert result.test.retrieval.mean_recall_at_1 > 0.7
    assert result.test.classification is None
    assert result.history[-1].loss < result.history[0].loss  # the contrastive loss, shown
    assert result.history[-1].val_loss < result.history[0].val_loss
    with pytest.raises(AttributeError, match="recall_at_1"):
        _ = result.best.val_accuracy


def test_a_captioner_learns_to_write():
    model, splits = tiny("diff_moe/shapes.captioner", decoder_layers=1, dropout=0.0), captioned(captions=1)
    result = fit(model, splits, text_config(epochs=10, batch_size=6, lr=0.02))
    assert result.history[-1].loss < 0.3 * result.history[0].loss
    assert result.best.score > 0.95
    assert result.test.captions.exact_match > 0.9


def test_padding_is_no_part_of_a_captioners_loss():
    model, splits = run_of("captioning", dropout=0.0)
    task = task_of(model, splits, text_config())
    batch = task.held_out([splits.val[i] for i in range(4)])
    wider = type(batch)(
        batch.images, *(F.pad(each, (0, 5), value=v) for each, v in ((batch.text, 7), (batch.mask, 0))), []
    )
    model.eval()
    with torch.no_grad():
        plain, padded = (task.answer(model, each) for each in (batch, wider))
    torch.testing.assert_close(plain, padded)
    assert plain[2].tolist() == (batch.mask.sum(1) - 1).tolist()
    output = model(batch.images, batch.text, batch.mask)["logits"]
    first = F.cross_entropy(output[0, : plain[2][0]], batch.text[0, 1 : plain[2][0] + 1], reduction="sum")
    assert float(plain[0][0]) == pytest.approx(float(first), rel=1e-5)
    losses = [
        float(task_of(model, splits, text_config(label_smoothing=s)).loss({"logits": output}, batch))
        for s in (0.0, 0.2)
    ]
    assert losses[0] == pytest.approx(float((plain[0] / plain[2]).sum()), rel=1e-5)
    assert losses[1] != losses[0]


def test_controls_take_the_meaning_of_the_text_away():
    texts = {}
    for control in ("own", "shuffled"):
        for task in ("described", "retrieval"):
            model, splits = run_of(task)
            made = task_of(model, splits, text_config(text=control))
            with moezoo.train.seeded(1):
                items = [made.item(splits.train, i, splits.train[i]) for i in range(36)]
            said = model.tokenizer.decode([item[-1] for item in items])
            texts[task, control] = sum(COLOURS[i % 4] in sentence for i, sentence in enumerate(said))
    assert texts["described", "own"] == texts["retrieval", "own"] == 36
    assert texts["described", "shuffled"] < 20
    assert texts["retrieval", "shuffled"] < 20
    model, splits = run_of("described")
    chinese = task_of(tiny("diff_moe/digits", num_classes=4), splits, text_config(language="zh"))
    assert chinese.sentences[0][0] == "一张red的照片"
    before = weights(model.text_encoder).clone()
    result = fit(model, splits, text_config(epochs=1, text="none"))
    assert torch.equal(weights(model.text_encoder), before)
    assert result.test.text is None
    assert model.tokenizer is None


def test_what_does_not_go_together_is_refused():
    described, retrieval = tiny("diff_moe/digits", num_classes=4), tiny("diff_moe/shapes")
    captioner = tiny("diff_moe/shapes.captioner", decoder_layers=1)
    cases = [
        (described, labelled(), {"mixup": 0.2}, "no sentence is about a mixed image"),
        (retrieval, captioned(), {"cutmix": 0.2}, "no caption is about a mixed image"),
        (retrieval, captioned(), {"text": "none"}, "needs its captions"),
        (captioner, captioned(), {"text": "none"}, "needs its captions"),
        (captioner, captioned(), {"expert_parallel": 2}, "captions of the same length"),
        (captioner, labelled(), {}, "no captions, which MoECaptioner writes"),
        (toy(), captioned(), {}, "no class labels but captions, and Toy takes no text"),
        (toy(), labelled(), {"text": "shuffled"}, "no effect: Toy takes no text"),
        (tiny("diff_moe/shapes", vocab_size=8), captioned(), {}, "vocab_size"),
    ]
    for model, splits, changes, message in cases:
        with pytest.raises(ConfigError, match=message):
            task_of(model, splits, text_config(**changes))
    described.tokenizer = retrieval_tokenizer = task_of(retrieval, captioned(), text_config()).words.tokenizer
    task_of(described, labelled(), text_config())
    assert described.tokenizer is retrieval_tokenizer  # a model's own is kept
    blind = tiny("diff_moe/digits", num_classes=4, text_encoder_layers=0)
    assert choose_task(blind, labelled(), text_config()).name == "classification"


def test_a_run_with_other_words_is_not_gone_on_with(tmp_path):
    model, splits = run_of("retrieval")
    fit(model, splits, text_config(epochs=1), out=tmp_path)
    other, _ = run_of("retrieval")
    task_of(other, captioned(captions=1), text_config())  # gives it a tokenizer of fewer sentences
    with pytest.raises(CheckpointError, match=r"task\.tokenizer"):
        fit(other, splits, text_config(), out=tmp_path, resume="auto")
    other, _ = run_of("retrieval")
    with pytest.raises(CheckpointError, match=r"data\.content"):
        fit(other, captioned(captions=1), text_config(), out=tmp_path, resume="auto")


@pytest.mark.parametrize("task", RUNS)
def test_a_process_without_images_takes_part(task):
    model, splits = run_of(task)
    made = task_of(model, splits, text_config())
    batch = to_device(made.empty(splits.val, held_out=False), torch.device("cpu"))
    assert len(batch.images) == 0
    loss = made.loss(made.forward(model.train(), batch), batch) + moezoo.aux_loss(model)
    assert loss == 0
    loss.backward()
    model.eval()
    with torch.no_grad():
        columns = made.answer(model, made.empty(splits.val, held_out=True))
        assert {len(column) for column in columns} == {0}
        ask = made.final(model)
        assert ask is None or {len(column) for column in ask(made.empty(splits.val, held_out=True))} == {0}


def test_the_gradient_of_accumulated_descriptions_is_the_mean_of_the_micro_batches():
    from test_train_step import stepper

    model, splits = run_of("described", dropout=0.0)
    task = task_of(model, splits, text_config(text_weight=0.5))
    items = [task.item(splits.train, i, splits.train[i]) for i in range(12)]
    batches = [Batch(task.collate(part), list(range(len(part))), []) for part in (items[:8], items[8:])]
    model.train()
    for batch in batches:
        output = task.forward(model, batch.content)
        labels = batch.content.labels
        loss = F.cross_entropy(output["image_logits"], labels) + 0.5 * F.cross_entropy(output["logits"], labels)
        ((loss + output["router_loss"]) / 2).backward()
    want = torch.cat([p.grad.flatten().clone() for p in model.parameters()])
    with stepper(model, task=task) as step:
        values = step(batches)
    got = torch.cat([p.grad.flatten() for p in model.parameters()])
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-6)
    assert values.images == 12
    assert values.aux_loss > 0


def test_a_photograph_that_cannot_be_read_is_left_out_and_listed(tmp_path):
    def read(index):
        if index == 3:
            raise UnreadableImage("photographs/3.jpg", "is empty (0 bytes)")
        return index

    model, splits = run_of("retrieval")
    splits.train.read, splits.train.skip_unreadable = read, True
    fit(model, splits, text_config(epochs=1), out=tmp_path)
    assert json.loads((tmp_path / "bad_files.json").read_text())[0]["path"] == "photographs/3.jpg"
    assert sum(row["images"] for row in rows(tmp_path / "steps.jsonl")) == 35
