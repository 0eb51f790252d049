"""Whole models on a GPU beside their dense twins: images a second, peak memory, eager and compiled.

    python benchmarks/models_gpu.py                                  # a few minutes
    python benchmarks/models_gpu.py --budget 60 --out /tmp/gpu       # the most important minute

Weights are fresh, images random: a router that was not trained spreads tokens about evenly. Products are in bfloat16,
by autocast in training and of bfloat16 weights in inference. A training step is forward, losses, backward and a fused
AdamW. A dense twin has one MLP as wide as what a token meets in the mixture; of ``attention_routing`` it is timm's own
model. Model and twin are timed in turn, in an order shuffled anew each round. Compiled means each block by itself.
"""

from __future__ import annotations

import copy
import gc
import json
import statistics
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from budgeted import within
from card_tables.gpu import models_table
from cards import RESULTS, store
from moe_timing import Run, interleave, paired, peak_above
from rich.console import Console
from torch import nn

import moezoo
from moezoo.measure.profile_inputs import random_input, some_loss

MODES = ("infer", "train")
PLAIN = ("vmoe/vit_base.dense", (("top_k", 1),))
"""timm's ViT-B/16: the twin of one expert per token."""
Model = tuple[str, tuple[tuple[str, Any], ...]]


@dataclass(frozen=True)
class Case:
    """A model and how it is measured."""

    name: str
    overrides: dict[str, Any] = field(default_factory=dict)
    twin: Model | None = None
    """What stands beside it; ``None`` takes the same configuration with ``dense=True``."""
    batch: int | None = None
    """``None`` takes the script's."""
    compiled: bool = False

    def __str__(self) -> str:
        changed = ", ".join(f"{key}={value}" for key, value in self.overrides.items())
        kind = ", compiled" if self.compiled else ""
        return f"`{self.name}`{', ' if changed else ''}{changed}{kind}"

    @property
    def models(self) -> tuple[Model, Model]:
        """The model and its twin."""
        given = tuple(self.overrides.items())
        return (self.name, given), self.twin or (self.name, (*given, ("dense", True)))


def _experts(top_k: int) -> dict[str, int]:
    return {"num_experts": 8, "expert_k": top_k}


CASES = (
    Case("vmoe/vit_base.last2", {"top_k": 1}, PLAIN),
    Case("vmoe/vit_base.last2"),
    Case("entity_moe/vit_base.last", _experts(1)),
    Case("soft_moe/vit_base.last_half"),
    Case("diff_moe/cifar10"),
    Case("vmoe/vit_base.every2"),
    Case("vmoe/vit_base.last2", compiled=True),
    Case("attention_routing/vit_base", {"budget": 0.5}, PLAIN),
    Case("attention_routing/vit_base", {"budget": 0.25}, PLAIN),
    Case("attention_routing/vit_base.amod", twin=PLAIN),
    Case("entity_moe/vit_base.last", _experts(2)),
    Case("diff_moe/cifar10", batch=64),
    Case("diff_moe/cifar10", batch=512),
    Case("vmoe/vit_base.every2", compiled=True),
    Case("soft_moe/vit_base.last_half", compiled=True),
)
"""The most important first."""


def main(
    device: Annotated[str, typer.Option(help="where")] = "cuda",
    batch: Annotated[int, typer.Option(min=1, help="images of a call")] = 128,
    rounds: Annotated[int, typer.Option(min=1, help="timed calls of each")] = 11,
    budget: Annotated[float | None, typer.Option(help="seconds after which no further model is begun")] = None,
    seed: Annotated[int, typer.Option(help="of weights, images and order")] = 0,
    out: Annotated[Path, typer.Option(help="folder of models_gpu.json")] = RESULTS,
) -> None:
    """Measure, store after each model, and print the table."""
    where, console = torch.device(device), Console(stderr=True, width=120)
    usual = {"device": "cuda", "batch": 128, "rounds": 11, "budget": None, "seed": 0}
    given = {"device": device, "batch": batch, "rounds": rounds, "budget": budget, "seed": seed}
    changed = "".join(f" --{key} {value}" for key, value in given.items() if value != usual[key])
    rows: dict[str, dict[str, Any]] = {}
    path = out / "models_gpu.json"
    for case in within(budget, CASES, console):
        size = case.batch or batch
        title = f"{case}".removesuffix(", compiled")
        row = rows.setdefault(f"{title} {size}", {"model": title, "batch": size})
        row |= measured(case, where, size, rounds, seed)
        command = f"python benchmarks/models_gpu.py{changed}"
        path = store(
            "models_gpu",
            "models_gpu",
            folder=out,
            device=where,
            command=command,
            rounds=rounds,
            rows=list(rows.values()),
        )
        gc.collect()
        torch.compiler.reset()
        if where.type == "cuda":
            torch.cuda.empty_cache()
    print(models_table(json.loads(path.read_text(encoding="utf-8"))))
    console.print(f"written: {path}; python benchmarks/cards.py fills the documents", soft_wrap=True)


def measured(case: Case, device: torch.device, batch: int, rounds: int, seed: int) -> dict[str, Any]:
    """What a model costs beside its twin, in both modes; what fails says so."""
    try:
        models = [built(model, device, seed) for model in case.models]
        images = random_input(models[0], batch, seed)
        found = costs(models, images, device)
    except Exception as error:  # one model must not end the others
        return {"infer": {"failed": _text(error)}}
    for mode in MODES:
        key = f"{mode}_compiled" if case.compiled else mode
        try:
            copies = [copy.deepcopy(model) for model in models]
            if case.compiled:
                for model in copies:
                    compile_blocks(model)
            runs = [prepared(model, images, mode, device) for model in copies]
            found[key] = timed(*runs, device, batch, rounds, seed)
            if mode == "train" and device.type == "cuda" and not case.compiled:
                pairs = zip(("peak_gib", "twin_peak_gib"), copies, runs, strict=True)
                found |= {name: peak_gib(model, run, device) for name, model, run in pairs}
        except Exception as error:
            found[key] = {"failed": _text(error)}
    return found


@cache
def built(model: Model, device: torch.device, seed: int) -> nn.Module:
    """The model with fresh weights; whoever changes it takes a copy."""
    name, overrides = model
    torch.manual_seed(seed)
    with torch.device(device):
        return moezoo.create_model(name, **dict(overrides))


def costs(models: list[nn.Module], input: tuple[torch.Tensor, ...], device: torch.device) -> dict[str, Any]:
    """Parameters and executed FLOPs of inference, over the twin's."""
    few = tuple(each[:2].to(device) for each in input)
    counted = [moezoo.measure.flops(model.eval(), few).executed for model in models]
    sizes = [moezoo.measure.parameters(model) for model in models]
    return {
        "flops": counted[0] / counted[1],
        "active": sizes[0].active / sizes[1].active,
        "gflops_per_image": counted[0] / len(few[0]) / 1e9,
        "parameters": [asdict(size) for size in sizes],
    }


def compile_blocks(model: Any) -> None:
    """Compile each transformer block by itself, in place: blocks that are alike share the code."""
    for block in model.blocks:
        block.compile(dynamic=False)


def prepared(model: nn.Module, input: tuple[torch.Tensor, ...], mode: str, device: torch.device) -> Run:
    """A call of the model, which ran once."""
    given = tuple(each.to(device) for each in input)
    if mode == "infer":
        run = _inference(model.to(torch.bfloat16).eval(), given)
    else:
        run = _training(model.train(), given, device)
    for _ in range(3):
        run.prepare()
        run.call()
    return run


def _inference(model: nn.Module, input: tuple[torch.Tensor, ...]) -> Run:
    given = tuple(each.bfloat16() if each.is_floating_point() else each for each in input)
    return Run(torch.no_grad()(lambda: model(*given)))


def _training(model: nn.Module, input: tuple[torch.Tensor, ...], device: torch.device) -> Run:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            loss = some_loss(model, model(*input), input)
        loss.backward()
        optimizer.step()

    return Run(step, lambda: optimizer.zero_grad(set_to_none=True))


def timed(ours: Run, twin: Run, device: torch.device, batch: int, rounds: int, seed: int) -> dict[str, Any]:
    """Times in turn, images a second, and the ratio."""
    samples = interleave({"twin": twin, "model": ours}, rounds=rounds, seconds=0.0, device=device, seed=seed)
    ratio = paired(samples["model"], samples["twin"])
    medians = {name: statistics.median(each for each in values if each is not None) for name, values in samples.items()}
    return {
        "over": ratio.median,
        "low": ratio.low,
        "high": ratio.high,
        "images_per_s": 1000 * batch / medians["model"],
        "twin_images_per_s": 1000 * batch / medians["twin"],
        "samples": samples,
    }


def peak_gib(model: nn.Module, run: Run, device: torch.device) -> float:
    """The most that a step needs, with the weights and the optimizer's state."""
    weights = sum(each.numel() * each.element_size() for each in model.parameters())
    return (peak_above(run, device) + 3 * weights) / 2**30  # AdamW keeps two numbers of each


def _text(error: Exception) -> str:
    return f"failed: {type(error).__name__}: {' '.join(str(error).split())[:120]}"


if __name__ == "__main__":
    typer.run(main)
