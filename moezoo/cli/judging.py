"""The test part of a data set, judged behind a progress bar."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from moezoo.data import CaptionedSplits, ReidSplits, Splits
    from moezoo.eval import Evaluation
    from moezoo.train import Recipe


def judge_test(model: nn.Module, splits: Splits | CaptionedSplits | ReidSplits, recipe: Recipe) -> Evaluation:
    """What ``model`` makes of the test images, with the batches, workers and language of ``recipe``."""
    from moezoo.cli.counting import counted
    from moezoo.eval.part import evaluate_part, passes, sentences_for

    training = recipe.training
    images = passes(model, splits) * len(splits.test)  # type: ignore[arg-type]
    with counted("test images", images, logs=False) as done:
        return evaluate_part(
            model,
            splits,
            batch_size=2 * training.batch_size,
            num_workers=training.num_workers,
            sentences=sentences_for(model, splits, training.language),
            progress=done,
        )
