"""An MoE and its dense twin compared after training, for ``moezoo quickstart``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.table import Table

    from moezoo.train import TrainedRun

LATENCY_BATCH = 32


def compare(runs: Mapping[str, TrainedRun], *, baseline: str) -> dict[str, dict[str, Any]]:
    """Scores and cost of each model; the costs on the same test images, without text.

    Args:
        runs: Trained models by title.
        baseline: The title of the one whose latency the others' are divided by.
    """
    import torch

    from moezoo import measure
    from moezoo.cli.scores import scores_of

    some = next(iter(runs.values()))
    batch = _test_images(some)
    models = {title: run.model for title, run in runs.items()}
    timings = measure.latency(models, batch, rounds=30, baseline=baseline)
    figures = {}
    for title, run in runs.items():
        parameters = measure.parameters(run.model)
        timing = timings[title]
        routing = run.result.test.routing
        figures[title] = {
            "model": run.recipe.name,
            **{name: score.value for name, score in scores_of(run).items()},
            "parameters": parameters.total,
            "active_parameters": parameters.active,
            "executed_flops_per_image": measure.flops(run.model, batch).executed / len(batch),
            "latency_ms": timing.p50,
            "latency_ratio": timing.ratio,
            "latency_ratio_quartiles": [timing.ratio_low, timing.ratio_high],
            "latency_batch": len(batch),
            "threads": torch.get_num_threads(),
            "dead_experts": sum(len(load.dead_experts) for load in routing),
            "experts": sum(load.num_experts for load in routing),
            "seconds": run.result.seconds,
        }
    return figures


def comparison_table(figures: Mapping[str, Mapping[str, Any]], runs: Mapping[str, TrainedRun]) -> Table:
    from moezoo.cli.scores import scores_of
    from moezoo.eval.tables import plain_table

    table = plain_table("MoE and dense twin", "", *figures)
    columns = list(figures.values())

    def row(label: str, text, style: str = "") -> None:
        table.add_row(label, *(text(f) for f in columns), style=style)

    scores = [scores_of(run) for run in runs.values()]
    for name, score in scores[0].items():
        table.add_row(score.label, *(str(each[name]) for each in scores), style="bold" if score.main else "")
    row("parameters", lambda f: f"{f['parameters']:,}")
    row("active per token", lambda f: f"{f['active_parameters']:,}")
    row("executed FLOPs per image", lambda f: f"{f['executed_flops_per_image'] / 1e6:,.1f} M")
    row(f"latency, {columns[0]['latency_batch']} images", lambda f: f"{f['latency_ms']:.1f} ms")
    row("latency over the twin's", lambda f: f"{f['latency_ratio']:.2f} x")
    row("dead experts", lambda f: f"{f['dead_experts']} of {f['experts']}" if f["experts"] else "-")
    row("training time", lambda f: f"{f['seconds']:.0f} s")
    return table


def reloads_equal(run: TrainedRun) -> bool:
    """Whether the saved model, built anew from its folder, answers test images with the very same numbers."""
    import torch

    from moezoo import create_model

    batch = _test_images(run)
    again = create_model(f"local-dir:{run.folder}", pretrained=True).eval()
    with torch.no_grad():
        ours, theirs = (_tensors(model(batch)) for model in (run.model.eval(), again))
    same_words = getattr(run.model, "tokenizer", None) == getattr(again, "tokenizer", None)
    return same_words and len(ours) == len(theirs) > 0 and all(map(torch.equal, ours, theirs))


def _test_images(run: TrainedRun) -> Any:
    """(B, C, H, W): the first test images."""
    import torch

    test: Any = run.splits.test
    return torch.stack([test[i][0] for i in range(min(len(test), LATENCY_BATCH))])


def _tensors(answer: Any) -> list[Any]:
    """The numbers of an answer: a tensor, or a mapping that has some."""
    from torch import Tensor

    values = answer.values() if hasattr(answer, "values") and not isinstance(answer, Tensor) else [answer]
    return [value for value in values if isinstance(value, Tensor)]
