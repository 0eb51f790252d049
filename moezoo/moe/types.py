"""The one wire between router, dispatcher, experts and losses.

Shape suffixes used all over ``moezoo.moe``:

    T  tokens of the call, batch and positions flattened
    D  model width              H  hidden width of an expert
    E  routed experts           M  shared experts
    K  experts chosen per token N  assignments (token, expert); N = T * K for plain top-k
    B  samples                  L  tokens per sample; T = B * L
    S  slots of an expert in each sample
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from moezoo.moe.checks import check_int
from moezoo.moe.ranks import Ranks
from moezoo.moe.tracing import has_values


class Slots(NamedTuple):
    """Experts that compute mixtures of tokens: S of each sample's for every expert."""

    dispatch: Tensor
    """(B, L, E, S) how much of each token is in a slot; a slot's sum to one over the tokens of its sample."""
    combine: Tensor
    """(B, L, E, S) how much of each slot's result a token gets; a token's sum to one over all slots."""


@dataclass(frozen=True)
class Routing:
    """Who computes what: N assignments of a token to an expert, with a weight.

    Assignments are token-major (t0k0, t0k1, t1k0, …). Every routing rule differs only in how it fills this in.
    """

    token_index: Tensor
    """(N,) int64: the token of each assignment."""
    expert_index: Tensor
    """(N,) int64: its expert."""
    weight: Tensor
    """(N,) the factor the expert's output is multiplied with; carries the router's gradient."""
    logits: Tensor
    """(T, E) the logits the choice was made by, noise included."""
    clean_logits: Tensor
    """(T, E) the logits before noise."""
    probs: Tensor
    """(T, E) how likely each expert is; a token's sum to one. The softmax of ``logits`` unless the router says
    otherwise."""
    dropped: Tensor
    """(N,) bool: assignments that are not computed: they found their expert full, or were never ``chosen``."""
    num_tokens: int
    num_experts: int
    chosen: Tensor | None = None
    """(N,) bool: False for a mere place, which keeps N fixed where the number of experts of a token varies. ``None``:
    all were chosen. What was not chosen was not lost either: drops are ``dropped & chosen``."""
    noise_std: Tensor | None = None
    """() or (T, E) standard deviation of the noise in ``logits``; ``None`` without noise."""
    penalty: Tensor | None = None
    """() what the router itself adds to the loss, its coefficient included; ``None`` for nothing."""
    samples: int = 1
    """The tokens belong to this many samples, T / samples each, the sample first."""
    token_type: Tensor | None = None
    """(T,) int64 kind of each token (its modality), where the caller gave one."""
    slots: Slots | None = None
    """What is computed instead of the assignments, where tokens are mixed; the assignments then tell how much of a
    token's result comes from each expert."""
    soft_choice: Tensor | None = None
    """(T, E) a smooth stand-in for the choice, a token's summing to how many experts it has: what losses that price the
    choice borrow their slope from. ``None``: they have the weights, or the forward ran without gradients."""
    everything: bool = False
    """Every token has every expert, in the order of the experts, and none is dropped: N = T * E, with nothing to sort
    and nothing to look up."""
    regular: Tensor | None = None
    """``token_index`` itself where it is known that every token has equally many assignments, one token after the
    other. Once another one is put in its place the two differ."""
    group_size: int | None = None
    """So many neighbouring tokens share the capacity of an expert and have a loss of their own; ``None``: all tokens.
    The last group may be smaller."""
    ranks: Ranks | None = None
    """The processes whose tokens the losses measure together with these; ``None`` for these alone."""

    @staticmethod
    def from_logits(
        logits_TE: Tensor, top_k: int, normalize: bool = True, *, clean_logits_TE: Tensor | None = None
    ) -> Routing:
        """Plain softmax top-k.

        Ties go to the expert with the lowest index, always. With ``normalize`` the K weights of a token sum to one,
        which equals a softmax over the chosen logits.

        Args:
            logits_TE: (T, E) router logits; computed on in float32 at least.
            top_k: Experts per token, 1 to E.
            normalize: Divide a token's weights by their sum.
            clean_logits_TE: The logits before noise, when ``logits_TE`` has some.

        Raises:
            ConfigError: ``top_k`` is not a whole number from 1 to E.
        """
        top_k = check_int("top_k", top_k, low=1, high=logits_TE.shape[1])
        logits_TE = logits_TE.to(torch.promote_types(logits_TE.dtype, torch.float32))
        probs_TE = logits_TE.softmax(dim=-1)
        # A stable sort, not topk, whose order among equals is unspecified; of logits, since probabilities underflow to
        # ties where logits differ.
        chosen_TK = logits_TE.detach().sort(dim=-1, descending=True, stable=True).indices[:, :top_k]
        weight_TK = probs_TE.gather(1, chosen_TK)
        if normalize:
            weight_TK = weight_TK / weight_TK.sum(dim=-1, keepdim=True)
        return Routing.from_choice(chosen_TK, weight_TK, logits_TE, clean_logits_TE=clean_logits_TE, probs_TE=probs_TE)

    @staticmethod
    def from_choice(
        expert_TK: Tensor,
        weight_TK: Tensor,
        logits_TE: Tensor,
        *,
        clean_logits_TE: Tensor | None = None,
        probs_TE: Tensor | None = None,
        chosen_TK: Tensor | None = None,
    ) -> Routing:
        """K experts for each token, decided by the caller.

        Args:
            expert_TK: (T, K) int64, a token's best first.
            weight_TK: (T, K) the factors of their outputs.
            logits_TE: (T, E) what the choice was made by.
            clean_logits_TE: The logits before noise; ``None`` means ``logits_TE``.
            probs_TE: ``None`` means the softmax of ``logits_TE``.
            chosen_TK: (T, K) bool where a token may have fewer than K experts; the other places are not computed.
        """
        num_tokens, top_k = expert_TK.shape
        token_TK = torch.arange(num_tokens, device=logits_TE.device)[:, None].expand(-1, top_k)
        token_N, expert_N = token_TK.reshape(-1), expert_TK.reshape(-1)
        chosen_N = None if chosen_TK is None else chosen_TK.reshape(-1)
        return Routing(
            token_index=token_N,
            expert_index=expert_N,
            weight=weight_TK.reshape(-1),
            logits=logits_TE,
            clean_logits=logits_TE if clean_logits_TE is None else clean_logits_TE,
            probs=logits_TE.softmax(dim=-1) if probs_TE is None else probs_TE,
            dropped=torch.zeros_like(expert_N, dtype=torch.bool) if chosen_N is None else ~chosen_N,
            num_tokens=num_tokens,
            num_experts=logits_TE.shape[1],
            chosen=chosen_N,
            regular=token_N,
        )

    @staticmethod
    def from_mask(
        chosen_TE: Tensor,
        weight_TE: Tensor,
        logits_TE: Tensor,
        order_TE: Tensor | None = None,
        *,
        probs_TE: Tensor | None = None,
    ) -> Routing:
        """As many experts per token as ``chosen_TE`` (bool) marks: N is T * E always, so that shapes stay fixed.

        A token's places go by falling ``order_TE`` (``None``: the logits), ties to the lowest index.
        """
        order_TE = logits_TE if order_TE is None else order_TE
        expert_TE = order_TE.detach().sort(dim=-1, descending=True, stable=True).indices
        return Routing.from_choice(
            expert_TE,
            weight_TE.gather(1, expert_TE),
            logits_TE,
            probs_TE=probs_TE,
            chosen_TK=chosen_TE.gather(1, expert_TE),
        )

    @staticmethod
    def of_all(weight_TE: Tensor, logits_TE: Tensor, probs_TE: Tensor | None = None) -> Routing:
        """Every expert for every token, in the order of the experts; ``probs_TE`` are by default the weights."""
        fields: dict[str, Any] = {
            "weight": weight_TE.reshape(-1),
            "logits": logits_TE,
            "clean_logits": logits_TE,
            "probs": weight_TE if probs_TE is None else probs_TE,
            "num_tokens": weight_TE.shape[0],
            "num_experts": weight_TE.shape[1],
            "everything": True,
        }
        if torch.compiler.is_compiling():  # which drops what nothing reads, and cannot make it later
            return Routing(**fields, **_written_down(weight_TE))
        return RoutingToAll(**fields)

    def replaced(self, **changes: Any) -> Routing:
        """The same with other values in some fields."""
        return dataclasses.replace(self, **changes)

    @property
    def places(self) -> int:
        """How many assignments every token has, one token after the other; 0 where that is not known."""
        if self.regular is not self.token_index or not self.num_tokens:
            return 0
        return self.token_index.shape[0] // self.num_tokens

    def weight_by_expert(self) -> Tensor:
        """(T, E) the weight of each expert for each token, 0 where it is not computed; carries the gradient."""
        if self.everything:
            return self.weight.view(self.num_tokens, self.num_experts)
        kept_N = torch.where(self.dropped, 0.0, self.weight)
        flat = kept_N.new_zeros(self.num_tokens * self.num_experts)
        place_N = self.token_index * self.num_experts + self.expert_index
        return flat.scatter_add(0, place_N, kept_N).view(self.num_tokens, self.num_experts)

    def counts(self, *, dropped: bool = False) -> Tensor:
        """(E,) float: assignments per expert; with ``dropped`` those that found it full are counted too.

        Assignments that were never ``chosen`` are in neither.
        """
        asked_for_N = torch.ones_like(self.dropped) if self.chosen is None else self.chosen
        ones_N = asked_for_N if dropped else ~self.dropped
        zeros_E = torch.zeros(self.num_experts, dtype=self.weight.dtype, device=self.weight.device)
        return zeros_E.scatter_add(0, self.expert_index, ones_N.to(self.weight.dtype))

    def expert_rows(self) -> list[int]:
        """Rows that each expert computes: its assignments that are not dropped, or its slots.

        Assignments without values (meta or fake tensors) count as if nothing was dropped and all experts got equally
        many: for experts of equal cost the upper bound.
        """
        E = self.num_experts
        if self.slots is not None:
            B, _, _, S = self.slots.dispatch.shape
            return [B * S] * E
        if self.everything:
            return [self.num_tokens] * E
        if not has_values(self.dropped):
            each, more = divmod(len(self.dropped), E)
            return [each + (e < more) for e in range(E)]
        return self.expert_index[~self.dropped].bincount(minlength=E).tolist()

    def num_dropped(self) -> Tensor:
        """() int64: chosen assignments that found their expert full."""
        return (self.dropped if self.chosen is None else self.dropped & self.chosen).sum()

    def groups(self) -> list[Routing]:
        """The routings of the groups, each by itself, of this process alone; of a routing without groups itself.

        What the router itself adds to the loss (``penalty``) stays with the whole.
        """
        if self.group_size is None:
            return [self]
        starts = range(0, self.num_tokens, self.group_size)
        return [self._part(start, min(start + self.group_size, self.num_tokens)) for start in starts]

    def _part(self, start: int, stop: int) -> Routing:
        """The tokens from ``start`` to ``stop``, where all tokens, or at least all groups, have equally many places."""
        T, size = self.num_tokens, stop - start
        begin, end = (len(self.token_index) * place // T for place in (start, stop))
        by_place: dict[str, Any] = {
            name: None if (value := getattr(self, name)) is None else value[begin:end]
            for name in ("expert_index", "weight", "dropped", "chosen")
        }
        by_token: dict[str, Any] = {
            name: None if (value := getattr(self, name)) is None else value[start:stop]
            for name in ("logits", "clean_logits", "probs", "token_type", "soft_choice")
        }
        of_sample = T // self.samples
        slots, std = self.slots, self.noise_std
        if slots is not None:
            pool = slots.dispatch.shape[1]
            slots = Slots(*(share[start // pool : stop // pool] for share in slots))
        return dataclasses.replace(
            self,
            **by_place,
            **by_token,
            token_index=self.token_index[begin:end] - start,
            num_tokens=size,
            noise_std=std[start:stop] if std is not None and std.dim() and len(std) == T else std,
            penalty=None,
            samples=1 if size % of_sample else size // of_sample,
            slots=slots,
            group_size=None,
            ranks=None,
        )

    def detach(self) -> Routing:
        """The same routing without its autograd graph, and of these tokens alone."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        tensors: dict[str, Any] = {name: v.detach() for name, v in values.items() if isinstance(v, Tensor)}
        slots = None if self.slots is None else Slots(*(share.detach() for share in self.slots))
        return dataclasses.replace(self, **tensors, slots=slots, ranks=None)


class RoutingToAll(Routing):
    """Every expert for every token; which assignment is whose is only written down when somebody asks."""

    def __init__(self, **fields: Any):
        self.__dict__.update(fields)

    @cached_property
    def _indices(self) -> dict[str, Tensor]:
        return _written_down(self.weight_by_expert())

    @cached_property
    def token_index(self) -> Tensor:
        return self._indices["token_index"]

    @cached_property
    def expert_index(self) -> Tensor:
        return self._indices["expert_index"]

    @cached_property
    def dropped(self) -> Tensor:
        return self._indices["dropped"]

    def replaced(self, **changes: Any) -> Routing:
        return RoutingToAll(**{**self.__dict__, **changes})


def _written_down(weight_TE: Tensor) -> dict[str, Any]:
    """The assignments of every expert to every token."""
    index_N = torch.arange(weight_TE.numel(), device=weight_TE.device)
    return {
        "token_index": index_N // weight_TE.shape[1],
        "expert_index": index_N % weight_TE.shape[1],
        "dropped": torch.zeros_like(index_N, dtype=torch.bool),
    }
