"""The states of all random generators of a process, as plain JSON."""

from __future__ import annotations

import base64
import random
import warnings
from typing import Any

import numpy as np
import torch

from moezoo.errors import CheckpointError, MoeZooWarning


def rng_state() -> dict[str, Any]:
    """Python's, numpy's and torch's generators, and that of the accelerator this process uses."""
    version, words, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state()
    state: dict[str, Any] = {
        "python": [version, list(words), gauss],
        "numpy": [kind, _text(np.asarray(keys).astype("<u4").tobytes()), int(position), int(has_gauss), float(cached)],
        "torch": _text(torch.get_rng_state().numpy().tobytes()),
    }
    # Only the current device: asking for the others' would open a context on each of them.
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda"] = _text(torch.cuda.get_rng_state().numpy().tobytes())
    if torch.backends.mps.is_available():
        state["mps"] = _text(torch.mps.get_rng_state().numpy().tobytes())
    return state


def set_rng_state(state: dict[str, Any]) -> None:
    """Put every generator where :func:`rng_state` saw it. An accelerator's is passed over where there is none.

    Raises:
        CheckpointError: ``state`` is not of :func:`rng_state`.
    """
    try:
        version, words, gauss = state["python"]
        kind, keys, position, has_gauss, cached = state["numpy"]
        random.setstate((version, tuple(words), gauss))
        keys = np.frombuffer(base64.b64decode(keys), dtype="<u4").astype(np.uint32)
        np.random.set_state((kind, keys, position, has_gauss, cached))
        torch.set_rng_state(_bytes(state["torch"]))
        if "cuda" in state and torch.cuda.is_available():
            torch.cuda.set_rng_state(_bytes(state["cuda"]))
        if "mps" in state and torch.backends.mps.is_available():
            torch.mps.set_rng_state(_bytes(state["mps"]))
    except (LookupError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"the checkpoint's random state cannot be used: {error}") from None
    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if gone := [name for name, there in here.items() if name in state and not there]:
        warnings.warn(
            f"the checkpoint was saved on {gone[0]}, which is not here: dropout and router noise go on differently",
            MoeZooWarning,
            stacklevel=2,
        )


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def _bytes(text: str) -> torch.Tensor:
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)
