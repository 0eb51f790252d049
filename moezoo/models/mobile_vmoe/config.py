"""Configuration of Mobile V-MoE. No torch here."""

from __future__ import annotations

from dataclasses import dataclass

from moezoo.config import STRICT, option
from moezoo.models.upcycled.config import Count, Place, TopKUpcycledConfig, Weight


@dataclass(frozen=True)
class MobileVMoEConfig(TopKUpcycledConfig):
    """A small timm ViT whose last MLPs are experts, chosen once for an image and layer: few experts need loading.

    The paper's router is taught the images' super-classes (:class:`~moezoo.models.mobile_vmoe.SuperClassLoss`); where
    there are none, the load balancing loss keeps experts in use.
    """

    __pydantic_config__ = STRICT

    model_name: str = option("vit_tiny_patch16_224", "timm architecture of the backbone", alias="backbone")
    moe_layers: int | str | tuple[Place, ...] = option(
        (-2, -1),
        "whose MLPs become experts: last<n> (the last n of every second block), every<n>, all, last, last_half, or a "
        "list of indices and patterns",
        alias=("inject_layers", "where"),
    )
    num_experts: Count = option(10, "experts of an MoE layer")
    top_k: Count = option(1, "experts an image uses", alias=("num_selected_experts", "k"))
    router: str = option("per_image", "registered router")
    importance_weight: Weight = option(0.0, "weight of the importance loss")
    load_weight: Weight = option(0.0, "weight of the load loss, where the router draws noise")
    load_balance_weight: Weight = option(
        0.01, "weight of the load balancing loss; 0 with super-classes", alias="load_balancing_weight"
    )
