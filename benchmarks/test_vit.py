"""The weights of ``entity_moe/test_vit`` that come with the package: trained, measured and packed.

    python benchmarks/test_vit.py                # three seeds of the MoE and of its dense twin

The epoch is chosen on validation images and each model is tested once. The MoE of seed 0 is rounded to float16, tested
as it is stored, and replaces ``moezoo/weights/entity_moe-test_vit``; its card states what every seed reached.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from card_tables.models import seeds_table
from cards import RESULTS, store
from rich.console import Console
from rich.markdown import Markdown

import moezoo
from moezoo.eval import evaluate
from moezoo.hub.card import model_card
from moezoo.train import TrainedRun, resolve_recipe, train_recipe
from moezoo.train.progress import ProgressBar

NAME = "entity_moe/test_vit"
NAMES = {"MoE": NAME, "dense twin": f"{NAME}.dense"}
PACKAGED = Path(moezoo.__file__).parent / "weights" / NAME.replace("/", "-")

CARD = """
## Accuracy

{table}

The epoch was chosen on the 360 validation images, each model was tested once. The packaged weights are the MoE of
seed 0, rounded to float16: {packed:.2%} of the test images ({right} of {images}).

## How it was made

From scratch, on CPU, by `moezoo train {name}`; all seeds and this folder by
`python benchmarks/test_vit.py`. Data: the 1,797 images of 8 x 8 pixels that come with scikit-learn
(`sklearn.datasets.load_digits`, UCI "Optical Recognition of Handwritten Digits"), enlarged to 16 x 16; 60 % train,
20 % validation, 20 % test, stratified by class, rotated, shifted and zoomed at random in training.

The weights come with moezoo, nothing is fetched:

```python
import moezoo

model = moezoo.create_model("{name}", pretrained=True).eval()
```

## Limits

Made for tests, examples and trying things out, not to read digits with. The split is drawn over all images, so the
same writers occur in training and test. On average over the seeds the dense twin reads {difference:.1f} test images of
{images} {direction} than the MoE.

Images are one centred, upright digit, light on dark, scaled to [0, 1] and normalised with mean 0.5 and standard
deviation 0.5; it has seen nothing else.

## Files

| file | bytes | sha256 |
|---|---|---|
| model.safetensors | {size:,} | `{sha256}` |
"""


def main(
    seeds: Annotated[int, typer.Option(help="seeds 0 to N-1")] = 3,
    set_: Annotated[list[str] | None, typer.Option("--set", help="key=value over the recipe; may be repeated")] = None,
    out: Annotated[Path, typer.Option(help="the folder to write")] = PACKAGED,
) -> None:
    """Train every seed of both models and pack the first MoE."""
    console = Console()
    accuracy: dict[str, list[float]] = {title: [] for title in NAMES}
    first = None
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(seeds):
            for title, name in NAMES.items():
                recipe = resolve_recipe(
                    name, assignments=["training.device=cpu", *(set_ or []), f"training.seed={seed}"]
                )
                bar = ProgressBar(f"{title} {seed}", console)
                run = train_recipe(recipe, Path(folder) / f"{title}-{seed}", observer=bar)
                accuracy[title].append(run.result.test.classification.top1)
                console.print(f"{title}, seed {seed}: {accuracy[title][-1]:.2%} in {run.result.seconds:.0f} s")
                first = first or run
        assert first is not None
        result = {
            "command": "python benchmarks/test_vit.py",
            "data": "digits",
            "images": len(first.splits.test),
            "seeds": list(range(seeds)),
            "models": {title: {"test_accuracy": tests} for title, tests in accuracy.items()},
        }
        pack(first, result, out)
    # Only the package's own weights are on the card.
    stored = store("test_vit", "seeds", folder=RESULTS if out == PACKAGED else out, **result)
    console.print(Markdown(seeds_table(result)))
    console.print(f"written: {out} and {stored}; python benchmarks/cards.py fills the documents", soft_wrap=True)


def pack(run: TrainedRun, result: dict[str, Any], out: Path) -> None:
    """Store a trained model in float16, with what the stored weights reach on the test images."""
    splits = run.splits
    moezoo.save_pretrained(run.model.half(), out, label_names=splits.label_names)
    stored = moezoo.create_model(f"local-dir:{out}", pretrained=True)
    tested = evaluate(stored, splits.test, label_names=splits.label_names).classification
    metrics = {
        "dataset": splits.name,
        "test_top1": round(tested.top1, 4),
        "val_top1": round(run.result.best.val_accuracy, 4),
        "test_calibration_error": round(tested.calibration_error, 4),
        "epochs": run.recipe.training.epochs,
        "seed": run.recipe.training.seed,
    }
    moezoo.save_pretrained(run.model, out, metrics=metrics, label_names=splits.label_names)
    text = card(out, result, tested.top1)
    (out / "README.md").write_text(text, encoding="utf-8")


def card(folder: Path, result: dict[str, Any], packed: float) -> str:
    """The README.md of the packed folder: the card of any saved model, and what is known of this one."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    images = result["images"]
    moe, twin = (statistics.mean(result["models"][title]["test_accuracy"]) for title in NAMES)
    more = images * (twin - moe)
    text = CARD.format(
        table=seeds_table(result),
        name=NAME,
        packed=packed,
        right=round(packed * images),
        images=images,
        difference=abs(more),
        direction="more" if more > 0 else "fewer",
        size=(folder / "model.safetensors").stat().st_size,
        sha256=config["weights_sha256"],
    )
    return model_card(config, {"license": "mit"}).rstrip("\n") + "\n" + text


if __name__ == "__main__":
    torch.set_num_threads(1)  # the tensors are small, threads gain nothing
    typer.run(main)
