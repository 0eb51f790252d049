"""What a routed cell really saves: inference and training steps at eleven ratios beside full compute, on the clock.

    python benchmarks/attention_routing_clock.py --threads 2            # batch 64, 20 rounds, two models: two minutes
    python benchmarks/attention_routing_clock.py --model attention_routing/digits --batch 8 --rounds 3 --out /tmp/clock

One model with fresh weights gets the threshold (``set_threshold``) that sends each share of the batch to the big
MLP; ``.full_compute`` has the same weights, without the encoder that it does not need. Checked first: where all cells
meet the big MLP, by threshold or budget, both give the same logits, bit for bit. Every round runs each
once, a turn of five batches, in an order shuffled anew; a time ratio is the median over the rounds with its 90 %
bootstrap interval, and stands beside the ratio of the executed FLOPs. A training step is forward, loss, backward and
AdamW.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from card_tables.clocks import clock_table
from cards import RESULTS, store
from moe_timing import Run, Samples, paired, timed
from rich.console import Console
from rich.markdown import Markdown
from torch import Tensor, nn
from torch.nn import functional as F

import moezoo

MODELS = ("attention_routing/cluttered_digits", "attention_routing/cifar10")
FULL = "full compute"
TURN = 5
"""Batches of one timed turn: a single one takes milliseconds, of which a busy machine can take many away."""
RATIOS = (0.1, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


def main(
    model: Annotated[list[str] | None, typer.Option(help="a preset of the family; may be repeated")] = None,
    batch: Annotated[int, typer.Option(min=1, help="images in a step")] = 64,
    rounds: Annotated[int, typer.Option(min=1, help="timed turns of each")] = 20,
    threads: Annotated[int | None, typer.Option(min=1, help="threads inside an operator")] = None,
    seed: Annotated[int, typer.Option(help="of weights, images and order")] = 0,
    out: Annotated[Path, typer.Option(help="folder of attention_routing_clock_<arch>.json")] = RESULTS,
) -> None:
    """Measure, print and store."""
    if threads is not None:
        torch.set_num_threads(threads)
    console = Console()
    parts = ["python benchmarks/attention_routing_clock.py", *(f"--model {name}" for name in model or [])]
    parts += [] if batch == 64 else ["--batch", str(batch)]
    parts += [] if rounds == 20 else ["--rounds", str(rounds)]
    parts += [] if threads is None else ["--threads", str(threads)]
    parts += [] if seed == 0 else ["--seed", str(seed)]
    for name in model or MODELS:
        found = clocked(name, batch, rounds, seed, console)
        stem = f"attention_routing_clock_{name.partition('/')[2]}"
        path = store(stem, "clock", folder=out, command=" ".join(parts), **found)
        console.print(Markdown(clock_table(json.loads(path.read_text(encoding="utf-8")))))
        console.print(f"written: {path}; python benchmarks/cards.py fills the documents", soft_wrap=True)


def clocked(name: str, batch: int, rounds: int, seed: int, console: Console) -> dict[str, Any]:
    """FLOPs and times of the model at each ratio, over full compute's."""
    torch.manual_seed(seed)
    routed = moezoo.create_model(name)
    full = with_weights_of(routed, moezoo.create_model(f"{name}.full_compute"))
    images = torch.randn(batch, *routed.pretrained_cfg["input_size"], generator=torch.Generator().manual_seed(seed))
    thresholds = thresholds_of(routed, images)
    check_equal(routed, full, images)
    console.print("equal: the logits where all cells meet the big MLP and those of full compute, bit for bit")
    labels = torch.arange(batch) % routed.num_classes
    flops = {FULL: _flops(full, images), **{r: _flops(routed, images, thresholds[r]) for r in RATIOS}}
    found: dict[str, Any] = {"model": name, "batch": batch, "rounds": rounds, "ratios": list(RATIOS)}
    found["flops"] = [flops[r] / flops[FULL] for r in RATIOS]
    found["full_flops"] = flops[FULL] / batch
    for what in ("inference", "step"):
        training = what == "step"
        runs = {FULL: _run(full, images, labels, None, training)}
        runs |= {str(r): _run(routed, images, labels, thresholds[r], training) for r in RATIOS}
        found[what] = summary(timed(what, runs, console, rounds=rounds, device=images.device, seed=seed))
    return found


def with_weights_of(routed: nn.Module, full: nn.Module) -> nn.Module:
    """``full`` with the weights of ``routed``'s big MLP and of all that both have."""
    weights = routed.state_dict()
    big = {f"plain.big.{k}": v for k, v in routed.big.state_dict().items()}
    full.load_state_dict({k: big[k] if k in big else weights[k] for k in full.state_dict()})
    return full


def thresholds_of(routed: nn.Module, images: Tensor) -> dict[float, float]:
    """Of each ratio the score that as many of the batch's cells reach."""
    with torch.no_grad():
        scores = routed.eval()(images, return_attention=True).attention_scores.flatten().sort(descending=True).values
    return {ratio: scores[max(round(ratio * len(scores)), 1) - 1].item() for ratio in RATIOS}


def check_equal(routed: nn.Module, full: nn.Module, images: Tensor) -> None:
    """Raise unless the model gives the very logits of full compute where all cells meet the big MLP."""
    with torch.no_grad():
        theirs = full.eval()(images)
        for turn in (lambda: routed.set_threshold(thresholds_of(routed, images)[1.0]), lambda: routed.set_budget(1.0)):
            turn()
            ours = routed.eval()(images)
            if not torch.equal(ours, theirs):
                raise AssertionError(f"not equal: logits differ by up to {(ours - theirs).abs().max().item():.3g}")


def summary(samples: Samples) -> dict[str, Any]:
    """Milliseconds of full compute, and the time over it at each ratio."""
    times = [value / TURN for value in samples[FULL] if value is not None]
    over = [paired(samples[str(r)], samples[FULL]) for r in RATIOS]
    return {
        "full_ms": statistics.median(times),
        "over_full": [each.median for each in over],
        "intervals": [[each.low, each.high] for each in over],
        "samples": samples,
    }


def _flops(model: nn.Module, images: Tensor, threshold: float | None = None) -> float:
    """Executed by all images."""
    if threshold is not None:
        model.set_threshold(threshold)
    return float(moezoo.measure.flops(model.eval(), images).executed)


def _run(model: nn.Module, images: Tensor, labels: Tensor, threshold: float | None, training: bool) -> Run:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6) if training else None

    def prepare() -> None:
        model.train(training)
        if threshold is not None:
            model.set_threshold(threshold)

    def step() -> None:
        assert optimizer is not None
        for _ in range(TURN):
            optimizer.zero_grad(set_to_none=True)
            (F.cross_entropy(model(images), labels) + moezoo.aux_loss(model)).backward()
            optimizer.step()

    @torch.inference_mode()
    def infer() -> None:
        for _ in range(TURN):
            model(images)

    return Run(step if training else infer, prepare)


if __name__ == "__main__":
    typer.run(main)
