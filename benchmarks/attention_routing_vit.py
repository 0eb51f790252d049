"""A timm transformer that routes its tokens, at several budgets beside timm's own model, on the clock.

    python benchmarks/attention_routing_vit.py --threads 2                   # ViT-S/16, batch 8, 20 rounds: minutes
    python benchmarks/attention_routing_vit.py --model attention_routing/vit_tiny --batch 2 --rounds 3 --out /tmp/clock

One model with fresh weights is set to each budget (``set_budget``); timm's has the same weights. Checked first: at
budget 1 both give the same logits, bit for bit. Every round runs each once, in an order shuffled anew; a time ratio is
the median over the rounds with its 90 % bootstrap interval, beside the ratio of the executed FLOPs. The last column is
how much of the FLOPs saved is saved on the clock.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Annotated, Any

import timm
import torch
import typer
from card_tables.clocks import vit_clock_table
from cards import RESULTS, store
from moe_timing import Run, paired, timed
from rich.console import Console
from rich.markdown import Markdown
from torch import Tensor, nn

import moezoo

DEFAULT = "attention_routing/vit_small"
PLAIN = "timm"
BUDGETS = (1.0, 0.75, 0.5, 0.375, 0.34, 0.25)


def main(
    model: Annotated[str, typer.Option(help="a transformer of the family")] = DEFAULT,
    small_ratio: Annotated[float, typer.Option(help="width of the small MLPs over the big ones'")] = 0.25,
    batch: Annotated[int, typer.Option(min=1, help="images of a call")] = 8,
    rounds: Annotated[int, typer.Option(min=1, help="timed calls of each")] = 20,
    threads: Annotated[int | None, typer.Option(min=1, help="threads inside an operator")] = None,
    seed: Annotated[int, typer.Option(help="of weights, images and order")] = 0,
    out: Annotated[Path, typer.Option(help="folder of attention_routing_vit.json")] = RESULTS,
) -> None:
    """Measure, print and store."""
    if threads is not None:
        torch.set_num_threads(threads)
    console = Console()
    asked = [("model", model, DEFAULT), ("small-ratio", small_ratio, 0.25), ("batch", batch, 8)]
    asked += [("rounds", rounds, 20), ("threads", threads, None), ("seed", seed, 0)]
    options = "".join(f" --{name} {value}" for name, value, usual in asked if value != usual)
    found = clocked(model, small_ratio, batch, rounds, seed, console)
    command = f"python benchmarks/attention_routing_vit.py{options}"
    path = store("attention_routing_vit", "vit_clock", folder=out, command=command, **found)
    console.print(Markdown(vit_clock_table(json.loads(path.read_text(encoding="utf-8")))))
    console.print(f"written: {path}; python benchmarks/cards.py fills the documents", soft_wrap=True)


def clocked(name: str, small_ratio: float, batch: int, rounds: int, seed: int, console: Console) -> dict[str, Any]:
    """FLOPs and times of the model at each budget, over timm's."""
    torch.manual_seed(seed)
    plain = timm.create_model(moezoo.model_config(name).model_name).eval()
    routed = moezoo.create_model(name, small_ratio=small_ratio).eval()
    routed.load_state_dict(plain.state_dict())
    images = torch.randn(batch, *routed.pretrained_cfg["input_size"])
    check_equal(routed, plain, images)
    console.print("equal: the logits at budget 1 and those of timm's model, bit for bit")
    full = moezoo.measure.flops(plain, images).executed
    flops = []
    for budget in BUDGETS:
        routed.set_budget(budget)
        flops.append(moezoo.measure.flops(routed, images).executed / full)
    runs = {PLAIN: _run(plain, images, None), **{str(budget): _run(routed, images, budget) for budget in BUDGETS}}
    samples = timed("inference", runs, console, rounds=rounds, device=images.device, seed=seed)
    over = [paired(samples[str(budget)], samples[PLAIN]) for budget in BUDGETS]
    return {
        "model": name,
        "small_ratio": small_ratio,
        "batch": batch,
        "rounds": rounds,
        "budgets": list(BUDGETS),
        "full_flops": full / batch,
        "flops": flops,
        "full_ms": statistics.median(value for value in samples[PLAIN] if value is not None),
        "over_full": [each.median for each in over],
        "intervals": [[each.low, each.high] for each in over],
        "samples": samples,
    }


@torch.inference_mode()
def check_equal(routed: nn.Module, plain: nn.Module, images: Tensor) -> None:
    """Raise unless the model at budget 1 gives the very logits of timm's."""
    routed.set_budget(1.0)
    ours, theirs = routed(images), plain(images)
    if not torch.equal(ours, theirs):
        raise AssertionError(f"not equal: logits differ by up to {(ours - theirs).abs().max().item():.3g}")


def _run(model: Any, images: Tensor, budget: float | None) -> Run:
    def prepare() -> None:
        if budget is not None:
            model.set_budget(budget)

    @torch.inference_mode()
    def infer() -> Tensor:
        return model(images)

    return Run(infer, prepare)


if __name__ == "__main__":
    typer.run(main)
