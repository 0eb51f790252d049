"""A small model that gives the cells of an image to a big or a small MLP, and images with one bright cell."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from moezoo.data import ImageTensors, Splits
from moezoo.moe import MoELayer
from moezoo.train import seeded

ROWS, COLUMNS, CELL = 4, 4, 2
BIG, SMALL = 32, 4


def mlp(hidden: int) -> nn.Module:
    return nn.Sequential(nn.Linear(CELL**2, hidden), nn.ReLU(), nn.Linear(hidden, 6))


class RoutingToy(nn.Module):
    """(B, 1, 8, 8) to (B, 4)."""

    num_classes = 4
    routing_modules = ("encoder", "attention")

    def __init__(self, target: float | None = 0.25, weight: float = 1.0, anneal: float = 0.0, **router):
        super().__init__()
        self.encoder = nn.Conv2d(1, 3, CELL, stride=CELL)
        self.attention = nn.Linear(3, 1)
        for bias in (self.encoder.bias, self.attention.bias):
            nn.init.zeros_(bias)  # of noise about half the cells are above a threshold of 0.5
        self.moe = MoELayer(
            CELL**2,
            num_experts=2,
            router="score_threshold",
            router_args=router,
            expert="modules",
            expert_args={"modules": [mlp(BIG), mlp(SMALL)]},
            out_dim=6,
            aux_weights={"compute_budget": weight},
            aux_args={"compute_budget": {"target": target, "anneal": anneal}},
        )
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(6 * ROWS * COLUMNS, 4)

    def token_geometry(self, shape):
        return (ROWS, COLUMNS), 0

    def scores(self, images: Tensor) -> Tensor:
        return self.attention(self.encoder(images).flatten(2).transpose(1, 2)).squeeze(-1).sigmoid()

    def forward(self, images: Tensor) -> Tensor:
        cells = F.unfold(images, CELL, stride=CELL).transpose(1, 2)
        return self.head(self.drop(self.moe(cells, scores=self.scores(images)).flatten(1)))


def routing_toy(seed: int = 0, **options) -> RoutingToy:
    with seeded(seed):
        return RoutingToy(**options)


class Bright(Dataset):
    """Noise with one cell that is bright; its quarter of the image is the class, its place the box."""

    def __init__(self, count: int, seed: int = 0):
        generator = torch.Generator().manual_seed(seed)
        self.cells = torch.randint(ROWS * COLUMNS, (count,), generator=generator)
        self.images = 0.1 * torch.randn(count, 1, ROWS * CELL, COLUMNS * CELL, generator=generator)
        for image, cell in zip(self.images, self.cells.tolist(), strict=True):
            row, column = divmod(cell, COLUMNS)
            image[0, row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL] += 2
        row, column = self.cells // COLUMNS, self.cells % COLUMNS
        self.labels = 2 * (row >= ROWS // 2).long() + (column >= COLUMNS // 2).long()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], int(self.labels[index])

    def box(self, index: int) -> tuple[float, float, float, float]:
        row, column = divmod(int(self.cells[index]), COLUMNS)
        return column / COLUMNS, row / ROWS, (column + 1) / COLUMNS, (row + 1) / ROWS


def bright_splits(train: int = 48) -> Splits:
    parts = [Bright(train, 0), Bright(24, 1), Bright(24, 2)]
    training = ImageTensors(parts[0].images, parts[0].labels)
    return Splits("bright", training, *parts[1:], tuple("abcd"), (0.5,), (0.5,))
