"""What a model has to offer so that text can be generated with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from torch import Tensor

NextLogits: TypeAlias = Callable[[Tensor], Tensor]
"""Ids (N, t) int64 to the logits (N, V) of the token after them. N is the same in every call, and an image's
hypotheses are ``num_beams`` rows on end."""

Reorder: TypeAlias = Callable[[Tensor], None]
"""Told rows (N,) int64 before the next call: its row i continues the last call's ``rows[i]``. For caches."""
