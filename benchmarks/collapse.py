"""Expert collapse on scikit-learn's digits, and what keeps every expert at work.

    python benchmarks/collapse.py              # five seeds, about ten minutes on one core

A vision transformer of one block reads 16 tokens per image; its MLP is a mixture of 16 experts, one for each token.
The rows differ in the router or its loss alone: same images, seeds, initialisation and optimiser, no router noise, no
capacity. The last row is the dense twin, one MLP that costs a token as much as its expert does.
The epoch is chosen on validation images, each model is tested once, and the load is that of the test images.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.markdown import Markdown
from rich.progress import track
from torch import Tensor, nn

from moezoo.data import load_dataset
from moezoo.eval import LayerLoad
from moezoo.measure.machine import machine
from moezoo.moe import MoELayer, record_routing
from moezoo.train import TrainingConfig, find_device, fit, seeded

DIM, TOKENS, EXPERTS, TOP_K, HIDDEN = 32, 16, 16, 1, 64
DEAD = 0.01
"""An expert with a smaller share of the tokens is dead; an even share is 1/16."""

EXPERTS_ALONE: dict[str, Any] = {"num_experts": EXPERTS, "top_k": TOP_K, "hidden_dim": HIDDEN, "aux_weights": {}}
ROWS: dict[str, dict[str, Any]] = {
    "no balancing": EXPERTS_ALONE,
    "load balancing loss, weight 0.01": EXPERTS_ALONE | {"aux_weights": {"load_balancing": 0.01}},
    "load balancing loss, weight 0.1": EXPERTS_ALONE | {"aux_weights": {"load_balancing": 0.1}},
    "auxiliary-loss-free bias": EXPERTS_ALONE | {"router": "sigmoid_bias"},
    "expert choice": EXPERTS_ALONE | {"router": "expert_choice"},
    "dense twin": EXPERTS_ALONE | {"num_experts": 1, "top_k": 1, "hidden_dim": TOP_K * HIDDEN},
}
"""The arguments of each row's MoE layer."""


class TinyViT(nn.Module):
    """Patches of 2 x 2 pixels, attention, a mixture of experts, the mean of the tokens, ten classes."""

    def __init__(self, **moe: Any):
        super().__init__()
        self.patches = nn.Conv2d(1, DIM, kernel_size=2, stride=2)
        self.position = nn.Parameter(0.02 * torch.randn(1, TOKENS, DIM))
        self.norms = nn.ModuleList(nn.LayerNorm(DIM) for _ in range(3))
        self.attention = nn.MultiheadAttention(DIM, num_heads=4, batch_first=True)
        self.head = nn.Linear(DIM, 10)
        self.moe = MoELayer(DIM, **moe)  # last, so that all rows draw the same weights for the rest

    def forward(self, images: Tensor) -> Tensor:
        x = self.patches(images).flatten(2).transpose(1, 2) + self.position
        y = self.norms[0](x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        x = x + self.moe(self.norms[1](x))
        return self.head(self.norms[2](x).mean(1))


@dataclass(frozen=True)
class Outcome:
    """One trained model on the test images."""

    accuracy: float
    load: LayerLoad
    unserved: float
    """Share of the tokens that no expert took."""

    @property
    def max_over_mean(self) -> float:
        return self.load.max_share * self.load.num_experts

    @property
    def dead(self) -> int:
        return sum(share < DEAD for share in self.load.share)


def train(row: str, seed: int, epochs: int = 30, device: str = "cpu") -> Outcome:
    """Train the model of a row and test it once, with the weights of its best validation epoch."""
    splits = load_dataset("digits", input_size=(1, 8, 8), augment=False)
    with seeded(seed):
        model = TinyViT(**ROWS[row])
    config = TrainingConfig(
        epochs=epochs, batch_size=32, lr=3e-3, warmup_epochs=1.0, label_smoothing=0.0, seed=seed, device=device
    )
    result = fit(model, splits, config).test
    images = torch.stack([image for image, _ in splits.test]).to(model.head.weight.device)
    with torch.no_grad(), record_routing(model) as records:
        model(images)
    routing = records[0].routing
    served = routing.token_index[~routing.dropped].unique().numel()
    return Outcome(result.classification.top1, result.routing[0], 1 - served / routing.num_tokens)


def table(outcomes: dict[str, list[Outcome]]) -> str:
    """The means over the seeds as Markdown, with the lowest and the highest."""

    def spread(values: Sequence[float], form: str) -> str:
        return f"{statistics.mean(values):{form}} ({min(values):{form}} to {max(values):{form}})"

    seeds = len(next(iter(outcomes.values())))
    lines = [
        f"| digits, 360 test images, {seeds} seeds | test accuracy | max / mean load | dead of {EXPERTS} "
        "| load entropy | tokens without an expert |",
        "|---" * 6 + "|",
    ]
    for row, runs in outcomes.items():
        cells = [row, spread([run.accuracy for run in runs], ".2%")]
        if runs[0].load.num_experts == 1:
            cells += ["-"] * 4
        else:
            cells.append(spread([run.max_over_mean for run in runs], ".1f"))
            cells.append(spread([run.dead for run in runs], ".3g"))
            cells.append(spread([run.load.load_entropy for run in runs], ".2f"))
            cells.append(f"{statistics.mean(run.unserved for run in runs):.0%}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(
    seeds: Annotated[int, typer.Option(help="seeds 0 to N-1", min=1)] = 5,
    epochs: Annotated[int, typer.Option(help="of every training", min=1)] = 30,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps")] = "cpu",
    json_: Annotated[Path | None, typer.Option("--json", help="write every run's figures there")] = None,
    markdown: Annotated[Path | None, typer.Option(help="write the table there")] = None,
) -> None:
    """Train every row with every seed and print the table."""
    console = Console()
    outcomes: dict[str, list[Outcome]] = {row: [] for row in ROWS}
    for seed, row in track([(s, r) for s in range(seeds) for r in ROWS], "training", console=console):
        run = train(row, seed, epochs, device)
        outcomes[row].append(run)
        console.print(f"seed {seed}, {row}: {run.accuracy:.2%}, {run.dead} dead", highlight=False)
    text = table(outcomes)
    console.print(Markdown(text))
    if markdown is not None:
        markdown.write_text(text + "\n", encoding="utf-8")
    if json_ is not None:
        rows = {row: [dataclasses.asdict(run) for run in runs] for row, runs in outcomes.items()}
        figures = {"epochs": epochs, "machine": dataclasses.asdict(machine(find_device(device))), "rows": rows}
        json_.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    torch.set_num_threads(1)  # the tensors are small, threads gain nothing
    typer.run(main)
