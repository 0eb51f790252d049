"""A whole ViT whose every second MLP is a mixture of experts, over its dense twin of equal active FLOPs.

    python benchmarks/moe_vit.py                                     # both types, all cases: about ten minutes
    python benchmarks/moe_vit.py --dtypes float32 --top-k 2 --modes infer

The twin's replaced MLPs are K times as wide. Inference is timed twice: with the weights as they are, and with the MLPs
of both models prepacked (the experts, the twin's wide MLPs, and the MLPs that both have in common); attention is the
same eager code everywhere. Training is a forward and a backward pass of the batch. A figure is the median over
interleaved rounds of one process of the MoE's time by the twin's in the same round. The allocator matters: see
``moe_layer.py``.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import timm
import torch
import typer
from moe_floors import PackedFFN
from moe_limits import VIT
from moe_timing import Run, Samples, allocator, interleave, paired
from moe_workloads import DTYPES, NotRun, split_names
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from torch import nn

import moezoo
from moezoo.measure.machine import machine
from moezoo.moe.paths.packs import set_packing

DEFAULT = "vit_small_patch16_224"
"""What the limits are set for."""
EXPERTS = 8


def main(
    model: Annotated[str, typer.Option(help="a timm ViT")] = DEFAULT,
    top_k: Annotated[str, typer.Option(help="experts per token, comma-separated")] = "1,2",
    dtypes: Annotated[str, typer.Option(help="float32, bfloat16 or both")] = "float32,bfloat16",
    modes: Annotated[str, typer.Option(help="infer, train or both")] = "infer,train",
    batches: Annotated[str, typer.Option(help="images per batch; training takes the largest")] = "1,8",
    rounds: Annotated[int | None, typer.Option(min=1, help="rounds of a case, instead of --seconds")] = None,
    seconds: Annotated[float, typer.Option(min=0.0, help="of a case; five rounds at least")] = 20.0,
    threads: Annotated[int | None, typer.Option(min=1, help="threads inside an operator")] = None,
    seed: Annotated[int, typer.Option(help="of weights, images and order")] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", help="write every round")] = None,
    markdown: Annotated[Path | None, typer.Option(help="write the table")] = None,
) -> None:
    """Measure every case and print the table."""
    if threads is not None:
        torch.set_num_threads(threads)
    sizes = [int(size) for size in batches.split(",")]
    kinds = split_names(modes, ("infer", "train"), "--modes")
    cases = [("infer", size) for size in sizes if "infer" in kinds] + [("train", max(sizes))] * ("train" in kinds)
    pairs = [(int(k), dtype) for k in top_k.split(",") for dtype in split_names(dtypes, DTYPES, "--dtypes")]
    data: dict[str, Any] = {
        "command": " ".join(["python", "benchmarks/moe_vit.py", *sys.argv[1:]]),
        "model": model,
        "moezoo": moezoo.__version__,
        "machine": dataclasses.asdict(machine()),
        "allocator": allocator(),
        "cases": [],
    }
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=len(pairs) * len(cases))
        for index, (k, dtype) in enumerate(pairs):
            sparse, dense = build(model, k, DTYPES[dtype], seed)
            costs = _costs(sparse, dense)
            for step, (mode, size) in enumerate(cases):
                done, title = index * len(cases) + step, f"{model} top-{k} {dtype} {mode} batch {size}"

                def tick(share: float, done=done, title=title) -> None:
                    bar.update(task, completed=done + share, description=title)

                tick(0.0)
                images = _images(sparse, size, seed)
                runs = _training(sparse, dense, images) if mode == "train" else _inference(sparse, dense, images)
                samples = interleave(
                    runs, rounds=rounds, seconds=seconds, device=torch.device("cpu"), seed=seed, tick=tick
                )
                case = {"top_k": k, "dtype": dtype, "mode": mode, "batch": size, "samples": samples}
                data["cases"].append(case | costs)
    text = table(data)
    print(text)
    if json_file is not None:
        json_file.write_text(json.dumps(data), encoding="utf-8")
    if markdown is not None:
        markdown.write_text(text + "\n", encoding="utf-8")


def build(name: str, top_k: int, dtype: torch.dtype, seed: int) -> tuple[nn.Module, nn.Module]:
    """The mixture and its dense twin with the weights they share."""
    torch.manual_seed(seed)
    dense: Any = timm.create_model(name)
    places = list(range(1, len(dense.blocks), 2))
    sparse = moezoo.upcycle(copy.deepcopy(dense), places, num_experts=EXPERTS, top_k=top_k, aux_weights={})
    for place in places:
        mlp = dense.blocks[place].mlp
        width, hidden = mlp.fc1.in_features, mlp.fc1.out_features
        mlp.fc1, mlp.fc2 = nn.Linear(width, top_k * hidden), nn.Linear(top_k * hidden, width)
    return sparse.to(dtype), dense.to(dtype)


def packed(model: nn.Module, rows: int) -> nn.Module:
    """A copy of ``model`` for inference whose timm MLPs are prepacked; MoE layers are left to themselves."""
    made: Any = copy.deepcopy(model).eval()
    for block in made.blocks:
        if hasattr(block.mlp, "fc1"):
            fc1, fc2 = block.mlp.fc1, block.mlp.fc2
            block.mlp = PackedFFN(fc1.weight, fc1.bias, fc2.weight, fc2.bias, rows)
    return made


def _inference(sparse: nn.Module, dense: nn.Module, images: torch.Tensor) -> dict[str, Run]:
    plain = copy.deepcopy(sparse).eval()
    set_packing(plain, False)
    models = {"dense": copy.deepcopy(dense).eval(), "moe": plain}
    rows = 197 * len(images)  # a hint for the layout, no more
    try:
        models |= {"dense packed": packed(dense, rows), "moe packed": packed(sparse, rows)}
    except NotRun as error:
        print(f"prepacked MLPs are {error}", file=sys.stderr)
    return {name: _ready(Run(torch.no_grad()(lambda model=model: model(images)))) for name, model in models.items()}


def _training(sparse: nn.Module, dense: nn.Module, images: torch.Tensor) -> dict[str, Run]:
    def run(model: nn.Module) -> Run:
        model = copy.deepcopy(model).train()

        def step() -> torch.Tensor:
            out = model(images)
            out.backward(torch.ones_like(out))
            return out

        return _ready(Run(step, lambda: model.zero_grad(set_to_none=True)))

    return {"dense": run(dense), "moe": run(sparse)}


def _ready(run: Run) -> Run:
    for _ in range(2):
        run.prepare()
        run.call()
    return run


def _images(model: nn.Module, batch: int, seed: int) -> torch.Tensor:
    size = timm.data.resolve_model_data_config(model)["input_size"]
    images = torch.randn(batch, *size, generator=torch.Generator().manual_seed(seed))
    return images.to(next(model.parameters()).dtype)


def _costs(sparse: nn.Module, dense: nn.Module) -> dict[str, Any]:
    """FLOPs of one image in both models, and how unevenly the experts are loaded."""
    image = _images(sparse, 1, 0)
    with moezoo.record_routing(sparse) as records, torch.no_grad():
        sparse.eval()(image)
    loads = [record.routing.counts() for record in records]
    return {
        "moe_flops": moezoo.measure.flops(sparse, image).analytic,
        "dense_flops": moezoo.measure.flops(dense, image).analytic,
        "load": max((counts.max() / counts.mean()).item() for counts in loads),
    }


def table(data: dict[str, Any]) -> str:
    """One line per case and way of keeping the weights."""
    head = ["K", "dtype", "mode", "batch", "MLPs", "GFLOPs per image (twin)", "load", "twin ms", "MoE / twin", "limit"]
    lines = ["| " + " | ".join([*head, "verdict"]) + " |", "|---" * (len(head) + 1) + "|"]
    for case in data["cases"]:
        samples: Samples = case["samples"]
        limit = VIT.get((case["mode"], case["batch"])) if data["model"] == DEFAULT else None
        for suffix in ("", " packed"):
            if f"moe{suffix}" not in samples:
                continue
            ratio = paired(samples[f"moe{suffix}"], samples[f"dense{suffix}"])
            twin = paired(samples[f"dense{suffix}"], [1.0] * len(samples[f"dense{suffix}"])).median
            flops = f"{case['moe_flops'] / 1e9:.3f} ({case['dense_flops'] / 1e9:.3f})"
            cells = [case["top_k"], case["dtype"], case["mode"], case["batch"], suffix.strip() or "plain", flops]
            cells += [f"{case['load']:.2f}", f"{twin:.1f}", ratio, "-" if limit is None else f"{limit:.2f}"]
            cells += ["-" if limit is None else "met" if ratio.low <= limit else "MISSED"]
            lines.append("| " + " | ".join(map(str, cells)) + " |")
    m = data["machine"]
    set_ = ", ".join(f"{name}={value}" for name, value in data["allocator"].items()) or "as it comes"
    return (
        "\n".join(lines)
        + f"\n\n{data['model']}, every second MLP {EXPERTS} experts, against its dense twin: median of "
        "paired ratios with the 90 % bootstrap interval; a limit is met when the interval's lower end is. `load` is "
        "the fullest expert of any layer over the mean, for one image.\n\n"
        f"Measured on: {m['processor']}, {m['cores']} CPU cores, {m['threads']} threads, torch {m['torch']}; "
        f"allocator: {set_}; moezoo {data['moezoo']}.\n\nCommand: `{data['command']}`"
    )


if __name__ == "__main__":
    typer.run(main)
