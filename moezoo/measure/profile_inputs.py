"""What a model is given to be profiled, and a loss for whatever it answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

from moezoo.backbones.inputs import example_shape
from moezoo.moe.aux import aux_loss


def random_input(model: nn.Module, batch_size: int, seed: int = 0) -> tuple[Tensor, ...]:
    """Arguments for ``model``: random images, and for a model that reads text as many full rows of random ids.

    Args:
        model: Says by ``pretrained_cfg`` how large its images are; by ``takes_text`` and ``moezoo_config`` what
            its text is like.
        batch_size: Images.
        seed: Of the random numbers.
    """
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(batch_size, *example_shape(model), generator=generator)
    config: Any = getattr(model, "moezoo_config", None)
    if not getattr(model, "takes_text", False) or not getattr(config, "has_text", True):
        return (images,)
    shape = (batch_size, config.max_text_len)
    text = torch.randint(config.vocab_size, shape, generator=generator)
    return images, text, torch.ones(shape, dtype=torch.bool)


def some_loss(model: nn.Module, output: Any, input: Sequence[Tensor]) -> Tensor:
    """A loss that costs what training costs: cross-entropy of logits, else a mean square; and the auxiliary loss.

    Args:
        model: What answered, for its auxiliary loss.
        output: Its answer.
        input: What it was given.
    """
    aux = aux_loss(model)
    logits = output.get("logits") if isinstance(output, Mapping) else output
    if isinstance(logits, Tensor) and logits.dim() == 2:
        task = F.cross_entropy(logits.float(), torch.arange(len(logits), device=logits.device) % logits.shape[1])
    elif isinstance(logits, Tensor) and logits.dim() == 3 and len(input) > 1:
        task = F.cross_entropy(logits[:, :-1].float().transpose(1, 2), input[1][:, 1:])
    elif isinstance(output, Mapping):
        return aux  # all its losses are auxiliary ones
    else:
        leaves = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
        task = torch.stack([leaf.float().square().mean() for leaf in leaves]).sum()
    return task + aux.to(task.device)
