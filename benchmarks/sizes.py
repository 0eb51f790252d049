"""Parameters and executed FLOPs of the default models beside their plain backbones, or beside their dense twins where
there is no backbone; of models with a dial, at both of its ends and at their target. One result per family.

    python benchmarks/sizes.py          # a minute; but for models with a dial nothing is allocated
"""

from __future__ import annotations

from typing import Any

import torch
import typer
from card_tables.sizes import sizes_table
from cards import store

import moezoo
from moezoo.backbones.create import create_backbone
from moezoo.backbones.inject import adapters_of
from moezoo.backbones.inputs import example_shape
from moezoo.moe import MoELayer


def main() -> None:
    """Measure every preset at its default variant and its own image size."""
    families: dict[str, list[dict[str, Any]]] = {}
    for name in defaults():
        families.setdefault(name.partition("/")[0], []).append(measure(name))
    for family, rows in families.items():
        path = store(f"sizes_{family}", "sizes", command="python benchmarks/sizes.py", rows=rows)
        print(f"{sizes_table({'rows': rows})}\n\nwritten: {path}; python benchmarks/cards.py fills the documents")


def defaults() -> list[str]:
    """Every registered preset under the full name of its default variant."""
    return [name for name in moezoo.list_models() if moezoo.model_config(name) == moezoo.model_config(_bare(name))]


def measure(name: str) -> dict[str, Any]:
    """Counts of one model and of its backbone, or of its dense twin where it has no backbone."""
    if hasattr(moezoo.model_config(name), "modalities"):
        return of_sightings(name)
    if hasattr(moezoo.model_config(name), "budget_target"):
        return on_the_dial(name)
    if _has_own_bodies(name.partition("/")[0]):
        return beside_twin(name)
    with torch.device("meta"):
        model = moezoo.create_model(name).eval()
        plain = create_backbone(model.moezoo_config).eval()
        images = torch.empty(1, *model.pretrained_cfg["input_size"])
    size, plain_size = moezoo.measure.parameters(model), moezoo.measure.parameters(plain)
    cost, plain_cost = (moezoo.measure.flops(m, images).executed for m in (model, plain))
    return {
        "model": name,
        "blocks": len(adapters_of(model)) or sum(isinstance(module, MoELayer) for module in model.modules()),
        "parameters": size.total,
        "active": size.active,
        "backbone_parameters": plain_size.total,
        "flops": cost,
        "backbone_flops": plain_cost,
    }


def beside_twin(name: str) -> dict[str, Any]:
    """Counts of one model and of its dense twin; where it reads text too, also with a sentence."""
    with torch.device("meta"):
        models = [moezoo.create_model(name, dense=dense).eval() for dense in (False, True)]
        config: Any = models[0].moezoo_config
        images = torch.empty(1, *models[0].pretrained_cfg["input_size"])
    sizes = [moezoo.measure.parameters(model) for model in models]
    alone = [moezoo.measure.flops(model, images).executed for model in models]
    row = {
        "model": name,
        "layers": sum(isinstance(module, MoELayer) for module in models[0].modules()),
        "parameters": sizes[0].total,
        "active": sizes[0].active,
        "twin_parameters": sizes[1].total,
        "flops": alone[0],
        "twin_flops": alone[1],
    }
    if not hasattr(config, "max_text_len"):
        return row
    with torch.device("meta"):
        text = torch.empty(1, config.max_text_len, dtype=torch.int64)
    told = [moezoo.measure.flops(model, (images, text)).executed for model in models]
    return {**row, "text_flops": told[0], "twin_text_flops": told[1]}


def of_sightings(name: str) -> dict[str, Any]:
    """Counts of one model for re-identification, of its parts, and of its dense twin; FLOPs are those of a sighting."""
    with torch.device("meta"):
        models = [moezoo.create_model(name, dense=dense).eval() for dense in (False, True)]
        images = torch.empty(1, *example_shape(models[0]))
    parts = {
        part: sum(p.numel() for p in getattr(models[0], part).parameters())
        for part in ("backbone", "windows", "fusion", "classifiers")
    }
    cost, twin_cost = (moezoo.measure.flops(model, images) for model in models)
    return {
        "model": name,
        "modalities": len(models[0].modalities),
        "parameters": moezoo.measure.parameters(models[0]).total,
        **{f"{part}_parameters": number for part, number in parts.items()},
        "flops": cost.executed,
        "backbone_flops": sum(
            count for path, count in cost.by_module.items() if path.startswith("backbone.") and path.count(".") == 1
        ),
        "twin_flops": twin_cost.executed,
    }


def on_the_dial(name: str) -> dict[str, Any]:
    """Counts of one model whose big experts get as much of an image as its dial says, and of what has no small ones."""
    config: Any = moezoo.model_config(name)
    model = moezoo.create_model(name).eval()
    images = torch.zeros(1, *model.pretrained_cfg["input_size"])
    layers = [module for module in model.modules() if isinstance(module, MoELayer)]
    if getattr(config, "model_name", None):
        plain = create_backbone(config).eval()
    else:
        plain = moezoo.create_model(f"{name}.full_compute").eval()
    row = {
        "model": name,
        "layers": len(layers),
        "parameters": moezoo.measure.parameters(model).total,
        "plain_parameters": moezoo.measure.parameters(plain).total,
        "target": config.budget_target,
    }
    for key, budget in (("flops_at_0", 0.0), ("flops", config.budget_target), ("flops_at_1", 1.0)):
        moezoo.set_budget(model, budget)
        row[key] = moezoo.measure.flops(model, images).executed
    return {**row, "plain_flops": moezoo.measure.flops(plain, images).executed}


def _has_own_bodies(family: str) -> bool:
    """Whether some of a family's models stand on no backbone of somebody else: then all are shown beside twins."""
    return any(not getattr(moezoo.model_config(name), "model_name", None) for name in moezoo.list_models(family=family))


def _bare(name: str) -> str:
    return name.partition(".")[0]


if __name__ == "__main__":
    typer.run(main)
