"""timm's own optimizer, schedule, loader and averaged weights train our models, experts kept even."""

from __future__ import annotations

import torch
from balance import EVEN, TINY, UNEVEN, load_entropy
from timm.data import create_dataset, create_loader
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3
from torch.nn import functional as F

EPOCHS = 3


def loader(folder, split, **kwargs):
    data = create_dataset("", root=str(folder), split=split)
    size = 32 if kwargs.get("is_training") else 120
    return create_loader(data, (3, 16, 16), size, use_prefetcher=False, device=torch.device("cpu"), **kwargs)


def train(timm, folder, balance):
    """A loop that knows nothing of MoE; returns the model, its average, and the losses."""
    torch.manual_seed(0)
    model = timm.create_model("entity_moe_vit_tiny_patch16_224", num_classes=10, load_balance_weight=balance, **TINY)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=2e-3, weight_decay=0.05)
    scheduler, epochs = create_scheduler_v2(optimizer, sched="cosine", num_epochs=EPOCHS)
    average = ModelEmaV3(model, decay=0.9)
    batches = loader(folder, "train", is_training=True, no_aug=True, num_workers=0)
    losses = []
    for epoch in range(epochs):
        model.train()
        for images, labels in batches:
            loss = F.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            average.update(model)
            losses.append(loss.item())
        scheduler.step(epoch + 1)
    return model, average, losses


def test_timms_library_trains_on_an_image_folder_and_the_balance_loss_keeps_the_experts_even(timm_zoo, digits_folder):
    held_out = list(loader(digits_folder, "validation", num_workers=0, crop_pct=1.0))
    model, average, losses = train(timm_zoo, digits_folder, balance=0.02)
    assert sum(losses[-10:]) < 0.85 * sum(losses[:10])
    average.eval()
    with torch.no_grad():
        right = sum((average(images).argmax(1) == labels).sum().item() for images, labels in held_out)
    assert right / sum(len(labels) for _, labels in held_out) > 0.25
    images = [images for images, _ in held_out]
    with_loss = load_entropy(model, images)
    without, _, _ = train(timm_zoo, digits_folder, balance=0.0)
    assert with_loss > EVEN
    assert load_entropy(without, images) < UNEVEN
