"""Which tokens compete with each other, for routers by which not every token decides for itself."""

from __future__ import annotations

from moezoo.errors import InputError


def pools_of(num_tokens: int, samples: int, group_size: int | None) -> tuple[int, int]:
    """How many pools of neighbouring tokens there are, and how many tokens each has: the samples, or the groups.

    Without tokens there is one pool, which is empty.

    Raises:
        InputError: The tokens do not divide into groups.
    """
    if num_tokens == 0:
        return 1, 0
    if group_size is None:
        return samples, num_tokens // samples
    if num_tokens % group_size:
        raise InputError(
            f"{num_tokens} tokens do not divide into groups of group_size={group_size}: this router needs full groups "
            "(give it another batch size, or another group_size)."
        )
    return num_tokens // group_size, group_size
