"""Batches of P identities with K images of each, as losses that compare the images of a batch need them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from moezoo.errors import ConfigError
from moezoo.train.batches import EpochBatches, Key
from moezoo.train.seeding import mix


class IdentityBatches(EpochBatches):
    """Every batch of every process holds ``batch_size / instances`` identities, each with ``instances`` images.

    In an epoch the images of an identity are drawn in groups of ``instances``. What is left over waits for another
    epoch; an identity that has fewer images than a group repeats them, each copy with randomness of its own. No
    identity has two groups in one global batch, and an epoch has as many batches as that allows, every one full. So all
    epochs are equally long, and their order depends on the seed and the epoch alone.

    Args:
        identities: (N,) of the images of the data set.
        batch_size: Images per process.
        instances: Images of an identity in a batch.

    Raises:
        ConfigError: ``batch_size`` is not at least two groups and a whole number of them, or the data set has fewer
            identities than a global batch.
    """

    def __init__(
        self,
        identities: Sequence[int] | np.ndarray,
        batch_size: int,
        instances: int,
        *,
        seed: int,
        rank: int = 0,
        world: int = 1,
    ):
        super().__init__(len(identities), batch_size, seed=seed, rank=rank, world=world)
        if batch_size % instances or batch_size < 2 * instances:
            raise ConfigError(
                f"batch_size={batch_size} is not allowed with instances={instances}: it must be a multiple of it, and "
                "twice as large at least, so that a batch compares identities."
            )
        self.instances = instances
        self.groups = self.step // instances
        """Identities of a global batch."""
        _, labels = np.unique(np.asarray(identities), return_inverse=True)
        labels = labels.reshape(-1)
        self.images = np.split(np.argsort(labels, kind="stable"), np.cumsum(np.bincount(labels))[:-1])
        """For each identity the indices of its images."""
        if len(self.images) < self.groups:
            processes = f" x {world} processes" if world > 1 else ""
            raise ConfigError(
                f"batch_size={batch_size}{processes} is not allowed with instances={instances}: it takes "
                f"{self.groups} identities, and the training part has {len(self.images)}."
            )
        self.counts = np.array([max(len(own) // instances, 1) for own in self.images])
        """For each identity the groups it has in an epoch."""
        self.batches = _full_batches(self.counts, self.groups)
        self.end = self.batches * self.step

    def start(self, epoch: int, position: int = 0) -> None:
        """Go on with the batch in which ``position`` is: with another batch size than before it may not begin one."""
        super().start(epoch, position - position % self.step)

    def order(self) -> list[Key]:
        rng = np.random.default_rng(mix(self.seed, self.epoch))
        rows: list[list[list[Key]]] = [[] for _ in range(self.batches)]
        # Groups are dealt out round and round: an identity has at most one for every batch, and they follow one
        # another, so that no two of them get into the same batch.
        dealt = (group for owner in rng.permutation(len(self.images)) for group in self._groups(int(owner), rng))
        for place, group in zip(range(self.batches * self.groups), dealt, strict=False):
            rows[place % self.batches].append(group)
        order = []
        for row in rng.permutation(self.batches):
            for column in rng.permutation(self.groups):
                order += rows[row][column]
        return order

    def _groups(self, owner: int, rng: np.random.Generator) -> Iterator[list[Key]]:
        """An identity's images in groups, in random order."""
        own = rng.permutation(self.images[owner])
        number = min(int(self.counts[owner]), self.batches)
        wanted = number * self.instances
        copies = [Key(self.epoch, int(own[i % len(own)]), i // len(own)) for i in range(wanted)]
        for begin in range(0, wanted, self.instances):
            yield copies[begin : begin + self.instances]


def _full_batches(counts: np.ndarray, groups: int) -> int:
    """The most batches of ``groups`` different identities each, of which identity i may be in ``counts[i]``."""
    best = 1
    while np.minimum(counts, best + 1).sum() >= (best + 1) * groups:
        best += 1
    return best
