"""Token by token without looking back: greedy, and sampling."""

from __future__ import annotations

import torch

from moezoo.models.diff_moe.generate.options import GenerationOptions
from moezoo.models.diff_moe.generate.output import GenerationOutput, trimmed
from moezoo.models.diff_moe.generate.processors import NextTokens
from moezoo.models.diff_moe.generate.steps import NextLogits


def draw(
    next_logits: NextLogits,
    batch: int,
    options: GenerationOptions,
    device: torch.device,
    generator: torch.Generator | None,
) -> GenerationOutput:
    """``num_beams`` texts drawn for each of ``batch`` images, the best one by score kept."""
    rows = batch * options.num_beams
    rules = NextTokens(options, device)
    ids = torch.full((rows, 1), options.bos_id, device=device)
    total = torch.zeros(rows, device=device)
    lengths = torch.ones(rows, dtype=torch.int64, device=device)
    ended = torch.zeros(rows, dtype=torch.bool, device=device)
    while ids.shape[1] < options.max_length and not ended.all():
        log_probs = rules(ids, next_logits(ids), ~ended)
        if options.do_sample:
            token = torch.multinomial(rules.shape(ids, log_probs).softmax(-1), 1, generator=generator)
        else:
            token = log_probs.argmax(-1, keepdim=True)
        total += log_probs.gather(1, token).squeeze(1).masked_fill(ended, 0.0)
        lengths += ~ended
        ids = torch.cat((ids, token.masked_fill(ended[:, None], options.pad_id)), dim=1)
        ended |= token.squeeze(1) == options.eos_id
    scores = total / (lengths - 1) ** options.length_penalty
    best = scores.view(batch, -1).argmax(-1) + torch.arange(0, rows, options.num_beams, device=device)
    return trimmed(ids[best], scores[best], lengths[best])
