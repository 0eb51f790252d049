"""What int8 weights and pruning cost trained models: size, time, executed FLOPs and score, against float32.

    python benchmarks/compress.py                              # the digits models, trained by their recipes if need be
    python benchmarks/compress.py --model multiscale_moe/synthetic --no-peer

Each model is trained once into a folder under --runs, and taken from there the next time. All versions of a model are
timed interleaved in one run; ``results/compress.json`` keeps the models that were not asked for.
"""

from __future__ import annotations

import copy
import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from cards import RESULTS, store
from torch import nn

import moezoo
from moezoo.cli.compressing import loaded, print_table, score
from moezoo.compress import compression_table, prune_hidden, quantize
from moezoo.measure import latency
from moezoo.train import resolve_recipe, train_recipe

DIGITS = ("entity_moe/digits", "diff_moe/digits", "attention_routing/digits")
RATIO = 0.3
"""Of the hidden units that go."""
SHARE = 0.2
"""Of the recipe's epochs that a pruned model is trained on for."""


def main(
    model: Annotated[list[str] | None, typer.Option(help="a model with a recipe; by default the digits ones")] = None,
    runs: Annotated[Path, typer.Option(help="where runs are kept")] = Path("runs/compress"),
    batch_size: Annotated[int, typer.Option("--batch-size", "-b", help="images that are timed together")] = 16,
    rounds: Annotated[int, typer.Option(help="timed calls of each version")] = 60,
    threads: Annotated[int, typer.Option(help="of torch")] = 1,
    peer: Annotated[bool, typer.Option(help="also torchao's int8, where it is installed")] = True,
) -> None:
    """Train, compress, measure, store."""
    from rich.console import Console

    torch.set_num_threads(threads)
    console = Console()
    file = RESULTS / "compress.json"
    models = json.loads(file.read_text(encoding="utf-8"))["models"] if file.is_file() else {}
    command = shlex.join(["python", *sys.argv])
    for name in model or DIGITS:
        folder = trained(name, runs / name.replace("/", "-"))
        given = loaded(f"local-dir:{folder}", [], None, False, "test", batch_size)
        versions = {"float32": given.model, **compressed(given.model, folder)}

        def judge(version: nn.Module, given: Any = given) -> float:
            return score(version, given.splits.test, given.task, batch_size=given.batch_size)

        rows = compression_table(versions, given.images, judge=judge, rounds=rounds)
        print_table(console, rows, given.score_name, title=name)
        models[name] = {
            "dataset": given.dataset,
            "test_images": len(given.splits.test),
            "score": given.score_name,
            "batch_size": batch_size,
            "rounds": rounds,
            "pruning_ratio": RATIO,
            "epochs_after_pruning": after_pruning(name),
            "rows": [row.to_dict() for row in rows],
            "torchao": torchao_int8(given, judge, rounds) if peer else None,
        }
        store("compress", "compress", command=command, seeds=[0], models=models)
    console.print(f"  {file}", soft_wrap=True)


def trained(name: str, folder: Path, assignments: list[str] | None = None) -> Path:
    """The folder of a finished run."""
    if not (folder / "metrics.json").is_file():
        train_recipe(resolve_recipe(name, assignments=assignments or []), folder, overwrite=folder.exists())
    return folder


def after_pruning(name: str) -> int:
    return max(1, round(SHARE * resolve_recipe(name).training.epochs))


def compressed(model: nn.Module, folder: Path) -> dict[str, nn.Module]:
    """Every version of a trained model, by what it is called in the table."""
    pruned = copy.deepcopy(model)
    prune_hidden(pruned, RATIO)
    place = folder.with_name(f"{folder.name}-pruned")
    if not (place / "metrics.json").is_file():
        start = folder.with_name(f"{folder.name}-pruned-start")
        moezoo.save_pretrained(pruned, start)
        (start / "config.yaml").write_text((folder / "config.yaml").read_text(encoding="utf-8"), encoding="utf-8")
        epochs = after_pruning(model.moezoo_name)  # type: ignore[arg-type]
        trained(f"local-dir:{start}", place, [f"training.epochs={epochs}", "training.warmup_epochs=0"])
    again = moezoo.create_model(f"local-dir:{place}", pretrained=True).eval()
    return {
        "int8_dynamic": quantize(copy.deepcopy(model), "int8_dynamic"),
        "int8_weight_only": quantize(copy.deepcopy(model), "int8_weight_only"),
        "pruned": pruned,
        "pruned, trained on": again,
        "pruned, trained on, int8_dynamic": quantize(copy.deepcopy(again), "int8_dynamic"),
    }


def torchao_int8(given: Any, judge: Callable[[nn.Module], float], rounds: int) -> dict[str, Any] | None:
    """The same of torchao's dynamic int8, which knows ``nn.Linear`` alone: experts in stacks stay float."""
    try:
        from torchao import __version__
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_
    except ImportError:
        return None
    theirs, ours = copy.deepcopy(given.model), quantize(copy.deepcopy(given.model))
    quantize_(theirs, Int8DynamicActivationInt8WeightConfig())
    models = {"float32": given.model, "torchao": theirs, "moezoo": ours}
    times = latency(models, given.images, rounds=rounds, baseline="float32")
    return {
        "version": __version__,
        "milliseconds": {name: time.p50 for name, time in times.items()},
        "times_smaller": stored_bytes(given.model) / stored_bytes(theirs),
        "score": judge(theirs),
    }


def stored_bytes(model: nn.Module) -> int:
    """Of the plain tensors that a state dict is made of."""

    def plain(tensor: torch.Tensor) -> int:
        if not hasattr(tensor, "__tensor_flatten__"):
            return tensor.nbytes
        return sum(plain(getattr(tensor, name)) for name in tensor.__tensor_flatten__()[0])

    return sum(plain(tensor.detach()) for tensor in model.state_dict().values())


if __name__ == "__main__":
    typer.run(main)
