"""Other people's training loops with attached losses reach the weights of a loop that adds ``aux_loss`` itself."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
import transformers as hf
from timm.utils import NativeScaler
from torch.nn import functional as F
from torch.utils.data import IterableDataset

import moezoo
from moezoo.moe import set_aux_mode, set_aux_scale

AUX = {"load_balancing": 0.5, "router_z": 0.1}
"""Large enough for a missing or doubled gradient to show."""
LR = 0.1
BATCH = 4


class Samples(IterableDataset):
    """The same images in the same order for every loop."""

    def __init__(self, batches, size):
        generator = torch.Generator().manual_seed(5)
        self.images = torch.randn(batches, BATCH, 3, size, size, generator=generator)
        self.labels = torch.randint(5, (batches, BATCH), generator=generator)

    def __iter__(self):
        for image, label in zip(self.images.flatten(0, 1), self.labels.flatten(), strict=True):
            yield {"pixel_values": image, "labels": label}

    def batches(self):
        return zip(self.images, self.labels, strict=True)


def hf_vit():
    config = hf.ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        image_size=16,
        patch_size=4,
        num_labels=5,
    )
    return moezoo.upcycle(
        hf.ViTForImageClassification(config), "all", num_experts=4, top_k=2, init="noise", aux_weights=AUX
    )


def timm_vit():
    model = timm.create_model("test_vit", num_classes=5, img_size=32)
    return moezoo.upcycle(model, "last_half", num_experts=4, top_k=2, init="noise", aux_weights=AUX)


def pair(make):
    """The model twice: collected, and attached."""
    collected = make().train()
    attached = copy.deepcopy(collected)
    set_aux_mode(attached, "attached")
    return collected, attached


def plain_loop(model, data, *, accumulate=1, clip=None, logits=lambda out: out):
    """What moezoo's own loop does, with SGD, so that a gradient shows in the weights as it is."""
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    for step, (images, labels) in enumerate(data.batches(), start=1):
        loss = F.cross_entropy(logits(model(images)), labels) + moezoo.aux_loss(model)
        (loss / accumulate).backward()
        if step % accumulate == 0:
            if clip is not None:
                torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            optimizer.zero_grad()


def train_by_trainer(model, data, folder, accumulate, checkpointing):
    args = hf.TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=BATCH,
        gradient_accumulation_steps=accumulate,
        gradient_checkpointing=checkpointing is not None,
        gradient_checkpointing_kwargs=None if checkpointing is None else {"use_reentrant": checkpointing},
        max_steps=len(data.images) // accumulate,
        max_grad_norm=0.0,
        use_cpu=True,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    constant = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    hf.Trainer(model, args, train_dataset=data, optimizers=(optimizer, constant)).train()


def assert_same_weights(ours, theirs, before):
    """Equal, after every router has moved by far more than the tolerance."""
    moved = {name: (p - before[name]).abs().max() for name, p in theirs.named_parameters() if "router" in name}
    assert moved
    assert all(change > 1e-4 for change in moved.values()), moved
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("checkpointing", [None, False, True])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_transformers_trainer(tmp_path, accumulate, checkpointing):
    collected, attached = pair(hf_vit)
    before = copy.deepcopy(dict(collected.named_parameters()))
    data = Samples(batches=4, size=16)
    plain_loop(collected, data, accumulate=accumulate, logits=lambda out: out.logits)
    if accumulate > 1:
        set_aux_scale(attached, 1 / accumulate)
    train_by_trainer(attached, data, tmp_path, accumulate, checkpointing)
    assert_same_weights(attached, collected, before)


def test_without_attaching_the_trainer_leaves_the_auxiliary_loss_out(tmp_path):
    collected, _ = pair(hf_vit)
    lonely = copy.deepcopy(collected)
    data = Samples(batches=4, size=16)
    plain_loop(collected, data, logits=lambda out: out.logits)
    train_by_trainer(lonely, data, tmp_path, 1, None)
    ours = dict(lonely.named_parameters())
    apart = {name: (p - ours[name]).abs().max() for name, p in collected.named_parameters() if "router" in name}
    assert apart
    assert all(distance > 1e-4 for distance in apart.values()), apart


@pytest.mark.parametrize("accumulate", [1, 2])
def test_timms_native_scaler(accumulate):
    collected, attached = pair(timm_vit)
    before = copy.deepcopy(dict(collected.named_parameters()))
    data = Samples(batches=4, size=32)
    plain_loop(collected, data, accumulate=accumulate, clip=1.0)
    scaler = NativeScaler(device="cpu")
    set_aux_scale(attached, lambda: scaler._scaler.get_scale() / accumulate)
    # The scale exists from the first scaled loss on.
    scaler._scaler.scale(torch.zeros(()))
    optimizer = torch.optim.SGD(attached.parameters(), lr=LR)
    for step, (images, labels) in enumerate(data.batches(), start=1):
        loss = F.cross_entropy(attached(images), labels) / accumulate
        scaler(
            loss,
            optimizer,
            clip_grad=1.0,
            parameters=attached.parameters(),
            need_update=step % accumulate == 0,
        )
        if step % accumulate == 0:
            optimizer.zero_grad()
    assert scaler._scaler.get_scale() > 1
    assert_same_weights(attached, collected, before)
