"""Federated training against each client alone, plain averaging and one model on all: digits at four unequal clients.

    python benchmarks/federated.py              # 3 seeds, Dirichlet 0.3: some minutes on one core

A small network of a convolutional stem and one ``FederatedMoE`` of three global experts and a local one, trained from
scratch on scikit-learn's digits at their own 8 x 8 pixels. Goes on where it was stopped. Writes
``results/federated.json``. Twenty rounds, not ten, and a ``local_dropout`` of 0.75, not 0 or 0.5, by the validation
images of seed 0; nothing else was searched, and the last round is reported.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import torch
import typer
from card_tables.federated import federated_table
from cards import RESULTS, store
from rich.console import Console
from rich.markdown import Markdown
from torch import Tensor, nn

from moezoo.data import ImageTensors, Splits, load_dataset
from moezoo.federated import FederatedConfig, FederatedMoE, simulate
from moezoo.federated.progress import FederatedBar
from moezoo.train import TrainingConfig

CONFIG = FederatedConfig(clients=4, rounds=20, local_epochs=2, alpha=0.3, local_experts=None, local_dropout=0.75)
TRAINING = TrainingConfig(batch_size=32, lr=3e-3, warmup_epochs=2.0, label_smoothing=0.05, device="cpu")
WIDTH = 32


class SmallNet(nn.Module):
    """(B, 1, 8, 8) to (B, 10): 16 tokens, one mixture of experts among them, their mean."""

    num_classes = 10

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, WIDTH, 3, padding=1), nn.ReLU(), nn.Conv2d(WIDTH, WIDTH, 3, stride=2, padding=1), nn.ReLU()
        )
        self.norm = nn.LayerNorm(WIDTH)
        self.moe = FederatedMoE(WIDTH, num_local=1, num_global=3, top_k=2, hidden_dim=2 * WIDTH)
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images).flatten(2).transpose(1, 2)
        x = x + self.moe(self.norm(x))
        return self.head(x.mean(1))


def in_memory(splits: Splits) -> Splits:
    """Prepared once and not at every read: nothing is drawn at random."""
    parts = {
        name: ImageTensors(torch.stack([part[i][0] for i in range(len(part))]), part.labels)  # type: ignore[attr-defined]
        for name, part in (("train", splits.train), ("val", splits.val), ("test", splits.test))
    }
    return dataclasses.replace(splits, **parts)


def main(
    seeds: Annotated[int, typer.Option(help="partitions, initial weights and orders of images")] = 3,
    folder: Annotated[Path, typer.Option(help="where simulations are kept")] = Path("runs/federated"),
    out: Annotated[Path, typer.Option(help="folder of federated.json")] = RESULTS,
) -> None:
    """Run what is missing and store the result."""
    torch.set_num_threads(1)
    console = Console()
    splits = in_memory(load_dataset("digits", input_size=(1, 8, 8), augment=False))
    runs = []
    for seed in range(seeds):
        torch.manual_seed(seed)
        training = dataclasses.replace(TRAINING, seed=seed)
        watcher = FederatedBar(f"seed {seed}", console)
        found = simulate(SmallNet(), splits, CONFIG, training=training, out=folder / str(seed), watcher=watcher)
        result = found.result
        runs.append(
            {
                "class_counts": [list(row) for row in result.class_counts],
                "sent": dict(result.sent),
                "methods": {
                    name: {
                        "test": [[score.everywhere, score.own] for score in method.test],
                        "val": [[score.everywhere, score.own] for score in method.rounds[-1].clients],
                        "server": method.server,
                        "val_server": method.rounds[-1].server,
                        "failures": method.failures,
                        "seconds": sum(each.seconds for each in method.rounds),
                    }
                    for name, method in result.methods.items()
                },
            }
        )
    told = {
        "command": f"python benchmarks/federated.py --seeds {seeds}",
        "seeds": list(range(seeds)),
        "rounds": CONFIG.rounds,
        "local_epochs": CONFIG.local_epochs,
        "alpha": CONFIG.alpha,
        "local_dropout": CONFIG.local_dropout,
        "clients": CONFIG.clients,
        "runs": runs,
    }
    path = store("federated", "federated", folder=out, **told)
    console.print(Markdown(federated_table(told)))
    console.print(str(path))


if __name__ == "__main__":
    typer.run(main)
