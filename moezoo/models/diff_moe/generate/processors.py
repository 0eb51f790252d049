"""From a model's logits to what may come next: penalties and bans for every way of generating, shaping for sampling.

The rules themselves are transformers'. What is added: no row is ever left without a token.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.generation.logits_process import (
    MinLengthLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from moezoo.errors import ConfigError, InputError, NonFiniteError
from moezoo.models.diff_moe.generate.options import GenerationOptions


class NextTokens:
    """What may follow token ids, by ``options``, on a device.

    A ban takes tokens out and leaves the others' log-probabilities as they are, so that a search finds the most
    probable text among those allowed. Where bans leave no token at all, those of repeated n-grams are lifted for that
    row and step; where that leaves none either, the text may end before its ``min_length``.
    """

    def __init__(self, options: GenerationOptions, device: torch.device):
        self._special = options.pad_id, options.bos_id, options.eos_id
        self._penalty: list[Any] = []
        if options.repetition_penalty != 1:
            self._penalty = [RepetitionPenaltyLogitsProcessor(options.repetition_penalty)]
        never = sorted({options.pad_id, options.bos_id} - {options.eos_id})
        self._never: list[Any] = [SuppressTokensLogitsProcessor(never, str(device))] if never else []
        # It compares with the tokens there are, without the one to come.
        self._length = [MinLengthLogitsProcessor(max(options.min_length - 1, 0), options.eos_id, str(device))]
        self._ngram: list[Any] = []
        if options.no_repeat_ngram_size:
            self._ngram = [NoRepeatNGramLogitsProcessor(options.no_repeat_ngram_size)]
        self._shape: list[Any] = []
        if options.do_sample:
            self._shape = [
                TemperatureLogitsWarper(options.temperature),
                TopKLogitsWarper(options.top_k),
                TopPLogitsWarper(options.top_p),
            ]

    def __call__(self, ids: Tensor, logits: Tensor, live: Tensor) -> Tensor:
        """Log-probabilities (N, V) float32 of the tokens after ``ids`` (N, t); ``-inf`` for those not allowed.

        What it says of rows that are not ``live`` (N,) bool has no meaning.

        Raises:
            InputError: ``logits`` is not (N, V).
            ConfigError: A special token is not below V.
            NonFiniteError: A logit is NaN or infinitely large, or all tokens that may ever be generated have ``-inf``.
        """
        if logits.dim() != 2 or logits.shape[0] != ids.shape[0]:
            raise InputError(f"next_logits must return ({ids.shape[0]}, vocabulary), got {tuple(logits.shape)}.")
        if max(self._special) >= logits.shape[1]:
            pad, bos, eos = self._special
            raise ConfigError(
                f"pad_id={pad}, bos_id={bos}, eos_id={eos} are not allowed: they must be below the vocabulary's "
                f"size, {logits.shape[1]}."
            )
        logits = logits.float().masked_fill(~live[:, None], 0.0)
        if (logits.isnan() | logits.isposinf()).any():
            raise NonFiniteError(
                "the logits of the next token are NaN or infinite: the images or the model's weights are."
            )
        log_probs = _through(self._penalty, ids, logits).log_softmax(-1)
        allowed = ever = _through(self._never, ids, log_probs)
        for bans in (self._length, [*self._length, *self._ngram]):
            fewer = _through(bans, ids, ever)
            allowed = torch.where(fewer.isneginf().all(-1, keepdim=True), allowed, fewer)
        if not (allowed > -torch.inf).any(-1).all():  # the softmax of a row of -inf is NaN
            raise NonFiniteError("the model gives probability 0 to every token that may be generated.")
        return allowed

    def shape(self, ids: Tensor, log_probs: Tensor) -> Tensor:
        """``log_probs`` (N, V) as they are drawn from: temperature, the top k, the nucleus. Not normalised."""
        return _through(self._shape, ids, log_probs)


def _through(processors: list[Any], ids: Tensor, scores: Tensor) -> Tensor:
    for processor in processors:
        scores = processor(ids, scores)
    return scores
