"""Parameters and executed FLOPs of the default models beside their plain backbones, as a Markdown table.

python benchmarks/sizes.py          # seconds; built on the meta device, nothing is allocated
"""

from __future__ import annotations

import torch
import typer

import moezoo
from moezoo.backbones.create import create_backbone
from moezoo.backbones.inject import adapters_of


def main() -> None:
    """Print the table: every preset at its default variant and its own image size."""
    print("| model | blocks | parameters | active per token | backbone | FLOPs per image | backbone | ratio |")
    print("|---" * 8 + "|")
    defaults = (name for name in moezoo.list_models() if moezoo.model_config(name) == moezoo.model_config(_bare(name)))
    for name in defaults:
        with torch.device("meta"):
            model = moezoo.create_model(name).eval()
            plain = create_backbone(model.moezoo_config).eval()
            images = torch.empty(1, *model.pretrained_cfg["input_size"])
        size, plain_size = moezoo.measure.parameters(model), moezoo.measure.parameters(plain)
        cost, plain_cost = (moezoo.measure.flops(m, images).executed for m in (model, plain))
        figures = [
            f"`{name}`",
            str(len(adapters_of(model))),
            *(f"{count / 1e6:.1f} M" for count in (size.total, size.active, plain_size.total)),
            *(f"{count / 1e9:.2f} G" for count in (cost, plain_cost)),
            f"{cost / plain_cost:.2f} x",
        ]
        print("| " + " | ".join(figures) + " |")


def _bare(name: str) -> str:
    return name.partition(".")[0]


if __name__ == "__main__":
    typer.run(main)
