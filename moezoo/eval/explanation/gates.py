"""What the gates of a model of several scales or spectra decide."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from moezoo.data.reid.splits import ReidPart
from moezoo.eval.answers import placed
from moezoo.eval.explanation.patterns import ActivationPatterns, analyze_expert_activation_patterns
from moezoo.eval.reid.features import sighting_batches
from moezoo.moe.modes import evaluating


@dataclass(frozen=True, eq=False)
class GateWeights:
    """Of N sightings in M spectra; ``None`` where the model has no such gate."""

    scales: Tensor | None
    """(N, M, E) float64 on the CPU; a spectrum's sum to one, zeros where it is missing."""
    modalities: Tensor | None
    """(N, M); a sighting's sum to one."""


def gate_weights(model: nn.Module, images: Tensor, present: Tensor | None = None, batch_size: int = 64) -> GateWeights:
    """What a model tells when it is asked with ``return_weights=True``; nothing of one that cannot be.

    Args:
        model: In evaluation mode.
        images: As the model takes them.
        present: (B, M) bool.
        batch_size: Images per forward.
    """
    if "return_weights" not in inspect.signature(model.forward).parameters:
        return GateWeights(None, None)
    found: list[GateWeights] = []
    for start in range(0, len(images), batch_size):
        some = placed(model, images[start : start + batch_size])
        given = {} if present is None else {"present": present[start : start + batch_size].to(some.device)}
        output = model(some, return_weights=True, **given)
        weights = output.get("scale_weights"), output.get("modality_weights")
        found.append(GateWeights(*(None if each is None else each.detach().cpu().double() for each in weights)))
    return _joined(found)


def gate_weights_of(model: nn.Module, dataset: Any, batch_size: int = 64) -> GateWeights:
    """The same of a data set of sightings, on all spectra; the model is left as it was."""
    found: list[GateWeights] = []
    with evaluating(model):
        for images, *_ in sighting_batches(dataset, batch_size):
            found.append(gate_weights(model, images[:, 0] if images.shape[1] == 1 else images))
    return _joined(found)


def scale_names(model: nn.Module, number: int) -> tuple[str, ...]:
    """What the E scales of a model are called: as it labels their experts, else by their sides."""
    for module in model.modules():
        kind, labels = getattr(module, "expert_labels", None) or ("", ())
        if kind == "scale" and len(labels) == number:
            return tuple(str(label).removesuffix(" windows") for label in labels)
    windows = getattr(getattr(model, "windows", None), "windows", None) or ()
    if len(windows) == number:  # cut down to the grid of tokens
        return tuple(f"{rows} x {columns}" for rows, columns in windows)
    sides: Sequence[int] = tuple(getattr(model, "scales", None) or ())
    return tuple(f"{side} x {side}" for side in sides) if len(sides) == number else ()


def scale_patterns(
    model: nn.Module, history: Sequence[Tensor], part: ReidPart, indices: Sequence[int], modalities: Sequence[str]
) -> ActivationPatterns:
    """What the scales are used for: of identities, cameras, spectra and, of generated sightings, the levels of cues.

    Args:
        model: Whose gate it is.
        history: T moments of (N, M, E) weights of the same sightings.
        part: Where they come from.
        indices: N places in it.
        modalities: M names.
    """
    images, count = part.images, len(modalities)
    content: dict[str, list[Any]] = {
        "spectrum": list(modalities) * len(indices),
        "identity": [int(images.identities[i]) for i in indices for _ in range(count)],
        "camera": [int(images.cameras[i]) for i in indices for _ in range(count)],
    }
    if (levels := getattr(images, "levels", None)) is not None:  # of a generator that knows what it planted
        told = [levels(i) for i in indices]
        content |= {cue: [each[cue] for each in told for _ in range(count)] for cue in told[0]}
    flat = [weights.flatten(0, 1) for weights in history]
    kept = {name: values for name, values in content.items() if len(set(values)) > 1}
    return analyze_expert_activation_patterns(flat, kept, experts=scale_names(model, flat[-1].shape[1]) or None)


def _joined(parts: Sequence[GateWeights]) -> GateWeights:
    columns = ([part.scales for part in parts], [part.modalities for part in parts])
    return GateWeights(*(None if any(each is None for each in own) else torch.cat(own) for own in columns))  # type: ignore
