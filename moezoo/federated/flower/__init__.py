"""Federated training over a network, by Flower (https://flower.ai): the extra ``moezoo[federated]``.

Flower pins older versions of typer, rich and packaging than others like, so an environment of its own is the safest.
Its telemetry is switched off unless ``FLWR_TELEMETRY_ENABLED`` says otherwise.
"""

import os

from moezoo.errors import MissingPackageError

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")  # read by Flower when it is imported
try:
    import flwr  # noqa: F401
except ImportError as error:
    raise MissingPackageError(
        f'federated training over a network needs Flower ({error}): pip install "moezoo[federated]", best in an '
        "environment of its own. On one machine moezoo.federated.simulate needs nothing more."
    ) from None

from moezoo.federated.flower.client import FlowerClient
from moezoo.federated.flower.run import Served, join, serve
from moezoo.federated.flower.strategy import ExpertWeighted

__all__ = ["ExpertWeighted", "FlowerClient", "Served", "join", "serve"]
