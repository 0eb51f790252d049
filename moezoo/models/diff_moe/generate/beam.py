"""Beam search: of the texts a beam of hypotheses leads to, the one with the best score."""

from __future__ import annotations

import torch
from torch import Tensor

from moezoo.models.diff_moe.generate.finished import Finished, take
from moezoo.models.diff_moe.generate.options import GenerationOptions
from moezoo.models.diff_moe.generate.output import GenerationOutput
from moezoo.models.diff_moe.generate.processors import NextTokens
from moezoo.models.diff_moe.generate.steps import NextLogits, Reorder


def beam_search(
    next_logits: NextLogits, batch: int, options: GenerationOptions, device: torch.device, reorder: Reorder
) -> GenerationOutput:
    """The best text found for each of ``batch`` images with ``num_beams`` hypotheses."""
    beams, rules, finished = options.num_beams, NextTokens(options, device), Finished(batch, options, device)
    ids = torch.full((batch, beams, 1), options.bos_id, device=device)
    # All beams begin alike, so at first there is only one.
    running = torch.full((batch, beams), -torch.inf, device=device)
    running[:, 0] = 0
    done = torch.zeros(batch, 1, dtype=torch.bool, device=device)
    for generated in range(1, options.max_length):  # tokens after the beginning, the one to come among them
        flat = ids.flatten(0, 1)
        live = (running > -torch.inf) & ~done
        log_probs = rules(flat, next_logits(flat), live.flatten()).view(batch, beams, -1)
        vocabulary = log_probs.shape[2]
        # Each beam ends in one way at most, so that among twice as many candidates enough are left to go on with.
        totals = (running[:, :, None] + log_probs).flatten(1)
        totals, which = totals.topk(min(2 * beams, totals.shape[1]), dim=1)
        source, token = which // vocabulary, which % vocabulary
        candidates = torch.cat((take(ids, source), token[:, :, None]), dim=2)

        ends = (
            token == options.eos_id if generated + 1 < options.max_length else torch.ones_like(token, dtype=torch.bool)
        )
        # An end counts only if it is as good as the beam is wide; others would fill up the finished ones with stumps.
        counts = ends & ~done
        counts[:, beams:] = False
        length = float(generated) ** options.length_penalty
        finished.add(candidates, (totals / length).masked_fill(~counts, -torch.inf))

        running, going = totals.masked_fill(ends, -torch.inf).topk(beams, dim=1)
        ids = take(candidates, going)
        done |= _is_done(finished.scores, running[:, :1], generated, options)
        if done.all():
            break
        first = torch.arange(batch, device=device)[:, None] * beams
        reorder((first + source.gather(1, going)).flatten())
    return finished.best()


def _is_done(finished: Tensor, running: Tensor, generated: int, options: GenerationOptions) -> Tensor:
    """(B, 1) bool: whether the search of an image ends, by its finished scores and its best unfinished sum (B, 1)."""
    best, worst = finished[:, :1], finished[:, -1:]
    if options.early_stopping == "never":
        # Sums never rise, so what an unfinished text can reach at best is its sum over the largest power to come.
        powers = [float(length) ** options.length_penalty for length in (generated + 1, options.max_length - 1)]
        enough = running / max(powers) <= best
    else:
        # Where a model is sure, the other hypotheses are stumps, all finished before the one that is meant has ended.
        limit = best if options.early_stopping else worst
        enough = (worst > -torch.inf) & (running / float(generated) ** options.length_penalty <= limit)
    return enough | running.isneginf()
