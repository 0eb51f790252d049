import io

from rich.console import Console

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
    assert " ".join(lines[0].split()) == "MoE epoch 2/20 loss 0.250 val 2.00% best 2.00%"
    assert "20/20" in lines[-1]


def test_a_terminal_gets_one_bar_that_fits_into_80_columns():
    file = io.StringIO()
    run(Console(file=file, width=80, force_terminal=True, color_system=None))
    last = next(line for line in reversed(file.getvalue().splitlines()) if "MoE" in line)
    assert "✓ MoE" in last
    assert "epoch 20/20  loss 0.250  val 20.00%  best 20.00%" in last
