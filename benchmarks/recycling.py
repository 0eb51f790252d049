"""Experts that start from a dense checkpoint against experts that start at random, after a short fine-tuning.

    python benchmarks/recycling.py             # five seeds, about three minutes on a core of its own

A small dense ViT learns scikit-learn's digits 0 to 4. Its last half then becomes SpheroMoE layers, and all of it learns
the digits 5 to 9 for a few epochs: with experts recycled by each way of drawing units (MoE Jetpack, section 3.1), with
copies of the MLP (sparse upcycling), with random experts, and as it was. Every way but copies has the same experts, of
the same cost; that of copies is larger. Writes ``results/recycling.json``.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import timm
import torch
import typer
from card_tables.recycling import recycling_table
from cards import RESULTS, store
from rich.console import Console
from rich.markdown import Markdown
from rich.progress import track
from torch import Tensor, nn
from torch.nn import functional as F

import moezoo
from moezoo import measure
from moezoo.data import load_dataset
from moezoo.train import seeded

SHAPE = {"img_size": 16, "patch_size": 4, "embed_dim": 48, "depth": 4, "num_heads": 4, "in_chans": 1, "num_classes": 5}
EXPERTS, SLOTS, BATCH = 6, 2, 32
Images = tuple[Tensor, Tensor]


def recycled(sampling: str) -> Callable[[nn.Module, Tensor], nn.Module]:
    """The last half upcycled by this sampling; what looks at images sees training images."""
    looks = {"importance", "graph"}

    def build(model: nn.Module, images: Tensor) -> nn.Module:
        seen = {"images": images} if sampling in looks else {}
        return _upcycled(model, init="recycle", sampling=sampling, **seen)

    return build


def random_experts(model: nn.Module, images: Tensor) -> nn.Module:
    """The same layers, whose experts start as any layer's."""
    made = _upcycled(model, init="recycle", sampling="random")
    for moe in (m for m in made.modules() if isinstance(m, moezoo.moe.MoELayer)):
        for layer in (m for m in moe.experts.modules() if isinstance(m, nn.Linear)):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
    return made


def _upcycled(model: nn.Module, **how: Any) -> nn.Module:
    return moezoo.upcycle(
        model,
        "last_half",
        num_experts=EXPERTS,
        router="sphero",
        router_args={"num_slots": SLOTS},
        aux_weights={},
        **how,
    )


WAYS: dict[str, Callable[[nn.Module, Tensor], nn.Module]] = {
    "recycled, importance": recycled("importance"),
    "recycled, graph": recycled("graph"),
    "recycled, uniform": recycled("uniform"),
    "recycled, random units": recycled("random"),
    "copies": lambda model, images: _upcycled(model, init="copy"),
    "random experts": random_experts,
    "dense": lambda model, images: model,
}


def main(
    seeds: Annotated[int, typer.Option(help="seeds 0 to N-1")] = 5,
    epochs: Annotated[int, typer.Option(help="of the dense model on the digits 0 to 4")] = 30,
    tuning: Annotated[int, typer.Option(help="epochs on the digits 5 to 9")] = 4,
    lr: Annotated[float, typer.Option(help="peak learning rate of both")] = 1e-3,
    out: Annotated[Path, typer.Option(help="folder of recycling.json")] = RESULTS,
) -> None:
    """Train, recycle, tune, test; then store."""
    torch.set_num_threads(1)
    console = Console()
    splits = load_dataset("digits", input_size=(1, 16, 16), augment=False)
    low, high = ({name: _of(getattr(splits, name), half) for name in ("train", "test")} for half in (0, 1))
    found: dict[str, dict[str, Any]] = {way: {"test_accuracy": [], "first_loss": []} for way in WAYS}
    source = []
    for seed in track(range(seeds), "seeds", console=console):
        with seeded(seed):
            dense = timm.create_model("vit_tiny_patch16_224", **SHAPE)
            learn(dense, low["train"], epochs, lr)
            source.append(accuracy(dense, low["test"]))
        for way, build in WAYS.items():
            with seeded(seed):
                model = copy.deepcopy(dense)
                model.reset_classifier(5)
                model = build(model, high["train"][0])
                first = learn(model, high["train"], tuning, lr)
                found[way]["test_accuracy"].append(accuracy(model, high["test"]))
                found[way]["first_loss"].append(first)
            if seed == 0:
                found[way]["mflops"] = measure.flops(model, high["test"][0][:BATCH]).executed / BATCH / 1e6
                found[way]["parameters"] = measure.parameters(model).total
    path = store(
        "recycling",
        "recycling",
        folder=out,
        command="python benchmarks/recycling.py",
        data="digits",
        train_images=len(high["train"][1]),
        test_images=len(high["test"][1]),
        epochs=epochs,
        tuning_epochs=tuning,
        lr=lr,
        source_accuracy=source,
        seeds=list(range(seeds)),
        ways=found,
    )
    console.print(Markdown(recycling_table(json.loads(path.read_text(encoding="utf-8")))))
    console.print(f"written: {path}; python benchmarks/cards.py fills the documents", soft_wrap=True)


def _of(part: Any, half: int) -> Images:
    """The digits 0 to 4, or 5 to 9 counted from 0."""
    items = [part[i] for i in range(len(part))]
    images, labels = torch.stack([image for image, _ in items]), torch.tensor([label for _, label in items])
    mine = labels // 5 == half
    return images[mine], labels[mine] % 5


def learn(model: nn.Module, images: Images, epochs: int, lr: float) -> float:
    """Train; the mean loss of the first epoch."""
    x, y = images
    steps = epochs * (len(x) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, steps, pct_start=0.1)
    losses = []
    model.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(BATCH)[: len(x) // BATCH]:
            loss = F.cross_entropy(model(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
    each = len(losses) // epochs
    return sum(losses[:each]) / each


@torch.no_grad()
def accuracy(model: nn.Module, images: Images) -> float:
    return float((model.eval()(images[0]).argmax(1) == images[1]).float().mean())


if __name__ == "__main__":
    typer.run(main)
