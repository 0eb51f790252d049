"""Batches of P identities with K images each."""

from collections import Counter
from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moezoo.errors import ConfigError
from moezoo.train.tasks.identity_batches import IdentityBatches


def labels(counts):
    return [identity for identity, count in enumerate(counts) for _ in range(count)]


def epoch(batches, number=1, position=0):
    batches.start(number, position)
    return list(batches)


def global_batches(identities, world, **settings):
    """What all processes take together, step by step."""
    ranks = [epoch(IdentityBatches(identities, **settings, rank=r, world=world)) for r in range(world)]
    return [list(chain.from_iterable(step)) for step in zip(*ranks, strict=True)], ranks


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(1, 25), min_size=8, max_size=20),
    instances=st.integers(2, 6),
    world=st.sampled_from([1, 2]),
    seed=st.integers(0, 5),
)
def test_every_batch_of_every_process_is_p_identities_with_k_images(counts, instances, world, seed):
    identities = labels(counts)
    together, ranks = global_batches(identities, world, batch_size=4 * instances, instances=instances, seed=seed)
    for batch in (batch for rank in ranks for batch in rank):
        held = Counter(identities[key.image] for key in batch)
        assert len(held) == 4
        assert set(held.values()) == {instances}
    used = Counter()
    for batch in together:
        # No identity fills two groups, whichever process has them.
        assert len({identities[key.image] for key in batch}) == 4 * world
        assert len(set(batch)) == len(batch)  # an image that comes twice is another copy
        used.update(key.image for key in batch)
    for identity, count in enumerate(counts):
        own = [used[i] for i, each in enumerate(identities) if each == identity and used[i]]
        # Images repeat only where there are fewer than a group has, and then evenly.
        if count >= instances:
            assert set(own) <= {1}
        elif own:
            assert len(own) == count
            assert max(own) - min(own) <= 1
    # As many batches as there can be: one more could not be filled with different identities.
    groups = [max(count // instances, 1) for count in counts]
    longer = len(together) + 1
    assert sum(min(each, longer) for each in groups) < longer * 4 * world


def test_an_epoch_is_a_matter_of_seed_and_number_and_goes_on_anywhere():
    identities = labels([5, 9, 4, 2, 16, 8, 8])
    plan = IdentityBatches(identities, 8, 4, seed=3)
    first = epoch(plan)
    assert epoch(IdentityBatches(identities, 8, 4, seed=3)) == first
    assert epoch(plan, 2) != [[key._replace(epoch=2) for key in batch] for batch in first]
    assert epoch(IdentityBatches(identities, 8, 4, seed=4)) != first
    assert len(plan) == len(first) == plan.end // plan.step
    for done in range(len(first) + 1):
        assert epoch(plan, 1, done * plan.step) == first[done:]
    # Gone on with another batch size: from the batch that was under way.
    assert epoch(plan, 1, plan.step + 3) == first[1:]
    # Images that one epoch leaves out, others take.
    assert {key.image for n in range(1, 30) for batch in epoch(plan, n) for key in batch} == set(range(len(identities)))
    # One process with the whole batch sees what two see together.
    together, _ = global_batches(identities, 2, batch_size=8, instances=4, seed=3)
    assert epoch(IdentityBatches(identities, 16, 4, seed=3)) == together


@pytest.mark.parametrize(
    ("size", "instances", "world", "message"),
    [
        (10, 4, 1, "batch_size=10 is not allowed with instances=4: it must be a multiple"),
        (4, 4, 1, "twice as large at least"),
        (16, 4, 1, "it takes 4 identities, and the training part has 3"),
        (8, 4, 2, "batch_size=8 x 2 processes is not allowed"),
    ],
)
def test_batches_that_cannot_be_filled_are_refused(size, instances, world, message):
    with pytest.raises(ConfigError, match=message):
        IdentityBatches(labels([4, 4, 4]), size, instances, seed=0, world=world)
