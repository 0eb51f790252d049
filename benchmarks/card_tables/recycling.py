"""What experts start from, and what it is worth after a short fine-tuning."""

from __future__ import annotations

import statistics
from typing import Any

from card_tables.text import deviation, markdown


def recycling_table(data: dict[str, Any]) -> str:
    """A line for each way."""
    head = ["experts start as", "test accuracy", "loss in the first epoch", "MFLOPs an image", "parameters"]
    rows = [
        [
            way,
            deviation(row["test_accuracy"]),
            f"{statistics.mean(row['first_loss']):.3f}",
            f"{row['mflops']:.2f}",
            f"{row['parameters'] / 1e6:.3f} M",
        ]
        for way, row in data["ways"].items()
    ]
    said = (
        f"A dense ViT of four blocks learnt the digits 0 to 4 ({statistics.mean(data['source_accuracy']):.1%}); its "
        f"last two MLPs became SpheroMoE layers, and all of it learnt the digits 5 to 9 from {data['train_images']} "
        f"images in {data['tuning_epochs']} epochs; {data['test_images']} test images."
    )
    return f"{markdown(head, rows, right=4)}\n\n{said}"
