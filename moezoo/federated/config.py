"""What a simulation can be told. No torch here."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from moezoo.config import STRICT, option
from moezoo.errors import ConfigError
from moezoo.federated.partition import PARTITIONS, Partition
from moezoo.names import did_you_mean
from moezoo.train.config import TrainingConfig

METHODS = {
    "federated": "local experts stay, the rest is averaged, experts by their tokens",
    "fedavg": "everything is averaged by images (McMahan et al. 2017)",
    "local": "every client alone, on its own images",
    "central": "one model on the images of all clients",
}
"""What is trained, the first always."""
NOT_IN_ROUNDS = ("ema_decay", "early_stopping", "save_every")


@dataclass(frozen=True)
class FederatedConfig:
    """Who trains with whom, and for how long."""

    __pydantic_config__ = STRICT

    clients: int = option(4, "clients, each with a share of the training images")
    rounds: int = option(10, "rounds of training at the clients and averaging")
    local_epochs: int = option(1, "passes over a client's images in a round")
    partition: Partition = option("dirichlet", f"who has which images: {', '.join(PARTITIONS)}, or indices by client")
    alpha: float = option(0.3, "of the Dirichlet distribution: the smaller, the more the clients differ")
    min_images: int = option(2, "images that every client has at least")
    local_experts: Sequence[int] | Mapping[str, Sequence[int]] | None = option(
        (-1,), "experts that stay, of every MoE layer or by layer; null: as FederatedMoE layers say"
    )
    local_dropout: float = option(
        0.75, "share of a client's steps that leave its local experts out, so that the shared model is one of its own"
    )
    baselines: tuple[str, ...] = option(("fedavg", "local", "central"), "what is trained too, for comparison")

    def __post_init__(self) -> None:
        for name in ("clients", "rounds", "local_epochs", "min_images"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ConfigError(f"{name}={value!r} is not allowed: it must be a whole number of at least 1.")
        share = self.local_dropout
        if type(share) not in (int, float) or not 0 <= share < 1:
            raise ConfigError(f"local_dropout={share!r} is not allowed: it must be at least 0 and less than 1.")
        for name in self.baselines:
            if name not in METHODS or name == "federated":
                known = [method for method in METHODS if method != "federated"]
                raise ConfigError(
                    f"baselines: {name!r} is not allowed.{did_you_mean(name, known)} Allowed: {', '.join(known)}."
                )

    def training(self, given: TrainingConfig) -> TrainingConfig:
        """``given`` over all rounds: its ``epochs`` become theirs, and its warm-up half of them at most.

        Raises:
            ConfigError: It has something that rounds have no use for.
        """
        for name in NOT_IN_ROUNDS:
            if getattr(given, name) is not None:
                raise ConfigError(f"training.{name}={getattr(given, name)!r} is not allowed with rounds: leave it out.")
        if given.parallel != "ddp" or given.expert_parallel != 1:
            raise ConfigError("training.parallel and training.expert_parallel are not for clients: leave them out.")
        epochs = self.rounds * self.local_epochs
        return dataclasses.replace(given, epochs=epochs, warmup_epochs=min(given.warmup_epochs, epochs / 2))
