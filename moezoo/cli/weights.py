"""Where the weights of a model lie that is given by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def stored_source(name: str) -> str | None:
    """The stored model that ``name`` is or takes its weights from; ``None`` if it has a backbone's alone."""
    from moezoo.names import is_stored_name
    from moezoo.registry import model_weights

    source = name if is_stored_name(name) else model_weights(name)
    return source if source is not None and is_stored_name(source) else None


def check_trained(name: str, checkpoint: Path | None, pretrained: bool) -> None:
    """Raise :class:`ConfigError` if ``name`` would have random weights."""
    from moezoo.errors import ConfigError
    from moezoo.names import is_stored_name

    if not (checkpoint or pretrained or is_stored_name(name)):
        raise ConfigError(
            f"{name!r} would predict with random weights: give --checkpoint FILE, --pretrained, or the name of a "
            "stored model (local-dir:FOLDER, hf-hub:user/repo)."
        )


def trained_model(
    name: str,
    *,
    checkpoint: Path | None = None,
    pretrained: bool = False,
    assignments: Sequence[str] = (),
    device: str = "auto",
) -> nn.Module:
    """The model ``name`` with its weights, in evaluation mode, on ``device``.

    Raises:
        ConfigError: Its weights would be random.
    """
    from moezoo.config import parse_assignments
    from moezoo.factory import create_model
    from moezoo.names import is_stored_name
    from moezoo.train import find_device

    check_trained(name, checkpoint, pretrained)
    loaded = pretrained or is_stored_name(name)
    model = create_model(name, loaded, checkpoint_path=checkpoint, **parse_assignments(list(assignments)))
    return model.eval().to(find_device(device))
