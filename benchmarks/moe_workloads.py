"""What the MoE layer benchmark computes: shapes by name, weights and tokens that all share, and the truth.

A workload's name is ``<shape>_e<experts>k<experts per token>`` with ``_skew`` for uneven loads, as ``vits_e8k2_skew``.
A number behind the shape is of images: ``vitb256_e8k2``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from types import SimpleNamespace
from typing import Any

import torch
import typer
from torch import Tensor
from torch.nn import functional as F

SHAPES = {
    "vits": SimpleNamespace(images=8, tokens=197, dim=384, hidden=1536),
    "vitb": SimpleNamespace(images=8, tokens=197, dim=768, hidden=3072),
    "vitl": SimpleNamespace(images=8, tokens=197, dim=1024, hidden=4096),
    "small": SimpleNamespace(images=1, tokens=197, dim=384, hidden=1536),
    "diffmoe": SimpleNamespace(images=12, tokens=256, dim=512, hidden=2048),
    "tiny": SimpleNamespace(images=2, tokens=12, dim=16, hidden=32),
}
"""ViT-S, -B and -L at batch 8, ViT-S at batch 1, a diffusion transformer of 256 tokens, and one to try the script."""
DEFAULT = (
    "vits_e8k2,vits_e8k2_skew,vits_e8k1,vitb_e8k1,vitb_e8k2,small_e8k2,small_e8k1_skew,vits_e32k2,vits_e64k2,"
    "vits_e64k2_skew,diffmoe_e4k2"
)
SKEW = {(8, 2): 3.5, (8, 1): 4.75, (32, 2): 6.0, (64, 2): 7.65}
"""Load of the fullest expert over the mean, by (experts, experts per token)."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
AUTOCAST = "autocast"
"""The name of float32 weights and tokens whose products autocast makes in bfloat16."""
UNDECIDED = 1e-4
"""Two experts whose logits are closer than this may change places with the rounding of the router's product."""
NAME = re.compile(r"(?P<shape>[a-z]+)(?P<images>[1-9]\d*)?_e(?P<experts>\d+)k(?P<top_k>\d+)(?P<skew>_skew)?")


def split_names(text: str, allowed: Iterable[str], option: str) -> list[str]:
    """The comma-separated names in ``text``.

    Raises:
        typer.BadParameter: One is not among ``allowed``.
    """
    names, options = [name.strip() for name in text.split(",")], list(allowed)
    for name in names:
        if name not in options:
            raise typer.BadParameter(f"{name!r} is not one of {', '.join(options)}", param_hint=option)
    return names


class NotRun(Exception):
    """Why an implementation does not run a workload: the text of its row."""


@dataclass(frozen=True)
class Workload:
    """T tokens of width D through K of E experts of hidden width H."""

    name: str
    images: int
    tokens_per_image: int
    dim: int
    hidden: int
    num_experts: int
    top_k: int
    skew: float | None
    """Load of the fullest expert over the mean; ``None`` leaves it to random weights, which is nearly even."""

    @property
    def tokens(self) -> int:
        return self.images * self.tokens_per_image

    @property
    def rows(self) -> int:
        """Rows that go through an expert: the dense floor has as many."""
        return self.tokens * self.top_k


def parse_workload(name: str) -> Workload:
    """The workload of that name.

    Raises:
        ValueError: It is not of the form that the module's docstring states.
    """
    found = NAME.fullmatch(name.strip())
    if not found or found["shape"] not in SHAPES or not 1 <= int(found["top_k"]) <= int(found["experts"]):
        raise ValueError(f"{name!r} is not <shape>_e<E>k<K>[_skew] with a shape of {', '.join(SHAPES)} and K <= E")
    shape, E, K = SHAPES[found["shape"]], int(found["experts"]), int(found["top_k"])
    skew = SKEW.get((E, K), min(0.6 * E / K, 6.0)) if found["skew"] else None
    images = int(found["images"] or shape.images)
    return Workload(name.strip(), images, shape.tokens, shape.dim, shape.hidden, E, K, skew)


def route(x_TD: Tensor, router_ED: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """(T, K) weights and experts of softmax top-k in float32 at least; with K > 1 a token's weights sum to one."""
    dtype = torch.promote_types(x_TD.dtype, torch.float32)
    with torch.autocast(x_TD.device.type, enabled=False):
        weight_TK, expert_TK = F.linear(x_TD.to(dtype), router_ED.to(dtype)).softmax(-1).topk(top_k, dim=-1)
    return (weight_TK / weight_TK.sum(-1, keepdim=True) if top_k > 1 else weight_TK), expert_TK


class Problem:
    """Tokens and weights of one workload in one type. Implementations hold views of these, not copies.

    Args:
        workload: What is computed.
        dtype: A type, or its name, or ``AUTOCAST``.
        device: Where.
        seed: Of weights and tokens; other devices give other ones.
    """

    def __init__(self, workload: Workload, dtype: torch.dtype | str, device: torch.device | str = "cpu", seed: int = 0):
        self.workload = workload
        self.kind = dtype if isinstance(dtype, str) else str(dtype).removeprefix("torch.")
        dtype = DTYPES["float32" if self.kind == AUTOCAST else self.kind]
        generator = torch.Generator(device).manual_seed(seed)
        E, D, H = workload.num_experts, workload.dim, workload.hidden

        def normal(*shape: int, std: float = 1.0) -> Tensor:
            return torch.randn(*shape, generator=generator, device=device) * std

        x_TD, router_ED = normal(workload.tokens, D), normal(E, D, std=D**-0.5)
        # A feature that is the same in all tokens makes its column of the router a bias.
        x_TD[:, 0], router_ED[:, 0] = 1.0, 0.0
        if workload.skew is not None:
            router_ED[:, 0] = _bias_for(x_TD, router_ED, workload.top_k, workload.skew)

        def made(tensor: Tensor) -> Tensor:
            return tensor.to(device, dtype)

        self.x, self.router = made(x_TD), made(router_ED)
        self.w_in, self.b_in = made(normal(E, H, D, std=D**-0.5)), made(normal(E, H, std=0.1))
        self.w_out, self.b_out = made(normal(E, D, H, std=H**-0.5)), made(normal(E, D, std=0.1))
        self.grad = made(normal(workload.tokens, D))
        """What the output's gradient is: the loss is the sum of the output times this."""

    def precision(self) -> AbstractContextManager[Any]:
        """What the forward passes of this problem run under."""
        return torch.autocast(self.x.device.type, torch.bfloat16) if self.kind == AUTOCAST else nullcontext()

    @property
    def images(self) -> Tensor:
        """(B, tokens of an image, D): the same tokens for libraries that group by image."""
        return self.x.view(self.workload.images, self.workload.tokens_per_image, self.workload.dim)

    def ffns(self) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Of each expert ``w_in, b_in, w_out, b_out``."""
        return list(zip(self.w_in, self.b_in, self.w_out, self.b_out, strict=True))

    @cached_property
    def w_in_t(self) -> Tensor:
        """(E, D, H) copy for libraries of that layout."""
        return self.w_in.transpose(1, 2).contiguous()

    @cached_property
    def w_out_t(self) -> Tensor:
        """(E, H, D) copy for libraries of that layout."""
        return self.w_out.transpose(1, 2).contiguous()

    @cached_property
    def load(self) -> float:
        """Load of the fullest expert over the mean."""
        return _load(self.x, self.router, self.workload.top_k)

    @cached_property
    def truth(self) -> tuple[Tensor, Tensor]:
        """Float64: (T, D) the layer's output and (T, K, D) each chosen expert's part of it."""
        x, router, w_in, b_in, w_out, b_out = (
            t.detach().double() for t in (self.x, self.router, self.w_in, self.b_in, self.w_out, self.b_out)
        )
        weight_TK, expert_TK = route(x, router, self.workload.top_k)
        part_TKD = x.new_zeros(*expert_TK.shape, x.shape[1])
        for e in range(self.workload.num_experts):
            token, place = torch.where(expert_TK == e)
            y = F.linear(F.gelu(F.linear(x[token], w_in[e], b_in[e])), w_out[e], b_out[e])
            part_TKD[token, place] = y * weight_TK[token, place, None]
        return part_TKD.sum(1), part_TKD

    @cached_property
    def decided(self) -> Tensor:
        """(T,) whether it is clear to rounding which experts a token gets; the others are not judged."""
        logits_TE = F.linear(self.x.double(), self.router.double())
        K = self.workload.top_k
        if logits_TE.shape[1] == K:
            return torch.ones_like(logits_TE[:, 0], dtype=torch.bool)
        best_TK = logits_TE.topk(K + 1).values
        return best_TK[:, K - 1] - best_TK[:, K] > UNDECIDED

    def relative_error(self, out_TD: Tensor) -> float:
        """The largest deviation of ``out_TD`` from the truth over the truth's largest entry."""
        truth_TD, _ = self.truth
        wrong_TD = (out_TD.detach().double() - truth_TD)[self.decided]
        return (wrong_TD.abs().max() / truth_TD.abs().max()).item()

    def dropped_share(self, out_TD: Tensor) -> float:
        """Share of the assignments that ``out_TD`` lacks.

        Fitted by least squares, token by token, as a weighted sum of the parts, so that other weights of the same
        experts do not count as drops; what has less than a twentieth of its weight is missing.
        """
        part_TKD = self.truth[1][self.decided]
        gram_TKK = part_TKD @ part_TKD.transpose(1, 2)
        target_TK = part_TKD @ out_TD.detach().double()[self.decided].unsqueeze(-1)
        share_TK, _ = torch.linalg.solve_ex(gram_TKK, target_TK)
        return (share_TK.abs() < 0.05).double().mean().item()


def _load(x_TD: Tensor, router_ED: Tensor, top_k: int) -> float:
    counts_E = route(x_TD, router_ED, top_k)[1].flatten().bincount(minlength=len(router_ED)).float()
    return (counts_E.max() / counts_E.mean()).item()


def _bias_for(x_TD: Tensor, router_ED: Tensor, top_k: int, load: float) -> Tensor:
    """(E,) logits falling with the expert's number, as steep as ``load`` needs: found by halving.

    Not to the last digit: the load jumps where a token is undecided between two experts, and the search ends there.
    """
    falling_E = -torch.arange(1.0, len(router_ED) + 1).log()
    low, high = 0.0, 8.0
    for _ in range(8):
        steep = (low + high) / 2
        trial_ED = router_ED.clone()
        trial_ED[:, 0] = steep * falling_E
        low, high = (steep, high) if _load(x_TD, trial_ED, top_k) < load else (low, steep)
    return (low + high) / 2 * falling_E
