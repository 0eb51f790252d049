import io

from rich.console import Console

from moezoo.eval.routing import layer_load
from moezoo.train import EpochMetrics
from moezoo.train.progress import ProgressBar


def run(console, epochs=20):
    bar = ProgressBar("MoE", console)
    bar.start(epochs, 3)
    for epoch in range(1, epochs + 1):
        for _ in range(3):
            bar.step(0.5)
        metrics = EpochMetrics(epoch, 1e-3, 0.25, 0.0, 1.0, 0.5, epoch / 100, 1.0, ())
        bar.epoch(metrics, metrics)
    bar.stop()


def test_a_log_file_gets_ten_lines_over_the_run():
    file = io.StringIO()
    run(Console(file=file, width=80))
    lines = file.getvalue().splitlines()
    assert len(lines) == 10
    assert " ".join(lines[0].split()) == "MoE epoch 2/20 loss 0.250 val 2.0% best 2.0%"
    assert "20/20" in lines[-1]


def test_a_terminal_gets_one_bar_that_fits_into_80_columns():
    file = io.StringIO()
    run(Console(file=file, width=80, force_terminal=True, color_system=None))
    last = next(line for line in reversed(file.getvalue().splitlines()) if "MoE" in line)
    assert "✓ MoE" in last
    assert "epoch 20/20  loss 0.250  val 20.0%  best 20.0%" in last


def test_the_line_says_how_even_the_worst_layer_is_and_begins_where_a_resumed_run_does():
    file = io.StringIO()
    bar = ProgressBar("MoE", Console(file=file, width=80, force_terminal=True, color_system=None))
    bar.start(20, 3, done=30)
    bar.step(0.5, [layer_load("a", 8, [2, 2, 2, 2], 0), layer_load("b", 8, [8, 0, 0, 0], 0)])
    metrics = EpochMetrics(11, 1e-3, 0.25, 0.0, 1.0, 0.5, 0.989, 1.0, ())
    bar.epoch(metrics, metrics)
    bar.stop()
    last = next(line for line in reversed(file.getvalue().splitlines()) if "MoE" in line)
    assert "epoch 11/20  loss 0.250  val 98.9%  best 98.9%  load 0.00" in last
    assert len(last.replace("\x1b[2K", "")) <= 80


def test_a_score_that_is_no_accuracy_is_named():
    file = io.StringIO()
    bar = ProgressBar("MoE", Console(file=file, width=80))
    bar.start(1, 1)
    metrics = EpochMetrics(1, 1e-3, 0.25, 0.0, 1.0, 0.5, 0.25, 1.0, (), "recall_at_1")
    bar.epoch(metrics, metrics)
    assert "recall at 1 25.0%  best 25.0%" in file.getvalue()
    assert metrics.to_dict()["val_recall_at_1"] == 0.25
    assert EpochMetrics.from_dict(metrics.to_dict()) == metrics
