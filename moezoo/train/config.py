"""What the training loop can be told. No torch here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from moezoo.config import STRICT, option
from moezoo.errors import ConfigError

LIVE_FIELDS = frozenset(
    {"device", "num_workers", "save_every", "keep_checkpoints", "log_every", "tensorboard", "on_full_disk"}
    | {"max_bad_files", "dist_timeout", "on_nonfinite", "max_skipped_steps"}
)
"""What a resumed run may change without a word, since it changes nothing about the weights."""

REID_FIELDS = ("instances", "id_weight", "triplet_weight")
"""What says something in re-identification alone."""


@dataclass(frozen=True)
class TrainingConfig:
    """The ``training`` section of a recipe. Decoded by :func:`moezoo.config.decode`."""

    __pydantic_config__ = STRICT

    epochs: int = option(30, "passes over the training images")
    batch_size: int = option(64, "images per forward and process; a step has this x grad_accum_steps x processes")
    grad_accum_steps: int = option(1, "forwards whose gradients are averaged into one step")
    lr: float = option(1e-3, "peak learning rate of AdamW")
    min_lr: float = option(1e-6, "learning rate the cosine ends at; other rates than lr end in the same proportion")
    lr_backbone: float | None = option(None, "peak rate of the backbone; null: lr")
    lr_moe: float | None = option(None, "peak rate of adapters and MoE layers; null: lr")
    lr_head: float | None = option(None, "peak rate of the classifier; null: lr")
    layer_decay: float | None = option(None, "factor on the rate per block away from the head, e.g. 0.75; null: none")
    weight_decay: float = option(0.05, "on matrices only; biases, norms and position embeddings have none")
    warmup_epochs: float = option(2.0, "epochs of linear warm-up; part of epochs")
    label_smoothing: float = option(0.1, "share of the target spread over all classes")
    mixup: float = option(0.0, "alpha of mixup; 0: none")
    cutmix: float = option(0.0, "alpha of cutmix; 0: none. With both, each batch gets one of them at random")
    text: Literal["own", "none", "shuffled"] = option(
        "own", "sentences a model that takes text is trained with: the image's own, none, or (a control) others'"
    )
    text_weight: float = option(1.0, "weight of the cross-entropy of image and class sentence together")
    language: Literal["en", "zh"] = option("en", "of the sentences about classes")
    instances: int = option(8, "of re-identification: images of an identity in a batch; batch_size is a multiple of it")
    id_weight: float = option(0.25, "of re-identification: weight of the cross-entropy of identities")
    triplet_weight: float = option(1.0, "of re-identification: weight of the soft-margin hard triplet loss")
    grad_clip: float | None = option(1.0, "largest gradient norm; null does not clip")
    ema_decay: float | None = option(None, "of averaged weights, which are validated and kept, e.g. 0.9999; null: none")
    freeze_backbone: bool = option(False, "train only the MoE and the head")
    early_stopping: int | None = option(None, "epochs without a better validation after which it ends; null: never")
    seed: int = option(0, "of the initial weights, the order of images, augmentation, dropout and router noise")
    deterministic: bool = option(False, "only algorithms that repeat bit for bit; slower on a GPU")
    device: Literal["auto", "cpu", "cuda", "mps"] = option("auto", "auto takes an accelerator if there is one")
    mixed_precision: Literal["no", "bf16", "fp16"] = option("no", "autocast type; routing stays in float32")
    grad_checkpointing: bool = option(False, "compute activations again in the backward pass, to save memory")
    num_workers: int = option(0, "processes that read images")
    on_nonfinite: Literal["stop", "skip"] = option("stop", "what a NaN or infinite loss or gradient does to the run")
    max_skipped_steps: int = option(10, "steps that on_nonfinite='skip' may leave out in a whole run")
    max_bad_files: int = option(100, "unreadable training files that are left out; one more ends the run")
    save_every: int | None = option(None, "steps between checkpoints; null: one per epoch")
    keep_checkpoints: int = option(2, "newest checkpoints that stay; 0 writes none")
    on_full_disk: Literal["stop", "continue"] = option("stop", "what a checkpoint that finds no room does to the run")
    log_every: int = option(1, "steps between lines of steps.jsonl")
    tensorboard: bool = option(False, "write event files for TensorBoard too")
    parallel: Literal["ddp", "fsdp"] = option("ddp", "how processes share one model: copies of it, or shards")
    expert_parallel: int = option(1, "processes that share out the experts of a layer among them")
    dist_timeout: float = option(600.0, "seconds after which processes give up waiting for one another")

    def __post_init__(self) -> None:
        wrong = [
            f"{n}={getattr(self, n)!r} is not allowed: it must be {allowed}."
            for n, allowed, ok in self._rules()
            if not ok
        ]
        if wrong:
            raise ConfigError(" ".join(wrong))
        shards = "parallel='fsdp'" if self.parallel == "fsdp" else f"expert_parallel={self.expert_parallel}"
        if self.mixed_precision == "fp16" and (self.parallel == "fsdp" or self.expert_parallel > 1):
            raise ConfigError(
                f"mixed_precision='fp16' does not go with {shards}: each process would scale its gradients by "
                "itself. Take 'bf16' or 'no'."
            )

    def _rules(self) -> list[tuple[str, str, Any]]:
        """(field, what is allowed, whether it holds)."""

        def above(value: float | None, low: float) -> bool:
            return value is None or value > low

        return [
            ("epochs", "at least 1", self.epochs >= 1),
            ("batch_size", "at least 1", self.batch_size >= 1),
            ("grad_accum_steps", "at least 1", self.grad_accum_steps >= 1),
            ("lr", "above 0", self.lr > 0),
            ("min_lr", f"from 0 to lr={self.lr}", 0 <= self.min_lr <= self.lr),
            *((n, "above 0, or null", above(getattr(self, n), 0)) for n in ("lr_backbone", "lr_moe", "lr_head")),
            ("layer_decay", "above 0 and up to 1, or null", self.layer_decay is None or 0 < self.layer_decay <= 1),
            ("weight_decay", "at least 0", self.weight_decay >= 0),
            ("warmup_epochs", f"from 0 to epochs={self.epochs}", 0 <= self.warmup_epochs <= self.epochs),
            ("label_smoothing", "from 0 to below 1", 0 <= self.label_smoothing < 1),
            ("mixup", "at least 0", self.mixup >= 0),
            ("cutmix", "at least 0", self.cutmix >= 0),
            ("text_weight", "at least 0", self.text_weight >= 0),
            ("instances", "at least 2", self.instances >= 2),
            ("id_weight", "at least 0", self.id_weight >= 0),
            ("triplet_weight", "at least 0", self.triplet_weight >= 0),
            ("grad_clip", "above 0, or null", above(self.grad_clip, 0)),
            ("ema_decay", "above 0 and below 1, or null", self.ema_decay is None or 0 < self.ema_decay < 1),
            ("early_stopping", "at least 1, or null", above(self.early_stopping, 0)),
            ("seed", "from 0 to 2**32 - 1", 0 <= self.seed < 2**32),
            ("num_workers", "at least 0", self.num_workers >= 0),
            ("max_skipped_steps", "at least 0", self.max_skipped_steps >= 0),
            ("max_bad_files", "at least 0", self.max_bad_files >= 0),
            ("save_every", "at least 1, or null", above(self.save_every, 0)),
            ("keep_checkpoints", "at least 0", self.keep_checkpoints >= 0),
            ("log_every", "at least 1", self.log_every >= 1),
            ("expert_parallel", "at least 1", self.expert_parallel >= 1),
            ("dist_timeout", "above 0", self.dist_timeout > 0),
        ]


def changed_fields(config: TrainingConfig, names: Iterable[str]) -> str:
    """Those of ``names`` that are not at their defaults, in words: ``mixup=0.2, cutmix=1.0``."""
    defaults = TrainingConfig()
    return ", ".join(f"{n}={getattr(config, n)!r}" for n in names if getattr(config, n) != getattr(defaults, n))
