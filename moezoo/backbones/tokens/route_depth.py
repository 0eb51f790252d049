"""Which blocks may be skipped by their tokens, and what judges these."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from moezoo.backbones.blocks import find_blocks, other_modules
from moezoo.backbones.layout import candidate_sites
from moezoo.backbones.mlps import random_copy
from moezoo.backbones.site import Block, Site
from moezoo.backbones.tokens.config import TokenRoutingConfig
from moezoo.backbones.tokens.depth import DepthRouting, attach_depth
from moezoo.backbones.tokens.own import CHILD
from moezoo.backbones.tokens.received import attention_scores
from moezoo.backbones.tokens.scores import AttentionScores, find_attention, has_class_token, resolve_score
from moezoo.backbones.trace import BATCH, Trace
from moezoo.backbones.where import describe, select_blocks
from moezoo.errors import ConfigError, InjectionError

TOLERANCE = 1e-9
"""Largest difference in double precision between the results of tokens and of the same tokens in another order."""


def route_depth(model: nn.Module, traced: Trace, where: Any, config: TokenRoutingConfig) -> dict[str, str]:
    """Let tokens skip the blocks at ``where``, in place; gives the path of each added module and that of its block.

    Raises:
        InjectionError: A place does not exist, is no block of tokens alone, or no whole block comes before it.
        ConfigError: The scores asked for cannot be had there.
    """
    blocks = find_blocks(traced)
    others = other_modules(traced, blocks)
    chosen = select_blocks(blocks, where, others)
    sites = [_site(model, traced, [*blocks, *others][i], i) for i in chosen]
    made = []
    for i, site in zip(chosen, sites, strict=True):
        scores = None
        if config.score != "random":
            scores = _scores(model, traced, _before(blocks, chosen, i), site, config)
        block = model.get_submodule(site.module)
        with next(block.parameters()).device:  # also where the caller has set another default device
            made.append((block, DepthRouting(block, config, scores[1] if scores else None, site).train(block.training)))
        if scores:
            made[-1][1].scores.attach(model.get_submodule(scores[0]))  # type: ignore[union-attr]
    for block, routing in made:
        attach_depth(block, routing)
    return {f"{site.module}.{CHILD}": site.module for site in sites}


def _site(model: nn.Module, traced: Trace, block: Block, position: int) -> Site:
    """How the tokens of a block lie.

    Raises:
        InjectionError: It cannot do with some of its tokens.
    """
    module, kind = model.get_submodule(block.name), type(model.get_submodule(block.name)).__name__
    if "forward" in module.__dict__ or hasattr(module, CHILD):
        raise InjectionError(f"{block.name!r} ({kind}) has a forward of its own already.")
    site = candidate_sites(traced, block, position)[0]
    call = traced.calls[block.name][0]
    plain = site.layout == "NLC" and site.module == block.name and not site.holder and site.output_index is None
    if not plain or len(call.inputs) != 1 or call.inputs[0].shape != call.output.shape:
        raise InjectionError(
            f"tokens cannot skip {block.name!r} ({kind}): it must take (batch, tokens, channels) alone, and give as "
            "many."
        )
    if call.inputs[0].shape[0] != BATCH or not _free_of_places(module, site.dim):
        raise InjectionError(
            f"tokens cannot skip {block.name!r} ({kind}): what it gives a token depends on where that stands among the "
            "others, or it needs all of them."
        )
    return site


@torch.no_grad()
def _free_of_places(block: nn.Module, dim: int) -> bool:
    """Whether a block takes any number of tokens, in any order: tried out on a copy with random weights."""
    with torch.device("cpu"):
        probe = random_copy(block)
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(2, 5, dim, dtype=torch.float64, generator=generator)
        order = torch.tensor([3, 0, 4, 1, 2])
        try:
            probe(x[:, :3])
            straight, other = probe(x), probe(x[:, order])
        except Exception:  # whatever it takes besides, or instead
            return False
    return bool((straight[:, order] - other).abs().max() <= TOLERANCE * straight.abs().max())


def _before(blocks: list[Block], chosen: list[int], i: int) -> Block:
    """The block whose attention judges the tokens of the i-th: the one before, which all tokens pass."""
    if not 0 < i < len(blocks) or i - 1 in chosen:
        why = "there is none before it" if i - 1 not in chosen else f"tokens skip {blocks[i - 1].name!r} too"
        raise InjectionError(
            f"the tokens of a routed block are judged by the attention of the block before, which needs all of them: "
            f"of block {i} {why}. Use 'every2', other indices, or score='random'. There are {describe(blocks)}."
        )
    return blocks[i - 1]


def _scores(
    model: nn.Module, traced: Trace, before: Block, site: Site, config: TokenRoutingConfig
) -> tuple[str, AttentionScores]:
    """The attention that judges the tokens at ``site``, and their scores."""
    attention = find_attention(traced, before.name, site.module)
    prefix = site.prefix_tokens
    asked = config.score or "received_attention"
    if attention is None:
        raise ConfigError(
            f"score={asked!r} is not possible: {before.name!r} has no attention among the same tokens whose queries "
            "and keys can be read (as q_norm and k_norm of timm's). Allowed: 'random'."
        )
    score = resolve_score(asked, attention, prefix > 0 and has_class_token(model), site.module, model)
    made = attention_scores(score, prefix)
    made.detached = True
    return attention, made
