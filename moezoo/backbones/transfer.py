"""Pretrained weights from a plain backbone into the same backbone with adapters, nothing left out unnoticed."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from moezoo.backbones.in_place import spread_dense
from moezoo.backbones.inject import adapters_of
from moezoo.errors import WeightsMismatch


def classifier_keys(classifiers: Iterable[str], *classes: int) -> tuple[str, ...]:
    """Prefixes of the keys in which a backbone for one number of classes may differ from one for another.

    Without classes, what prepares features for the classifier (a norm, a hidden layer) may go with it, so that the
    whole head may differ.
    """
    if len(set(classes)) == 1:
        return ()
    return tuple(f"{name.partition('.')[0] if 0 in classes else name}." for name in classifiers)


def unread_keys(model: nn.Module, fresh: nn.Module) -> list[str]:
    """Keys of ``model`` that timm did not read from the file: it reads a few architectures leniently.

    Reading writes to a tensor, and a tensor counts how often it was written to.

    Args:
        model: The model after timm read the file.
        fresh: Its twin without a file; may be on the meta device.
    """
    before = fresh.state_dict(keep_vars=True)
    after = model.state_dict(keep_vars=True)
    return [key for key, tensor in after.items() if tensor._version <= before[key]._version]


def copy_backbone(model: nn.Module, donor: nn.Module, may_differ: tuple[str, ...]) -> None:
    """Copy every weight of ``donor`` into ``model``, which has adapters besides and perhaps another classifier.

    Where ``model`` was upcycled, experts are made from the donor's MLPs, and routers stay as they are.

    Args:
        may_differ: Prefixes of keys that only one of the two may have, or in another shape; those keep what they have.

    Raises:
        WeightsMismatch: Another key is missing, unexpected or of another shape; ``model`` is unchanged.
    """
    added = tuple(f"{path}." for path in adapters_of(model))
    target = {key: value for key, value in model.state_dict().items() if not key.startswith(added)}
    source = spread_dense(model, donor.state_dict())
    same = {key for key in target if key in source and target[key].shape == source[key].shape}
    wrong = [key for key in (*target, *source) if key not in same and not key.startswith(may_differ)]
    problems = {
        "missing": [key for key in wrong if key not in source],
        "unexpected": [key for key in wrong if key not in target],
        "of another shape": sorted({key for key in wrong if key in source and key in target}),
    }
    if wrong:
        told = ", ".join(f"{problem} {listed(keys)}" for problem, keys in problems.items() if keys)
        raise WeightsMismatch(f"the backbone's weights do not fit: {told}")
    model.load_state_dict({key: source[key] for key in same}, strict=False)


def listed(keys: list[str], limit: int = 10) -> str:
    """The first ``limit`` keys and how many there are besides."""
    more = f" and {len(keys) - limit} more" if len(keys) > limit else ""
    return ", ".join(keys[:limit]) + more
