"""Capacities, priorities, picks and losses against the JAX implementation's own functions, ties included."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from vmoe_numbers import arrays, described

from moezoo.errors import ConfigError, InputError
from moezoo.moe import FixedCapacity, RoundedCapacity, Routing
from moezoo.moe.dispatch.capacity import apply_capacity
from moezoo.moe.losses import importance_loss, load_balancing_loss, load_loss
from moezoo.moe.metrics import expert_choice_metrics, soft_metrics
from moezoo.moe.routers.expert_choice import best_tokens

UNITS, NUMBERS = described("router_units"), arrays("router_units")
G, S, E = UNITS["G"], UNITS["S"], UNITS["E"]
CASES = {case["case"]: case for case in UNITS["cases"]}


def rule_of(case: str) -> tuple[float, RoundedCapacity]:
    """``…/cf0.8_ceil4``."""
    factor, rounding = case.rsplit("/cf", 1)[1].split("_")
    return float(factor), RoundedCapacity(rounding.rstrip("0123456789"), int(rounding.lstrip("ceilround")))


def mixed(weight_TE: torch.Tensor) -> torch.Tensor:
    """Expert e multiplies by e + 1 and adds a half."""
    tokens_TD = NUMBERS["tokens"].reshape(G * S, -1)
    experts = torch.arange(1, E + 1)
    return (weight_TE[:, :, None] * (tokens_TD[:, None] * experts[:, None] + 0.5)).sum(1).view(G, S, -1)


def test_capacities_are_theirs_for_every_row():
    assert len(UNITS["capacity_table"]) == 720
    for tokens, experts, factor, rounding, multiple_of, capacity in UNITS["capacity_table"]:
        rule = RoundedCapacity(rounding, multiple_of)
        if capacity is None:
            with pytest.raises(ConfigError, match="must be at least 1"):
                rule(tokens, 1, experts, factor)
        else:
            assert rule(tokens, 1, experts, factor) == capacity, (tokens, experts, factor, rounding, multiple_of)


@pytest.mark.parametrize("case", [name for name in CASES if name.startswith("topk/")])
def test_who_is_served_is_theirs(case):
    _, gates, top_k, priority, _ = case.split("/")
    top_k, factor, rule = int(top_k[1:]), *rule_of(case)
    gates_TE = NUMBERS[gates].reshape(G * S, E)
    chosen_TK = gates_TE.sort(dim=-1, descending=True, stable=True).indices[:, :top_k]
    routing = Routing.from_choice(chosen_TK, gates_TE.gather(1, chosen_TK), gates_TE.log(), probs_TE=gates_TE)
    limited = apply_capacity(
        routing, factor, rule=rule, priority="score" if priority == "bpr1" else "choice", group_size=S
    )
    capacity = rule(S, top_k, E, factor)
    assert capacity == CASES[case]["capacity"]
    assert limited.num_dropped() == CASES[case]["dropped"]
    assert torch.equal(chosen_TK.view(G, S, top_k), NUMBERS[f"{case}/expert_index"].long())
    assert torch.equal(~limited.dropped.view(G, S, top_k), NUMBERS[f"{case}/buffer_index"] < capacity)
    assert torch.equal(limited.weight_by_expert().view(G, S, E), NUMBERS[f"{case}/combine_GSE"])
    torch.testing.assert_close(mixed(limited.weight_by_expert()), NUMBERS[f"{case}/out"])


@pytest.mark.parametrize("case", [name for name in CASES if name.startswith("ec/")])
def test_what_experts_pick_is_theirs(case):
    gates_GSE = NUMBERS[case.split("/")[1]]
    factor, rule = rule_of(case)
    picked_GCE = best_tokens(gates_GSE, rule(S, 1, E, factor))
    assert torch.equal(picked_GCE.transpose(1, 2), NUMBERS[f"{case}/top_items_index"].long())
    chosen_TE = torch.zeros(G, S, E).scatter(1, picked_GCE, 1.0).bool().view(G * S, E)
    gates_TE = gates_GSE.reshape(G * S, E)
    routing = dataclasses.replace(Routing.from_mask(chosen_TE, gates_TE, gates_TE, probs_TE=gates_TE), group_size=S)
    assert torch.equal(routing.weight_by_expert().view(G, S, E), NUMBERS[f"{case}/combine_GSE"])
    torch.testing.assert_close(mixed(routing.weight_by_expert()), NUMBERS[f"{case}/out"])
    ours = expert_choice_metrics(routing)
    theirs = {k.removeprefix(f"{case}/metrics/"): v for k, v in NUMBERS.items() if k.startswith(f"{case}/metrics/")}
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name].to(value.dtype), value)


def test_metrics_of_the_wrong_routing_are_refused():
    with pytest.raises(InputError, match="expert_choice_metrics takes a routing of some tokens"):
        expert_choice_metrics(Routing.from_logits(torch.zeros(0, E), 1))
    with pytest.raises(InputError, match="soft_metrics takes a routing by slots"):
        soft_metrics(Routing.from_logits(torch.zeros(2, E), 1))


def routed(top_k: int, sigma: float) -> tuple[torch.Tensor, Routing]:
    """The clean logits, to be differentiated by, and the routing by noisy ones."""
    clean_TE = NUMBERS["logits"].reshape(G * S, E).clone().requires_grad_()
    noise_TE = NUMBERS["loss/noise_std_normal"].reshape(G * S, E)
    std = torch.tensor(sigma / E)
    routing = Routing.from_logits(clean_TE + noise_TE * std, top_k, False, clean_logits_TE=clean_TE)
    return clean_TE, dataclasses.replace(routing, noise_std=std, group_size=S)


@pytest.mark.parametrize("sigma", [1.0, 0.3])
@pytest.mark.parametrize("top_k", [1, 2])
def test_losses_and_their_slopes_are_theirs(top_k, sigma):
    clean_TE, routing = routed(top_k, sigma)
    losses = {
        f"std{sigma}/K{top_k}/load": (load_loss(routing), f"std{sigma}/K{top_k}/load_grad_logits"),
        "importance_clean": (importance_loss(routing), "importance_grad_logits"),
        f"std{sigma}/gshard_noisy": (load_balancing_loss(routing, first_choice=True), None),
    }
    for name, (loss, slope) in losses.items():
        torch.testing.assert_close(loss.detach(), NUMBERS[f"loss/{name}"].mean(), rtol=0, atol=1e-6)
        if slope is not None:
            (grad,) = torch.autograd.grad(loss, clean_TE, retain_graph=True)
            torch.testing.assert_close(grad.view(G, S, E), NUMBERS[f"loss/{slope}"], rtol=1e-5, atol=1e-6)
    quiet = dataclasses.replace(Routing.from_logits(clean_TE, top_k), group_size=S)
    torch.testing.assert_close(
        load_balancing_loss(quiet, first_choice=True).detach(), NUMBERS["loss/gshard_clean"].mean(), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: RoundedCapacity("celi"), "rounding='celi' is not allowed.*Did you mean: ceil"),
        (lambda: RoundedCapacity(multiple_of=-1), "multiple_of=-1 is not allowed"),
        (lambda: RoundedCapacity(multiple_of=True), "multiple_of=True is not allowed"),
        (lambda: FixedCapacity(0), "capacity=0 is not allowed"),
        (lambda: RoundedCapacity("round")(2, 1, 8, 1.0), "capacity_factor=1.0 is too small: 2 tokens.*capacity of 0"),
    ],
)
def test_a_wrong_rule_is_refused(make, words):
    with pytest.raises(ConfigError, match=words):
        make()
