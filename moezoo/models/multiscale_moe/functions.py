"""The document's names whose work is done in higher rooms. Each is imported when it is first asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from moezoo.backbones.answers import plain_answer
from moezoo.errors import ConfigError
from moezoo.lazy import lazy_names
from moezoo.moe.checks import check_int
from moezoo.moe.modes import evaluating

if TYPE_CHECKING:
    from moezoo.eval import Embeddings

_ELSEWHERE = {
    "ArchitectureSearch": "moezoo.search",
    "FederatedMoE": "moezoo.federated",
    "ExplainableMoE": "moezoo.eval",
    "analyze_expert_activation_patterns": "moezoo.eval",
    "visualize_expert_weights": "moezoo.viz",
    "CachedMoE": "moezoo.compress",
    "prune_expert_networks": "moezoo.compress",
}


def batch_inference(model: nn.Module, batch_data: Any, *, batch_size: int = 32, **options: Any) -> Tensor | Embeddings:
    """Features of many images, some at a time and without gradients.

    Args:
        model: Is asked in evaluation mode, and left in the mode it was in.
        batch_data: A tensor of images as the model takes them; or a folder, or paths of image files, which go to
            :func:`moezoo.eval.embed_files`.
        batch_size: Images that the model sees at once.
        **options: Of :func:`moezoo.eval.embed_files`, for files alone.

    Returns:
        What the model answers to a tensor of N images, as (N, D) features (of a classifier its scores); else the
        features with their paths, and the files that could not be read.

    Raises:
        ConfigError: ``batch_size`` is out of range, or an option does not belong to what is given.
    """
    if not isinstance(batch_data, Tensor):
        from moezoo.eval import embed_files

        return embed_files(model, batch_data, batch_size=batch_size, **options)
    if options:
        raise ConfigError(f"{', '.join(options)}: not allowed with a tensor, only with files.")
    check_int("batch_size", batch_size, low=1)
    with evaluating(model):
        return torch.cat([plain_answer(model(images)) for images in batch_data.split(batch_size)])


__getattr__ = lazy_names(__name__, _ELSEWHERE)
