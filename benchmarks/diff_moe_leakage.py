"""What the text of the true class gives away: noise as images, true sentences beside them.

    python benchmarks/diff_moe_leakage.py            # some minutes on two cores

Trains ``diff_moe/digits`` with its sentences, then evaluates it on images of pure noise, each with a label and that
label's true sentence in the data set. Nothing can be seen in them, so an honest accuracy is chance. Fed the sentence of
the true class, as ``label_text_upper_bound`` is, the model may well read the label off the text. Writes
``results/diff_moe_leakage.json``.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Annotated

import torch
import typer
from card_tables.models import leakage_table
from cards import RESULTS, store
from rich.console import Console
from rich.markdown import Markdown

from moezoo.data import ImageTensors
from moezoo.data.text import class_sentences
from moezoo.eval import evaluate_text
from moezoo.train import resolve_recipe, train_recipe
from moezoo.train.progress import ProgressBar

NAME = "diff_moe/digits"


def main(
    images: Annotated[int, typer.Option(min=10, help="of noise")] = 4000,
    seed: Annotated[int, typer.Option(help="of the training and the noise")] = 0,
    set_: Annotated[list[str] | None, typer.Option("--set", help="key=value over the recipe; may be repeated")] = None,
    out: Annotated[Path, typer.Option(help="folder of diff_moe_leakage.json")] = RESULTS,
) -> None:
    """Train, evaluate on the test images and on noise, print and store."""
    console = Console()
    recipe = resolve_recipe(NAME, assignments=[*(set_ or []), f"training.seed={seed}"])
    with tempfile.TemporaryDirectory() as folder:
        run = train_recipe(recipe, Path(folder), observer=ProgressBar(NAME, console))
    model, splits = run.model.eval(), run.splits
    shape = tuple(splits.test[0][0].shape)
    noise = torch.randn(images, *shape, generator=torch.Generator().manual_seed(seed))
    labels = torch.arange(images) % splits.num_classes
    sentences = class_sentences(splits.label_names)
    rows = []
    for title, data in (
        (f"{len(splits.test)} test images", splits.test),
        (f"{images} images of noise", ImageTensors(noise, labels)),
    ):
        report = evaluate_text(model, data, sentences, batch_size=64)
        rows.append(
            {
                "images": title,
                "image_only": report.image_only,
                "zero_shot": report.zero_shot,
                "label_text_upper_bound": report.label_text_upper_bound,
            }
        )
    asked = [f"--images {images}"] * (images != 4000) + [f"--seed {seed}"] * (seed != 0)
    path = store(
        "diff_moe_leakage",
        "leakage",
        folder=out,
        command=" ".join(["python benchmarks/diff_moe_leakage.py", *asked, *(f"--set {pair}" for pair in set_ or [])]),
        model=NAME,
        seeds=[seed],
        chance=1 / splits.num_classes,
        rows=rows,
    )
    console.print(Markdown(leakage_table(json.loads(path.read_text(encoding="utf-8")))))
    console.print(f"written: {path}; python benchmarks/cards.py fills the documents", soft_wrap=True)


if __name__ == "__main__":
    typer.run(main)
