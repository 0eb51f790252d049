"""transformers' Trainer trains our models on the whole loss, on arrays and on a folder of images."""

from __future__ import annotations

import copy

import pytest
import torch
import transformers
from balance import EVEN, TINY, UNEVEN, load_entropy
from timm.data import create_dataset
from torch.nn import functional as F
from torch.utils.data import Dataset

import moezoo
from moezoo.moe import set_aux_mode
from moezoo.transformers import MoeZooConfig, MoeZooForImageClassification, image_processor

CPU = {"use_cpu": True, "save_strategy": "no", "report_to": [], "disable_tqdm": True, "dataloader_num_workers": 0}


class Samples(Dataset):
    """Prepared images and their labels."""

    def __init__(self, images, labels):
        self.images, self.labels = images, labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return {"pixel_values": self.images[index], "labels": self.labels[index]}


@pytest.mark.parametrize(
    ("accumulate", "bf16", "checkpointing"), [(1, False, False), (2, False, True), (2, True, False)]
)
def test_the_trainer_gives_the_gradients_of_task_and_balance(tmp_path, accumulate, bf16, checkpointing):
    torch.manual_seed(0)
    model = moezoo.create_model(
        "entity_moe/test_vit", num_classes=5, dropout=0.0, load_balance_weight=0.5, router_z_weight=0.1
    )
    ours = copy.deepcopy(model)
    before = {name: p.clone() for name, p in ours.named_parameters()}
    data = Samples(torch.randn(16, 1, 16, 16), torch.randint(5, (16,)))
    set_aux_mode(model, "attached")  # from timm's side; the wrapper has to undo it
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    constant = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    args = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=4,
        gradient_accumulation_steps=accumulate,
        gradient_checkpointing=checkpointing,
        bf16=bf16,
        num_train_epochs=1,
        max_grad_norm=0.0,
        train_sampling_strategy="sequential",
        **CPU,
    )
    wrapped = MoeZooForImageClassification.from_moezoo(model)
    transformers.Trainer(wrapped, args, train_dataset=data, optimizers=(optimizer, constant)).train()
    assert wrapped.gradient_checkpointing == checkpointing
    assert moezoo.aux_loss(ours.eval()) == 0

    ours.train()
    optimizer = torch.optim.SGD(ours.parameters(), lr=0.1)
    for step in range(4):
        rows = slice(4 * step, 4 * step + 4)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = F.cross_entropy(ours(data.images[rows]), data.labels[rows]) + moezoo.aux_loss(ours)
        (loss / accumulate).backward()
        if (step + 1) % accumulate == 0:
            optimizer.step()
            optimizer.zero_grad()
    tolerance = 1e-3 if bf16 else 1e-6
    for (name, a), b in zip(ours.named_parameters(), model.parameters(), strict=True):
        assert (a - b).abs().max() < tolerance, name
        if "router" in name:
            assert (a - before[name]).abs().max() > 10 * tolerance, name


def test_a_loss_from_elsewhere_is_told_what_it_lacks_and_can_have_it(tmp_path, caplog):
    model = moezoo.create_model("entity_moe/test_vit", num_classes=5, dropout=0.0, load_balance_weight=0.5)
    wrapped = MoeZooForImageClassification.from_moezoo(model)
    data = Samples(torch.randn(8, 1, 16, 16), torch.randint(5, (8,)))
    given = {"output_dir": str(tmp_path), "max_steps": 2, "per_device_train_batch_size": 4, **CPU}
    trainer = transformers.Trainer(
        wrapped, transformers.TrainingArguments(label_smoothing_factor=0.1, **given), train_dataset=data
    )
    with caplog.at_level("WARNING", "moezoo"):
        trainer.train()
    assert caplog.text.count("label_smoothing_factor") == 1

    seen = []

    def loss(outputs, labels, num_items_in_batch):
        seen.append(outputs.aux_loss.item())
        return F.cross_entropy(outputs.logits, labels) + outputs.aux_loss

    args = transformers.TrainingArguments(per_device_eval_batch_size=4, **given)
    trainer = transformers.Trainer(wrapped, args, train_dataset=data, compute_loss_func=loss)
    trainer.train()
    assert len(seen) == 2
    assert min(seen) > 0.1
    images, labels = data.images[:4], data.labels[:4]
    outputs = wrapped.train()(images, labels)
    assert torch.equal(outputs.loss, F.cross_entropy(outputs.logits, labels) + outputs.aux_loss)
    assert [value.shape for value in wrapped(images, labels, return_dict=False)] == [(), (4, 5)]
    assert set(wrapped.eval()(images, labels)) == {"loss", "logits"}  # so that Trainer takes the logits alone
    assert transformers.Trainer(wrapped, args).predict(data).predictions.shape == (8, 5)


def read(folder, split, processor):
    """Images as the processor prepares them."""
    data = create_dataset("", root=str(folder), split=split)
    pictures, labels = zip(*data, strict=True)
    return Samples(processor(list(pictures), return_tensors="pt")["pixel_values"], torch.tensor(labels))


def accuracy(prediction):
    return {"accuracy": float((prediction.predictions.argmax(1) == prediction.label_ids).mean())}


def train(folder, output, balance):
    torch.manual_seed(0)
    fields = {"load_balance_weight": balance, **TINY}
    config = MoeZooConfig("entity_moe_vit_tiny_patch16_224", fields, id2label={i: f"digit {i}" for i in range(10)})
    model = MoeZooForImageClassification(config)
    processor = image_processor(model.to_moezoo())
    args = transformers.TrainingArguments(
        output_dir=str(output),
        num_train_epochs=3,
        per_device_train_batch_size=32,
        per_device_eval_batch_size=120,
        learning_rate=2e-3,
        lr_scheduler_type="cosine",
        weight_decay=0.05,
        seed=0,
        **CPU,
    )
    held_out = read(folder, "validation", processor)
    trainer = transformers.Trainer(
        model,
        args,
        train_dataset=read(folder, "train", processor),
        eval_dataset=held_out,
        compute_metrics=accuracy,
        processing_class=processor,
    )
    trainer.train()
    return trainer, held_out.images


def test_the_trainer_trains_on_an_image_folder_and_the_pipeline_takes_what_it_saved(digits_folder, tmp_path):
    trainer, images = train(digits_folder, tmp_path / "with", balance=0.02)
    result = trainer.evaluate()
    assert result["eval_accuracy"] > 0.25
    trainer.save_model(tmp_path / "saved")
    classify = transformers.pipeline("image-classification", model=str(tmp_path / "saved"))
    path = next((digits_folder / "validation" / "0").glob("*.png"))
    assert all(entry["label"].startswith("digit ") for entry in classify(str(path)))
    assert load_entropy(trainer.model.to_moezoo(), [images]) > EVEN
    without, images = train(digits_folder, tmp_path / "without", balance=0.0)
    assert load_entropy(without.model.to_moezoo(), [images]) < UNEVEN
