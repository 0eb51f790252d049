"""Where the weights of a model lie that is given by name."""

from __future__ import annotations


def stored_source(name: str) -> str | None:
    """The stored model that ``name`` is or takes its weights from; ``None`` if it has a backbone's alone."""
    from moezoo.names import is_stored_name
    from moezoo.registry import model_weights

    source = name if is_stored_name(name) else model_weights(name)
    return source if source is not None and is_stored_name(source) else None
