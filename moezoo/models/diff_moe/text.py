"""Checks of the text that comes with images."""

from __future__ import annotations

import torch
from torch import Tensor

from moezoo.errors import InputError
from moezoo.moe.tracing import has_values


def check_text(ids: Tensor, mask: Tensor | None, *, batch: int | None, vocab_size: int, max_len: int) -> None:
    """Raise :class:`InputError` unless ``ids`` and ``mask`` are texts that the model takes.

    Args:
        ids: (B, L) int64.
        mask: (B, L) bool, True for real tokens; ``None`` means all are.
        batch: B, where the images say it.
        vocab_size: Token ids are below it.
        max_len: Longest text.
    """
    if not isinstance(ids, Tensor) or ids.dim() != 2 or ids.dtype != torch.int64:
        got = f"{ids.dtype} {tuple(ids.shape)}" if isinstance(ids, Tensor) else repr(ids)[:80]
        raise InputError(
            f"text must be (batch, length) int64 token ids, got {got}. A tokenizer makes them of sentences."
        )
    if batch is not None and len(ids) != batch:
        raise InputError(f"text must have one row per image: got text {tuple(ids.shape)} for {batch} images.")
    length = ids.shape[1]
    if length == 0:
        raise InputError(f"text is empty: got {tuple(ids.shape)}. Leave text out to use images alone.")
    if length > max_len:
        raise InputError(
            f"text has {length} tokens, more than max_text_len={max_len}: cut it, or build the model with a larger one."
        )
    if mask is not None:
        if not isinstance(mask, Tensor) or mask.shape != ids.shape:
            given = tuple(mask.shape) if isinstance(mask, Tensor) else repr(mask)[:80]
            raise InputError(f"mask must have the shape of text: got mask {given} and text {tuple(ids.shape)}.")
        if mask.dtype != torch.bool:
            raise InputError(f"mask must be bool, True for real tokens, got {mask.dtype}.")
    if torch.compiler.is_compiling() or not has_values(ids) or len(ids) == 0:
        return
    if mask is not None and not bool(mask.any(1).all()):
        rows = (~mask.any(1)).nonzero().flatten().tolist()
        raise InputError(f"mask leaves no real token in row(s) {', '.join(map(str, rows[:8]))} of the text.")
    real = ids if mask is None else ids[mask]
    low, high = (int(end) for end in real.aminmax())
    if low < 0 or high >= vocab_size:
        raise InputError(f"text holds token ids {low} to {high}; vocab_size={vocab_size} allows 0 to {vocab_size - 1}.")
