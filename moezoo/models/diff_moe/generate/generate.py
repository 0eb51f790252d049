"""One door to every way of generating text."""

from __future__ import annotations

import torch
from torch import Tensor

from moezoo.models.diff_moe.generate.beam import beam_search
from moezoo.models.diff_moe.generate.options import GenerationOptions
from moezoo.models.diff_moe.generate.output import GenerationOutput
from moezoo.models.diff_moe.generate.sequential import draw
from moezoo.models.diff_moe.generate.steps import NextLogits, Reorder


@torch.no_grad()
def generate(
    next_logits: NextLogits,
    batch: int,
    options: GenerationOptions,
    *,
    device: torch.device | str = "cpu",
    reorder: Reorder | None = None,
    generator: torch.Generator | None = None,
) -> GenerationOutput:
    """A text for each of ``batch`` images: sampled, greedy with one beam, else by beam search.

    What a row becomes does not depend on the other rows; only random draws come from one ``generator`` for all.

    Args:
        next_logits: Ids (N, t) to logits (N, V) of what follows them, N = batch * num_beams, an image's rows together.
        batch: Images.
        options: From :func:`generation_options`.
        device: Where the ids are made.
        reorder: Called with rows (N,) when hypotheses change places, for a cache behind ``next_logits``.
        generator: For ``do_sample``; ``None`` is the device's global one.

    Raises:
        ConfigError: A special token is not below the vocabulary's size.
        InputError: ``next_logits`` returns another shape.
        NonFiniteError: The logits are NaN, or allow no token that may be generated.
    """
    device = torch.device(device)
    if not batch:
        nothing = torch.zeros(0, device=device)
        return GenerationOutput(nothing.long()[:, None], nothing, nothing.long())
    if options.do_sample or options.num_beams == 1:
        return draw(next_logits, batch, options, device, generator)
    return beam_search(next_logits, batch, options, device, reorder or _stay)


def _stay(rows: Tensor) -> None:
    """Nothing is kept between calls."""
