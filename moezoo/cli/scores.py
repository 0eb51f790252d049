"""What a finished run achieved, as rows of a table: as its task asks."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from rich.console import Console

    from moezoo.eval import Evaluation
    from moezoo.train import TrainedRun, TrainingResult


class Score(NamedTuple):
    """One row."""

    label: str
    value: float
    share: bool = True
    """A fraction, shown in per cent."""
    main: bool = False

    def __str__(self) -> str:
        return f"{self.value:.2%}" if self.share else f"{self.value:.1f}"


def scores_of(run: TrainedRun) -> dict[str, Score]:
    """By their names in ``comparison.json``."""
    best, test = run.result.best, run.result.test
    images = f"{len(run.splits.test)} images"  # type: ignore[arg-type]
    scores: dict[str, Score] = {}
    if best.judged_on == "val":
        scores[f"val_{best.score_name}"] = Score(f"validation {best.score_name.replace('_', ' ')}", best.score)
    if (found := test.classification) is not None:
        scores["test_accuracy"] = Score(f"test accuracy, {images}", found.top1, main=True)
    if (text := test.text) is not None:
        scores["test_zero_shot"] = Score("zero-shot accuracy", text.zero_shot)
        scores["label_text_upper_bound"] = Score("label_text_upper_bound", text.label_text_upper_bound)
    if (both := test.retrieval) is not None:
        ways = {"image_to_text": both.image_to_text, "text_to_image": both.text_to_image}
        for way, recall in ways.items():
            words = way.replace("_", " ")
            scores[f"test_{way}_r1"] = Score(f"test {words} R@1, {images}", recall.r1, main=True)
            scores[f"test_{way}_r5"] = Score(f"test {words} R@5", recall.r5)
            scores[f"test_{way}_median_rank"] = Score(f"test {words} median rank", recall.median_rank, share=False)
    if (found_again := test.reid) is not None:
        scores["test_mAP"] = Score(f"test mAP, {images}", found_again.mAP, main=True)
        scores |= {f"test_r{k}": Score(f"test Rank-{k}", getattr(found_again, f"r{k}")) for k in (1, 5, 10)}
        scores["test_mINP"] = Score("test mINP", found_again.mINP)
    if (written := test.captions) is not None:
        scores["test_exact_match"] = Score(f"test exact match, {images}", written.exact_match, main=True)
        scores["test_bleu"] = Score("test BLEU", written.bleu, share=False)
        scores["test_chrf"] = Score("test chrF", written.chrf, share=False)
    return scores


def print_test(console: Console, test: Evaluation, title: str) -> None:
    """The main tables of a test; ``moezoo eval`` has all of them."""
    from moezoo.cli.report import print_report

    print_report(console, test, title, brief=True)


def other_epochs(result: TrainingResult) -> list[str]:
    """What re-identification says beside the test of the kept epoch: the last one's, or what the test would choose."""
    lines = []
    if result.last is not None and result.last is not result.test and (last := result.last.reid) is not None:
        lines.append(f"Last epoch ({len(result.history)}): test mAP {last.mAP:.2%}, Rank-1 {last.r1:.2%}")
    if (best := result.best_on_test) is not None:
        lines.append(
            f"Best epoch on the test ({best.epoch}), chosen on the test part: {best.score_name} {best.score:.2%}"
        )
    return lines
