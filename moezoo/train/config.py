"""What the training loop can be told. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from moezoo.config import STRICT, option
from moezoo.errors import ConfigError


@dataclass(frozen=True)
class TrainingConfig:
    """The ``training`` section of a recipe. Decoded by :func:`moezoo.config.decode`."""

    __pydantic_config__ = STRICT

    epochs: int = option(30, "passes over the training images")
    batch_size: int = option(64, "images per step and process")
    lr: float = option(1e-3, "peak learning rate of AdamW")
    min_lr: float = option(1e-6, "learning rate the cosine ends at")
    weight_decay: float = option(0.05, "on matrices only; biases, norms and embeddings of one row have none")
    warmup_epochs: float = option(2.0, "epochs of linear warm-up; part of epochs")
    label_smoothing: float = option(0.1, "share of the target spread over all classes")
    grad_clip: float | None = option(1.0, "largest gradient norm; null does not clip")
    seed: int = option(0, "of the initial weights, the order of images, augmentation, dropout and router noise")
    device: Literal["auto", "cpu", "cuda", "mps"] = option("auto", "auto takes an accelerator if there is one")
    mixed_precision: Literal["no", "bf16", "fp16"] = option("no", "autocast type; routing stays in float32")
    num_workers: int = option(0, "processes that read images")

    def __post_init__(self) -> None:
        wrong = [
            f"{name}={getattr(self, name)!r} is not allowed: it must be {allowed}."
            for name, allowed, ok in (
                ("epochs", "at least 1", self.epochs >= 1),
                ("batch_size", "at least 1", self.batch_size >= 1),
                ("lr", "above 0", self.lr > 0),
                ("min_lr", f"from 0 to lr={self.lr}", 0 <= self.min_lr <= self.lr),
                ("weight_decay", "at least 0", self.weight_decay >= 0),
                ("warmup_epochs", f"from 0 to epochs={self.epochs}", 0 <= self.warmup_epochs <= self.epochs),
                ("label_smoothing", "from 0 to below 1", 0 <= self.label_smoothing < 1),
                ("grad_clip", "above 0, or null", self.grad_clip is None or self.grad_clip > 0),
                ("seed", "from 0 to 2**32 - 1", 0 <= self.seed < 2**32),
                ("num_workers", "at least 0", self.num_workers >= 0),
            )
            if not ok
        ]
        if wrong:
            raise ConfigError(" ".join(wrong))
