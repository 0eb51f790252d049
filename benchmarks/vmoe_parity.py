"""How far models converted from google-research/vmoe are from what that code itself computed, and from an independent
float64 forward on configurations drawn at random.

    python benchmarks/vmoe_parity.py                # a minute on one core
    python benchmarks/vmoe_parity.py --draws 30     # of each kind

Compared are the stored numbers in ``tests/fixtures/vmoe`` (see there), in evaluation or in a training step with the
stored noise: outputs of blocks, logits, who goes to which expert, who finds it full, losses, gradients.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from card_tables.parity import parity_table
from cards import store
from rich.progress import track
from torch.nn import functional as F

import moezoo
from moezoo.models import soft_moe, vmoe

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "models" / "vmoe"))
from vmoe_drawn import draw
from vmoe_stored import STORED, far, gradients_of, model_of, nchw, run, stored, told_noise

FIXTURES = {
    "vmoe_token_nodrop": "top-2, class token, nothing dropped",
    "vmoe_token_tight": "top-2, a third of the choices dropped",
    "vmoe_token_tight_bpr": "the same, batch prioritised",
    "vmoe_gap_prelogits": "top-2, mean of tokens, layer with tanh",
    "vmoe_train_k2": "top-2, training step with noise",
    "ec_gap": "expert choice, qk-norm",
    "ec_train": "expert choice, training step with noise",
    "soft_gap_slots2": "Soft MoE as shipped (bfloat16 dispatch)",
    "soft_gap_slots2_fp32dispatch": "Soft MoE, float32 dispatch",
}
FIRST = 10_000
"""The first seed; the tests draw with smaller ones."""
DRAWN = {"topk": "top-1 to 3", "ec": "expert choice", "soft": "Soft MoE"}


def main(draws: Annotated[int, typer.Option(help="configurations drawn of each kind, in float32")] = 100) -> None:
    """Measure, store, and print the table."""
    torch.manual_seed(0)
    rows = [of_fixture(name) for name in track(FIXTURES, "stored")]
    rows += of_jax()
    rows += [of_draws(kind, draws) for kind in track(DRAWN, "drawn")]
    path = store("vmoe_parity", "parity", command="python benchmarks/vmoe_parity.py", rows=rows)
    print(f"{parity_table({'rows': rows})}\n\nwritten: {path}; python benchmarks/cards.py fills the documents")


def of_fixture(name: str) -> dict[str, Any]:
    """Greatest differences from one fixture."""
    arrays, _, _ = stored(name)
    model, images = model_of(name), nchw(arrays["input/image"])
    row: dict[str, Any] = {"case": f"{name}: {FIXTURES[name]}"}
    trained = "train/total_loss" in arrays
    noise = [arrays[key] for key in sorted(arrays) if key.startswith("noise/")]
    with told_noise(noise):
        parts, routings, logits = run(model.train(trained), images)
    row["blocks"] = max(
        far(part, arrays[f"inter/Encoder/encoderblock_{key[7:]}"])
        for key, part in parts.items()
        if key[:7] == "blocks."
    )
    row["logits"] = far(logits, arrays["out/logits"])
    counts = [differing(routing, told(arrays, i)) for i, routing in routings.items() if routing.slots is None]
    if counts:
        row["choices"], row["drops"], row["of"] = (sum(each) for each in zip(*counts, strict=True))
    if trained:
        main, aux = F.cross_entropy(logits, torch.from_numpy(arrays["input/labels"])), moezoo.aux_loss(model)
        row["losses"] = max(losses_of(arrays, routings, main, aux))
        (main + aux).backward()
        skipped = "" if model.moezoo_config.qk_norm else "SelfAttention/key/bias"
        row["gradients"] = max(
            float(np.abs(array - arrays[f"grad/{key}"]).max())
            for key, array in gradients_of(model).items()
            if not (skipped and key.endswith(skipped))
        )
    elif (STORED / f"{name}.logits_f64.npy").is_file():
        with torch.no_grad():
            row["float64"] = far(model.double()(images.double()), np.load(STORED / f"{name}.logits_f64.npy"))
    return row


def told(arrays: dict[str, Any], block: int) -> dict[str, Any]:
    prefix = f"route/encoderblock_{block}/"
    return {key.removeprefix(prefix): array for key, array in arrays.items() if key.startswith(prefix)}


def differing(routing: Any, expected: dict[str, Any]) -> tuple[int, int, int]:
    """Choices that differ, drops that differ, and of how many."""
    if "expert_index" in expected:
        choices = routing.expert_index.numpy() != expected["expert_index"].ravel()
        drops = (~routing.dropped.numpy()) != expected["kept"].ravel()
        return int(choices.sum()), int(drops.sum()), choices.size
    index = expected["top_items_index"]
    size = routing.num_tokens // len(index)
    wanted = np.zeros((routing.num_tokens, routing.num_experts), dtype=bool)
    for group, experts in enumerate(index):
        for expert, tokens in enumerate(experts):
            wanted[group * size + tokens, expert] = True
    found = np.zeros_like(wanted)
    kept = ~routing.dropped
    found[routing.token_index[kept].numpy(), routing.expert_index[kept].numpy()] = True
    return int((found != wanted).sum()), 0, index.size


def losses_of(arrays: dict[str, Any], routings: dict[int, Any], main: Any, aux: Any) -> Iterator[float]:
    """Differences of all losses."""
    yield far(main, arrays["train/main_loss"])
    yield far(aux, arrays["train/aux_loss_mean"])
    yield far(main + aux, arrays["train/total_loss"])
    losses = moezoo.moe.losses
    for i, routing in routings.items():
        metrics = f"metrics/encoderblock_{i}"
        if f"{metrics}/load_loss" in arrays:
            yield far(losses.importance_loss(routing), arrays[f"{metrics}/importance_loss"].mean())
            yield far(losses.load_loss(routing), arrays[f"{metrics}/load_loss"].mean())
            gshard = losses.load_balancing_loss(routing, first_choice=True)
            yield far(gshard, arrays[f"{metrics}/gshard_loss"].mean())


def of_jax() -> Iterator[dict[str, Any]]:
    """Of drawn configurations that JAX computed too, those in float32 and those whose experts are given bfloat16."""
    with np.load(STORED / "drawn.npz") as file:
        theirs = {key: file[key] for key in file.files}
    logits: dict[str, list[float]] = {"float32": [], "bfloat16": []}
    losses: dict[str, list[float]] = {"float32": [], "bfloat16": []}
    for seed in range(sum(key.endswith("sha256") for key in theirs)):
        drawn = draw(seed)
        model = (soft_moe if drawn.kind == "soft" else vmoe).from_jax(drawn.params, drawn.config)
        dispatch = model.moezoo_config.dispatch_dtype or "float32"
        noisy = getattr(model.moezoo_config, "router_noise", getattr(model.moezoo_config, "noise_std", 0.0)) > 0
        with torch.no_grad(), told_noise(drawn.noise.values() if noisy else ()):
            for mode in ("evaluation", "training"):
                found = model.train(mode == "training")(nchw(drawn.images))
                logits[dispatch].append(far(found, theirs[f"{seed}/{mode}/logits"]))
            losses[dispatch].append(far(moezoo.aux_loss(model), theirs[f"{seed}/training/auxiliary_loss"]))
    for kind, differences in logits.items():
        case = f"{len(losses[kind])} drawn configurations of all kinds, {kind} dispatch, evaluation and training"
        yield {"case": case, "logits": max(differences), "losses": max(losses[kind])}


def of_draws(kind: str, draws: int) -> dict[str, Any]:
    """Greatest differences from the float64 forward, with nothing rounded to bfloat16: what lies in the middle of two
    such numbers may go up in one and down in the other."""
    row: dict[str, Any] = {"blocks": 0.0, "logits": 0.0}
    counts, family = [], soft_moe if kind == "soft" else vmoe
    for seed in range(FIRST, FIRST + draws):
        drawn = draw(seed, kind, rounded=False)
        with torch.no_grad():
            model = family.from_jax(drawn.params, drawn.config, dispatch_dtype=None)
            parts, routings, logits = run(model, nchw(drawn.images))
        row["logits"] = max(row["logits"], far(logits, drawn.clean.logits))
        row["blocks"] = max(row["blocks"], *(far(parts[f"blocks.{i}"], b) for i, b in drawn.clean.blocks.items()))
        pairs = ((routings[i], route) for i, route in drawn.clean.routes.items())
        counts += [differing(routing, route) for routing, route in pairs if routing.slots is None]
    if counts:
        row["choices"], row["drops"], row["of"] = (sum(each) for each in zip(*counts, strict=True))
    return {"case": f"{draws} drawn configurations: {DRAWN[kind]} against an independent float64 forward", **row}


if __name__ == "__main__":
    typer.run(main)
