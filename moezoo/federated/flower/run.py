"""A server and its clients as processes: :func:`serve` in one, :func:`join` in each of the others."""

from __future__ import annotations

import socket
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flwr.client import start_client
from flwr.server import ServerConfig, start_server
from torch import nn

from moezoo.errors import ConfigError, DistributedError
from moezoo.federated.client import Client
from moezoo.federated.flower.client import FlowerClient
from moezoo.federated.flower.strategy import ExpertWeighted
from moezoo.federated.split import ParameterSplit, State


@dataclass(frozen=True)
class Served:
    """What a server knows at the end."""

    state: State
    """The global tensors."""
    rounds: Sequence[dict[str, Any]]
    """See :attr:`ExpertWeighted.rounds`."""


def serve(
    model: nn.Module,
    split: ParameterSplit,
    *,
    address: str,
    clients: int,
    rounds: int,
    timeout: float = 600.0,
    certificates: tuple[bytes, bytes, bytes] | None = None,
) -> Served:
    """Wait for ``clients`` clients, then ``rounds`` times send them the global tensors and average what comes back.

    Args:
        model: What the rounds begin with; its local experts are never sent.
        split: Of the same ``local_experts`` as the clients'.
        address: ``host:port`` to listen on.
        clients: How many there have to be at the beginning. One that is lost later is done without.
        rounds: How often.
        timeout: Seconds to wait for the clients, and for the answers of a round.
        certificates: Authority, server and private key in PEM, for an encrypted connection.

    Raises:
        DistributedError: The clients did not come, or no one is left.
    """
    strategy = ExpertWeighted(split.global_state(model), split.layout, clients=clients, timeout=timeout)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Flower would rather be started by its own command
        start_server(
            server_address=address,
            config=ServerConfig(num_rounds=rounds, round_timeout=timeout),
            strategy=strategy,
            certificates=certificates,
        )
    return Served(strategy.state, strategy.rounds)


def wait_for_server(address: str, timeout: float) -> None:
    """Return once something listens at ``address``: Flower gives up at once on a server that is not there yet.

    Raises:
        ConfigError: It is no ``host:port``.
        DistributedError: Nothing did within ``timeout`` seconds.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ConfigError(f"address={address!r} is not allowed: it must be HOST:PORT, for example 127.0.0.1:9000.")
    end = time.monotonic() + timeout
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5.0).close()
            return
        except OSError as error:
            if time.monotonic() > end:
                raise DistributedError(
                    f"the server at {address} cannot be reached within {timeout:g} seconds: {error}"
                ) from error
            time.sleep(0.2)


def join(
    client: Client,
    class_counts: Sequence[int],
    *,
    address: str,
    timeout: float = 600.0,
    root_certificates: bytes | None = None,
) -> nn.Module:
    """Take part until the server is done; the client's model as it is then.

    Args:
        client: What is trained.
        class_counts: (classes,) its training images of each class.
        address: ``host:port`` of the server.
        timeout: Seconds to try to reach it.
        root_certificates: The authority in PEM, for an encrypted connection.

    Raises:
        ConfigError: The address is none.
        DistributedError: The server cannot be reached, or is gone.
    """
    flower = FlowerClient(client, list(class_counts))
    wait_for_server(address, timeout)
    try:
        start_client(
            server_address=address,
            client=flower,
            insecure=root_certificates is None,
            root_certificates=root_certificates,
            max_wait_time=timeout,
        )
    except Exception as error:
        if not type(error).__module__.startswith("grpc"):
            raise
        raise DistributedError(f"the server at {address} cannot be reached, or is gone: {error}") from error
    return client.model.eval()
