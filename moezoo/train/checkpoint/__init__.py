"""Checkpoints of a training run: safetensors and JSON only, durable, independent of the number of processes."""

from moezoo.train.checkpoint.model import load_model_state, model_state
from moezoo.train.checkpoint.optimizer import load_optimizer_state, optimizer_state
from moezoo.train.checkpoint.rng import rng_state, set_rng_state
from moezoo.train.checkpoint.store import (
    clear_checkpoints,
    load_checkpoint,
    newest_checkpoint,
    save_checkpoint,
    tidy_checkpoints,
)

__all__ = [
    "clear_checkpoints",
    "load_checkpoint",
    "load_model_state",
    "load_optimizer_state",
    "model_state",
    "newest_checkpoint",
    "optimizer_state",
    "rng_state",
    "save_checkpoint",
    "set_rng_state",
    "tidy_checkpoints",
]
