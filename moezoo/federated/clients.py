"""Who has which images: the clients of a data set."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from torch import nn
from torch.utils.data import Dataset, Subset

from moezoo.data import Splits
from moezoo.data.skipped import Skipped
from moezoo.errors import ConfigError, InputError
from moezoo.federated.client import Client
from moezoo.federated.config import FederatedConfig
from moezoo.federated.partition import class_counts, divide
from moezoo.federated.server_model import server_model
from moezoo.federated.split import ParameterSplit, State
from moezoo.train import TrainingConfig
from moezoo.train.seeding import mix
from moezoo.train.tasks import AnySplits


def client_of(
    number: int,
    model: nn.Module,
    splits: Splits,
    images: Sequence[int],
    training: TrainingConfig,
    split: ParameterSplit,
    config: FederatedConfig,
    local: State | None = None,
) -> Client:
    """A client with the training images ``images`` of ``splits``, and randomness of its own."""
    own = dataclasses.replace(splits, train=Subset(splits.train, list(images)))
    seeded = dataclasses.replace(training, seed=mix(training.seed, number) % 2**32)
    return Client(number, model, own, seeded, split, config.local_epochs, dict(local or {}), config.local_dropout)


def check_left_out(model: nn.Module, split: ParameterSplit, config: FederatedConfig) -> None:
    """Refuse a ``local_dropout`` for a model that cannot do without its local experts; raises :class:`ConfigError`."""
    if config.local_dropout and any(split.local_experts.values()):
        try:
            server_model(model, split, split.global_state(model))
        except ConfigError as error:
            raise ConfigError(
                f"local_dropout={config.local_dropout:g}: local experts cannot be left out of this model ({error}) "
                "local_dropout=0 always trains them along."
            ) from None


def share_of(
    number: int,
    model: nn.Module,
    splits: AnySplits,
    config: FederatedConfig,
    training: TrainingConfig,
    split: ParameterSplit,
    *,
    whole: bool = False,
) -> tuple[Client, list[int]]:
    """The client ``number`` of a simulation, to be run as a process of its own, and its images of each class.

    Args:
        whole: The data set is this client's alone: it takes all of it.

    Raises:
        ConfigError: There is no such client.
    """
    if not 0 <= number < config.clients:
        raise ConfigError(
            f"client={number} is not allowed: with clients={config.clients} it is 0 to {config.clients - 1}."
        )
    training, splits = config.training(training), labelled(splits)
    labels = labels_of(splits.train)
    parts = [list(range(len(labels)))] * config.clients if whole else shares(labels, config, training.seed)
    check_left_out(model, split, config)
    client = client_of(number, model, splits, parts[number], training, split, config)
    return client, class_counts(labels, parts, splits.num_classes)[number]


def labelled(splits: AnySplits) -> Splits:
    """``splits``, if they can be divided by label; raises :class:`ConfigError` otherwise."""
    if not isinstance(splits, Splits):
        raise ConfigError(f"{type(splits).__name__} cannot be divided among clients: images with labels are needed.")
    return splits


def shares(labels: np.ndarray, config: FederatedConfig, seed: int) -> list[list[int]]:
    """:func:`~moezoo.federated.divide`, as ``config`` asks for it."""
    return divide(
        labels,
        clients=config.clients,
        partition=config.partition,
        alpha=config.alpha,
        min_images=config.min_images,
        seed=seed,
    )


def labels_of(dataset: Dataset) -> np.ndarray:
    """(N,) The labels of a data set, read from its images where it does not say them.

    Raises:
        InputError: A file cannot be read.
    """
    known = getattr(dataset, "labels", None)
    if known is not None:
        return np.asarray(known)
    labels = []
    for index in range(len(dataset)):  # type: ignore[arg-type]
        item = dataset[index]
        if isinstance(item, Skipped):
            raise InputError(f"{item.path} cannot be read, so that no client can be given it: {item.reason}")
        labels.append(int(item[1]))
    return np.asarray(labels)
