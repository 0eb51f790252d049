"""Peak memory of one training step of SAM at 1024 x 1024, batch 1, float32, on CPU.

    python benchmarks/sam_memory.py                 # about ten minutes on two cores, up to 16 GB
    python benchmarks/sam_memory.py --size large

Each case runs forward and backward in a process of its own; memory is the most the process ever held (its weights,
gradients and about 0.5 GB of libraries included). The plain backbone is transformers' SAM as it comes.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from typing import Annotated, Any

import typer
from cards import store

CASES: dict[str, dict[str, Any]] = {
    "transformers' SAM, nothing recomputed": {"plain": True},
    "EntityMoE (default: windows, global layers recomputed)": {},
    "its dense twin": {"dense": True},
    "every layer recomputed (`set_grad_checkpointing(True)`)": {"recompute": True},
    "nothing recomputed (`set_grad_checkpointing(False)`)": {"recompute": False},
    'every token an object (`entities="tokens"`)': {"entities": "tokens"},
}


def main(
    size: Annotated[str, typer.Option(help="base, large or huge")] = "base",
    case: Annotated[str | None, typer.Option(help="run this one case here and print its figures as JSON")] = None,
) -> None:
    """Measure every case and store the result."""
    if case is not None:
        print(json.dumps(step(size, **CASES[case])))
        return
    rows = []
    for name in CASES:
        command = [sys.executable, __file__, "--size", size, "--case", name]
        done = subprocess.run(command, capture_output=True, text=True)
        failed = {"failed": f"failed ({done.returncode})"}
        rows.append({"case": name, **(failed if done.returncode else json.loads(done.stdout.splitlines()[-1]))})
        print(rows[-1], flush=True)
    command_line = "python benchmarks/sam_memory.py" + ("" if size == "base" else f" --size {size}")
    title = f"SAM {size}, one step at 1024 x 1024"
    result = "sam_memory" if size == "base" else f"sam_memory_{size}"
    path = store(result, "memory", command=command_line, title=title, rows=rows)
    print(f"written: {path}; python benchmarks/cards.py fills the documents")


def step(size: str, *, plain: bool = False, recompute: bool | None = None, **overrides: Any) -> dict[str, float]:
    """One forward and backward of one model in this process."""
    import torch

    import moezoo
    from moezoo.backbones.create import create_backbone

    torch.manual_seed(0)
    name = f"entity_moe/sam_vit_{size}.last_half"
    model = create_backbone(moezoo.model_config(name)) if plain else moezoo.create_model(name, **overrides)
    model.train()
    if plain or recompute is not None:
        model.set_grad_checkpointing(bool(recompute))  # type: ignore[operator]
    images = torch.randn(1, 3, 1024, 1024)
    output = model(pixel_values=images)
    loss = output.vision_outputs.last_hidden_state.square().mean() + output.pred_masks.square().mean()
    (loss + moezoo.aux_loss(model)).backward()
    return {
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "parameters": sum(p.numel() for p in model.parameters()),
    }


if __name__ == "__main__":
    typer.run(main)
