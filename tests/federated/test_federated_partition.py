"""Who gets which images."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moezoo.errors import ConfigError, DataError
from moezoo.federated import class_counts, divide

LABELS = np.arange(300) % 10


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(["iid", "by_class", "dirichlet"]), st.integers(1, 10), st.integers(0, 99))
def test_every_image_has_one_client_and_the_same_seed_the_same_division(partition, clients, seed):
    parts = divide(LABELS, clients=clients, partition=partition, alpha=1.0, seed=seed)
    assert sorted(i for part in parts for i in part) == list(range(300))
    assert min(map(len, parts)) >= 2
    assert parts == divide(LABELS, clients=clients, partition=partition, alpha=1.0, seed=seed)
    if partition == "by_class":
        counts = np.array(class_counts(LABELS, parts, 10))
        assert ((counts > 0).sum(0) == 1).all()


def test_a_small_alpha_makes_clients_differ_and_a_large_one_does_not():
    def spread(alpha):
        return np.mean(
            [np.std(class_counts(LABELS, divide(LABELS, clients=4, alpha=alpha, seed=s), 10)) for s in range(5)]
        )

    assert spread(0.1) > 2 * spread(100.0)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"clients": 11, "partition": "by_class"}, ConfigError, "only 10 classes"),
        ({"clients": 200}, ConfigError, "there are 300"),
        ({"clients": 0}, ConfigError, "at least 1"),
        ({"clients": 3, "partition": "dirichelt"}, ConfigError, "dirichlet"),
        ({"clients": 3, "alpha": 0.0}, ConfigError, "above 0"),
        ({"clients": 15, "alpha": 1e-3}, DataError, "raise alpha"),
        ({"clients": 2, "partition": [[0, 1], []]}, DataError, "client 1 has 0"),
        ({"clients": 2, "partition": [[0, 1], [1, 2]]}, ConfigError, "two clients"),
        ({"clients": 2, "partition": [[0, 1], [2, 300]]}, ConfigError, "300 images"),
        ({"clients": 3, "partition": [[0, 1], [2, 3]]}, ConfigError, "2 clients"),
    ],
)
def test_divisions_that_cannot_be_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        divide(LABELS, **arguments)
