"""The one package that flax's files need."""

from __future__ import annotations

from typing import Any

from moezoo.errors import MissingPackageError


def load_msgpack() -> Any:
    """msgpack.

    Raises:
        MissingPackageError: It is not installed.
    """
    try:
        import msgpack
    except ImportError:
        raise MissingPackageError(
            'msgpack files of JAX programs need the package msgpack: pip install "moezoo[jax]"; .npz files need nothing'
        ) from None
    return msgpack
