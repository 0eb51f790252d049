"""MoE layers against the JAX implementation of V-MoE, expert choice and Soft MoE: its parameters, inputs and noise."""

from __future__ import annotations

import pytest
import torch
from vmoe_numbers import BLOCKS, FOLDER, arrays, described, layer_of

from moezoo.moe import record_routing
from moezoo.moe.losses import importance_loss, load_balancing_loss, load_loss
from moezoo.moe.metrics import expert_choice_metrics, soft_metrics

NAMES = sorted(path.stem for path in FOLDER.glob("*.json") if path.stem != "router_units")


def run(name, block, monkeypatch):
    """The layer, its output and its routing for the tokens that reached this block."""
    values = arrays(name)
    layer = layer_of(name, block)
    if layer.training:
        noise = values[f"noise/{block}"]
        monkeypatch.setattr(torch, "randn_like", lambda logits: noise.reshape(logits.shape))
    with record_routing(layer) as records:
        y = layer(values[f"inter/Encoder/{block}/LayerNorm_1"])
    return layer, y, records[0].routing


@pytest.fixture(params=[(name, block) for name in NAMES for block in BLOCKS], ids=lambda case: "-".join(case))
def case(request, monkeypatch):
    name, block = request.param
    values = arrays(name)
    kind = {"SoftRouter": "soft", "NoisyTopItemsPerExpertRouter": "ec"}.get(
        described(name)["config"]["encoder"]["moe"]["router"].get("name", "").rsplit(".", 1)[-1], "topk"
    )
    route, metrics = (
        {key.rsplit("/", 1)[1]: value for key, value in values.items() if key.startswith(f"{part}/{block}/")}
        for part in ("route", "metrics")
    )
    return kind, values[f"inter/Encoder/{block}/Moe"], route, metrics, *run(name, block, monkeypatch)


def test_outputs_decisions_losses_and_metrics_are_theirs(case):
    kind, expected, route, metrics, layer, y, routing = case
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-5)
    if kind == "soft":
        torch.testing.assert_close(routing.slots.dispatch, route["dispatch_weights"], rtol=0, atol=1e-6)
        torch.testing.assert_close(routing.slots.combine, route["combine_weights"], rtol=0, atol=1e-6)
        ours = soft_metrics(routing, layer.router.phi)
        metrics.pop("auxiliary_loss")
        assert ours.keys() == metrics.keys()
        for name, value in metrics.items():
            torch.testing.assert_close(ours[name], value, rtol=1e-5, atol=1e-6)
        return
    torch.testing.assert_close(routing.probs.view_as(route["gates"]), route["gates"], rtol=0, atol=1e-6)
    torch.testing.assert_close(
        routing.clean_logits.view_as(route["gate_logits_clean"]), route["gate_logits_clean"], rtol=0, atol=1e-5
    )
    torch.testing.assert_close(
        routing.weight_by_expert().view_as(route["combine_GSE"]), route["combine_GSE"], rtol=0, atol=1e-6
    )
    kept = torch.zeros(routing.num_tokens, routing.num_experts, dtype=torch.bool)
    kept[routing.token_index[~routing.dropped], routing.expert_index[~routing.dropped]] = True
    assert torch.equal(kept.view_as(route["combine_GSE"]), route["dispatch_GSEC"].bool().any(-1))
    if kind == "ec":
        ours = expert_choice_metrics(routing)
        metrics.pop("auxiliary_loss", None)
        assert ours.keys() == metrics.keys()
        for name, value in metrics.items():
            torch.testing.assert_close(ours[name].to(value.dtype), value, rtol=1e-6, atol=1e-6)
        return
    assert torch.equal(routing.expert_index.view_as(route["expert_index"]), route["expert_index"].long())
    assert torch.equal(~routing.dropped.view_as(route["kept"]), route["kept"])
    losses = {
        "importance_loss": importance_loss(routing),
        "gshard_loss": load_balancing_loss(routing, first_choice=True),
    }
    if layer.training:
        losses["load_loss"] = load_loss(routing)
        torch.testing.assert_close(
            sum(layer.aux.weight(k.removesuffix("_loss")) * losses[k] for k in ("importance_loss", "load_loss")),
            metrics["auxiliary_loss"].mean(),
            rtol=0,
            atol=1e-6,
        )
    assert losses.keys() == metrics.keys() - {"auxiliary_loss"}
    for name, loss in losses.items():
        torch.testing.assert_close(loss, metrics[name].mean(), rtol=0, atol=1e-6)
