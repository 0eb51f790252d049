"""Upcycling timm's models at their real size: what the dense model computed is what the mixture computes."""

import copy

import pytest
import timm
import torch
from torch import nn

import moezoo
from moezoo.backbones.upcycle import measure_gap

MODELS = (
    "vit_small_patch16_224",
    "deit_tiny_patch16_224",
    "swin_tiny_patch4_window7_224",
    "eva02_tiny_patch14_224",
    "convnext_tiny",
    "mixer_s32_224",
)
GAP = 1e-5


@torch.no_grad()
def with_force(model, seed):
    """The model with weights that hide nothing: no zero head or bias, no layer scale near zero."""
    generator = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=generator)
        if p.dim() > 1 and not name.endswith(("pos_embed", "cls_token")):
            p.copy_(noise * p[0].numel() ** -0.5)
        else:
            scale = "gamma" in name or ("norm" in name and "weight" in name)
            p.copy_(float(scale) + 0.1 * noise)
    return model.eval()


def images(model):
    return torch.randn(1, *model.pretrained_cfg["input_size"], generator=torch.Generator().manual_seed(0))


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_a_real_model_is_preserved_and_loads_a_timm_state_dict(name):
    dense = with_force(timm.create_model(name), 0)
    x = images(dense)
    model = moezoo.upcycle(copy.deepcopy(dense), "last_half", num_experts=4, top_k=2)
    assert model.upcycle_report.preserved
    gap = measure_gap(model, dense, x)
    print(f"{name}: {len(model.upcycle_report.sites)} MLPs, gap {gap:.2e}")
    assert gap <= GAP

    other = with_force(timm.create_model(name), 1)
    assert measure_gap(model, other, x) > 1e-2  # the images tell the two apart
    model.load_state_dict(other.state_dict(), strict=True)
    assert measure_gap(model, other, x) <= GAP

    # The experts are in use: without what they give, the output is another.
    for site in model.upcycle_report.sites:
        nn.init.zeros_(model.get_submodule(site.name).moe.experts.w_out)
    assert measure_gap(model, other, x) > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_a_real_model_that_is_not_preserved_is_said_to_be_not(name):
    dense = with_force(timm.create_model(name), 0)
    model = moezoo.upcycle(copy.deepcopy(dense), "last_half", num_experts=4, top_k=1)
    assert not model.upcycle_report.preserved
    assert all("do not sum to one" in site.why for site in model.upcycle_report.sites)
    gap = measure_gap(model, dense, images(dense))
    print(f"{name}: gap {gap:.2e} with top_k=1")
    assert gap > 100 * GAP
