"""Which decision of a model there is to explain."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from moezoo.errors import ConfigError, InputError
from moezoo.eval.explanation.decision import ClassDecision, Decision, SimilarityDecision
from moezoo.eval.explanation.given import check_images, spectra_there, stacked_spectra
from moezoo.eval.reading import finds_identities


def gives_features(model: nn.Module) -> bool:
    """Whether the model's answer in evaluation is features to be compared, not logits of classes."""
    return finds_identities(model) or getattr(model, "num_classes", None) == 0


def decision_of(
    model: nn.Module,
    images: Tensor,
    present: Tensor | None,
    *,
    target: int | Sequence[int] | None,
    label_names: Sequence[Any] | None,
    match: Tensor | None,
    match_present: Tensor | None,
    against: Tensor | None,
    batch_size: int,
) -> Decision:
    """What there is to explain of this model, by the arguments of :func:`moezoo.eval.explain_decision`.

    Raises:
        ConfigError: One does not fit the kind of model or another one.
        InputError: ``match``, ``match_present`` or ``against`` has the wrong shape.
        NonFiniteError: They or the model's answer are not finite.
    """
    if present is not None and not _takes_present(model):
        raise ConfigError(f"present is not allowed: {type(model).__name__} takes images alone.")
    if match is None and match_present is not None:
        raise ConfigError("match_present is not allowed without match.")
    if match is None and against is None and not gives_features(model):
        return ClassDecision(model, images, present, target, label_names, batch_size)
    for name, given in {"target": target, "label_names": label_names}.items():
        if given is not None:
            raise ConfigError(
                f"{name}={given!r} is not allowed: the model's features are compared, and are no classes."
            )
    if match is not None:
        check_images("match", match)
        if match.shape != images.shape:
            raise InputError(f"match must be like images, {tuple(images.shape)}, got {tuple(match.shape)}")
        if match_present is not None:
            spectra_there(match_present, stacked_spectra(match), "match_present")
    if against is not None:
        check_images("against", against)
        if against.shape[1:] != images.shape[1:]:
            raise InputError(f"against must be images of {tuple(images.shape[1:])}, got {tuple(against.shape[1:])}")
    return SimilarityDecision(model, images, present, match, match_present, against, batch_size)


def _takes_present(model: nn.Module) -> bool:
    taken = inspect.signature(model.forward).parameters.values()
    return any(each.name == "present" or each.kind is inspect.Parameter.VAR_KEYWORD for each in taken)
