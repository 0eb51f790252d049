"""What the nursery's children do of an ablation."""

from __future__ import annotations

import sys
from pathlib import Path

from moezoo.ablate import ablate, resolve_plan

sys.path.append(str(Path(__file__).parents[1]))  # a nursery's child knows its own folder alone
import ablation_toys

SAME = [f"data.name={ablation_toys.NAME}", "training.epochs=3", "training.batch_size=10", "training.device=cpu"]
SAME += ["training.save_every=1", "patch_grid_size=4"]
VARY = ["patch_grid_size=2,4", "variant=dense", "budget=0,0.5,1"]


def run(out: str) -> None:
    """The whole ablation, or what is left of it."""
    ablate(resolve_plan("attention_routing/digits", vary=VARY, assignments=SAME), out)
