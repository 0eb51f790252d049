"""A training step of ``diff_moe/cifar10`` beside two other ways to compute the very same mixtures, and its memory.

    python benchmarks/diff_moe_step.py                        # batch 64, 10 rounds: about half an hour on two cores
    python benchmarks/diff_moe_step.py --batch 4 --rounds 3 --set embed_dim=64 --out /tmp/step       # a try

The other two (``diff_moe_layers.py``) have the same weights; that all three give the same outputs and gradients is
checked first. A step is forward with a sentence per image, loss, backward and AdamW. *The mixtures* alone are forward
and backward of every ``MoELayer`` on the tokens it got in the first step. Every round runs each once, in an order
shuffled anew; a ratio is the median over the rounds with its 90 % bootstrap interval. Memory: what a training forward
keeps for its backward pass, and the most a process held during one step, each in a process of its own.
"""

from __future__ import annotations

import dataclasses
import json
import re
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from card_tables.clocks import step_table
from cards import RESULTS, store
from diff_moe_layers import WAYS, computed_by, moe_layers
from moe_timing import Run, Samples, paired, timed
from rich.console import Console
from rich.markdown import Markdown
from torch import Tensor, nn
from torch.nn import functional as F

import moezoo
from moezoo.config import parse_assignments
from moezoo.data.text import class_sentences, make_tokenizer

OURS = "moezoo"
MEMORY = {
    "MoE, activations recomputed (default)": {},
    "MoE, activations kept": {"use_gradient_checkpointing": False},
    "dense twin, activations recomputed": {"dense": True},
    "dense twin, activations kept": {"dense": True, "use_gradient_checkpointing": False},
}
"""Cases of the table of memory."""


def main(
    batch: Annotated[int, typer.Option(min=1, help="images in a step")] = 64,
    rounds: Annotated[int, typer.Option(min=1, help="timed steps of each")] = 10,
    threads: Annotated[int | None, typer.Option(min=1, help="threads inside an operator")] = None,
    model: Annotated[str, typer.Option(help="a model of the family with classes")] = "diff_moe/cifar10",
    set_: Annotated[list[str] | None, typer.Option("--set", help="key=value of the model; may be repeated")] = None,
    seed: Annotated[int, typer.Option(help="of weights, images and order")] = 0,
    out: Annotated[Path, typer.Option(help="folder of diff_moe_step.json and diff_moe_memory.json")] = RESULTS,
    case: Annotated[str | None, typer.Option(help="a case of memory: run it here and print its figures")] = None,
) -> None:
    """Measure, print and store both results."""
    if threads is not None:
        torch.set_num_threads(threads)
    overrides = parse_assignments(set_ or [])
    if case is not None:
        print(json.dumps(memory_of(model, batch, seed, {**overrides, **MEMORY[case]})))
        return
    console = Console()
    asked = [] if model == "diff_moe/cifar10" else ["--model", model]
    asked += [] if batch == 64 else ["--batch", str(batch)]
    asked += [] if rounds == 10 else ["--rounds", str(rounds)]
    asked += [] if threads is None else ["--threads", str(threads)]
    asked += [] if seed == 0 else ["--seed", str(seed)]
    command = " ".join(["python benchmarks/diff_moe_step.py", *asked, *(f"--set {pair}" for pair in set_ or [])])
    # Memory first, while this process is small: the three models of the timings need most of a small machine's.
    rows = []
    for name in MEMORY:
        here = ["--model", model, "--batch", str(batch), "--seed", str(seed), "--case", name]
        here += [part for pair in set_ or [] for part in ("--set", pair)]
        here += ["--threads", str(torch.get_num_threads())]
        done = subprocess.run([sys.executable, __file__, *here], capture_output=True, text=True)
        failed = {"failed": f"failed ({done.returncode})"}
        rows.append({"case": name, **(failed if done.returncode else json.loads(done.stdout.splitlines()[-1]))})
        console.print(rows[-1])
    timed = timings(build(model, seed, overrides), Step.of(model, batch, seed, overrides), rounds, seed, console)
    path = store("diff_moe_step", "step", folder=out, command=command, model=model, batch=batch, **timed)
    console.print(Markdown(step_table(json.loads(path.read_text(encoding="utf-8")))))
    title = f"`{model}`, one step of {batch} images"
    written = store("diff_moe_memory", "saved", folder=out, command=command, title=title, rows=rows)
    console.print(f"written: {path}, {written}; python benchmarks/cards.py fills the documents", soft_wrap=True)


def build(name: str, seed: int, overrides: dict[str, Any]) -> nn.Module:
    """The model with fresh weights, in training mode."""
    torch.manual_seed(seed)
    return moezoo.create_model(name, **overrides).train()


@dataclasses.dataclass(frozen=True)
class Step:
    """The batch of every step."""

    images: Tensor
    labels: Tensor
    text: Tensor
    mask: Tensor

    @staticmethod
    def of(name: str, batch: int, seed: int, overrides: dict[str, Any]) -> Step:
        """Noise, labels in turn, and a sentence of each label."""
        config = moezoo.model_config(name, **overrides)
        sentences = class_sentences(name.partition("/")[2].partition(".")[0])
        tokenizer = make_tokenizer([s for each in sentences for s in each], vocab_size=config.vocab_size, kind="bpe")
        labels = torch.arange(batch) % config.num_classes
        text, mask = tokenizer.encode([sentences[label][0] for label in labels.tolist()], config.max_text_len)
        sides = (config.img_size, config.img_size) if isinstance(config.img_size, int) else config.img_size
        images = torch.randn(batch, config.in_channels, *sides, generator=torch.Generator().manual_seed(seed))
        return Step(images, labels, text, mask)

    def loss(self, model: nn.Module) -> Tensor:
        """The task's loss of both paths, and the model's own."""
        out = model(self.images, self.text, self.mask, labels=self.labels)
        task = F.cross_entropy(out["image_logits"], self.labels) + F.cross_entropy(out["logits"], self.labels)
        return task + moezoo.aux_loss(model)


def timings(model: nn.Module, step: Step, rounds: int, seed: int, console: Console) -> dict[str, Any]:
    """Times of whole steps and of the mixtures alone, by whom they are computed."""
    models = {OURS: model, **{name: computed_by(compute, model) for name, compute in WAYS.items()}}
    check_equal(models, step)
    console.print("equal: outputs and gradients of all three")
    inputs = {name: seen_by_layers(each, step) for name, each in models.items()}
    found: dict[str, Any] = {}
    for what in ("step", "mixtures"):
        runs = {
            name: _step(each, step) if what == "step" else _mixtures(each, inputs[name])
            for name, each in models.items()
        }
        found[what] = summary(timed(what, runs, console, rounds=rounds, device=torch.device("cpu"), seed=seed))
    return {"rounds": rounds, **found}


def summary(samples: Samples) -> dict[str, dict[str, Any]]:
    """Milliseconds with quartiles, and the time over ours."""
    found = {}
    for name, values in samples.items():
        times = [value for value in values if value is not None]
        low, middle, high = statistics.quantiles(times, n=4) if len(times) > 1 else times * 3
        ratio = paired(values, samples[OURS])
        found[name] = {
            "ms": middle,
            "quartiles": [low, high],
            "over_ours": ratio.median,
            "interval": [ratio.low, ratio.high],
            "samples": times,
        }
    return found


def check_equal(models: dict[str, nn.Module], step: Step) -> None:
    """Raise unless all give the same logits, and the same gradient of the images, dropout left out."""
    reference: list[Tensor] = []
    for name, model in models.items():
        model.eval()  # no dropout; routing and experts are the same in both modes
        images = step.images.clone().requires_grad_()
        out = model(images, step.text, step.mask)
        loss = F.cross_entropy(out["logits"], step.labels) + F.cross_entropy(out["image_logits"], step.labels)
        (gradient,) = torch.autograd.grad(loss, images)
        found = [out["logits"].detach(), out["image_logits"].detach(), gradient]
        reference = reference or found
        for got, wanted in zip(found, reference, strict=True):
            # A gradient of small weights and a mean over images is tiny: it says what close means.
            close = {"rtol": 1e-3, "atol": 1e-4 * wanted.abs().max().item()}
            torch.testing.assert_close(got, wanted, **close, msg=lambda text, name=name: f"{name}: {text}")
        model.train()


def seen_by_layers(model: nn.Module, step: Step) -> list[tuple[nn.Module, Tensor, dict[str, Any]]]:
    """Every call of a mixture in one training forward: the layer, its tokens, its keywords."""
    calls: list[tuple[nn.Module, Tensor, dict[str, Any]]] = []

    def note(layer: nn.Module, args: tuple, kwargs: dict) -> None:
        calls.append((layer, args[0].detach().clone(), kwargs))

    hooks = [layer.register_forward_pre_hook(note, with_kwargs=True) for layer in moe_layers(model)]
    with torch.no_grad():
        step.loss(model)
    for hook in hooks:
        hook.remove()
    return calls


def _step(model: nn.Module, step: Step) -> Run:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)

    def call() -> None:
        step.loss(model).backward()
        optimizer.step()

    return Run(call, lambda: optimizer.zero_grad(set_to_none=True))


def _mixtures(model: nn.Module, calls: list[tuple[nn.Module, Tensor, dict[str, Any]]]) -> Run:
    def call() -> None:
        for layer, tokens, keywords in calls:
            x = tokens.clone().requires_grad_()
            y = layer(x, **keywords)
            y.backward(torch.ones_like(y))

    zero: Callable[[], None] = lambda: model.zero_grad(set_to_none=True)  # noqa: E731
    return Run(call, zero)


def memory_of(name: str, batch: int, seed: int, overrides: dict[str, Any]) -> dict[str, Any]:
    """One step in this process: bytes kept for backward, and the most the process held."""
    model, step = build(name, seed, overrides), Step.of(name, batch, seed, overrides)
    images = {"images": step.images, "text": step.text, "mask": step.mask}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    step.loss(model).backward()
    optimizer.step()
    peak = peak_gib()
    optimizer.zero_grad(set_to_none=True)
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "saved_mib": moezoo.measure.memory(model, images).saved_for_backward / 2**20,
        "peak_gib": peak,
    }


def peak_gib() -> float:
    """The most that this process held since it began."""
    status = Path("/proc/self/status")
    if status.is_file() and (found := re.search(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="utf-8"))):
        return int(found[1]) / 2**20
    # Elsewhere this begins with what the parent held, where that is more.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)


if __name__ == "__main__":
    typer.run(main)
