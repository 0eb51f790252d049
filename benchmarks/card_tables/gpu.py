"""Times on a GPU: of one layer beside its dense floor, and of whole models beside their dense twins."""

from __future__ import annotations

from typing import Any

from moe_tables import COMPILED, EAGER, OURS, exact
from moe_timing import paired

from card_tables.text import markdown

AUTO = f"{OURS}auto"
NAMES = {"bfloat16": "bf16", "float32": "fp32", "autocast": "fp32, autocast to bf16"}


def layer_table(data: dict[str, Any]) -> str:
    """Every cell in one row: times over the dense floor's."""
    head = ["workload", "types", "mode", "dense, ms (TFLOP/s)", "moezoo", "its fastest path", "transformers grouped"]
    head += ["transformers eager", "naive mask", "compiled: moezoo", "compiled: transformers"]
    head += ["memory of moezoo", "host, ms"]
    table = markdown(head, [_layer_row(cell) for cell in sorted(data["cells"], key=_place)], right=len(head) - 3)
    return (
        f"{table}\n\nTimes over the dense MLP's on as many rows, median of {data['rounds']} rounds (a third of them "
        "in fp32) with its 90 % bootstrap interval; the compiled ones over the compiled dense MLP's. Memory: the most "
        "that a call holds above what was there, over the dense MLP's; a training step's gradients are in it. Host: "
        "until the call returns; near the device's time it waits for the device, or the device for its launches."
    )


def _place(cell: dict[str, Any]) -> tuple[Any, ...]:
    work = cell["workload"]
    return -work["tokens"], -work["dim"], work["name"], list(NAMES).index(cell["dtype"]), cell["mode"]


def _layer_row(cell: dict[str, Any]) -> list[str]:
    work, rows, samples = cell["workload"], cell["rows"], cell["samples"]
    dense = paired(samples[EAGER], [1.0] * len(samples[EAGER])).median
    products = 4 * work["tokens"] * work["top_k"] * work["dim"] * work["hidden"] * (3 if cell["mode"] == "train" else 1)
    line = [work["name"], NAMES[cell["dtype"]], cell["mode"], f"{dense:.2f} ({products / dense / 1e9:.0f})"]
    by_hand = [name for name in samples if _own_path(name) and exact(cell, name)]
    fastest = min(by_hand, key=lambda name: paired(samples[name], samples[EAGER]).median, default=None)
    line.append(_over(cell, AUTO, EAGER, interval=True))
    line.append(f"{fastest.removeprefix(OURS)} {_over(cell, fastest, EAGER)}" if fastest else "-")
    line += [_over(cell, name, EAGER) for name in ("transformers_grouped", "transformers_eager", "naive_mask")]
    line += [_over(cell, f"{name} compiled", COMPILED) for name in (AUTO, "transformers_grouped")]
    peaks = [rows.get(name, {}).get("peak_bytes") for name in (AUTO, EAGER)]
    line.append(f"{peaks[0] / peaks[1]:.2f} x" if all(peaks) else "-")
    host = rows.get(AUTO, {}).get("host_ms")
    return [*line, "-" if host is None else f"{host:.2f}"]


def _own_path(name: str) -> bool:
    return name.startswith(OURS) and " " not in name.removeprefix(OURS) and name != AUTO


def _over(cell: dict[str, Any], name: str, base: str, *, interval: bool = False) -> str:
    samples = cell["samples"]
    if name not in samples or base not in samples:
        return "failed" if cell["absent"].get(name, "").startswith("failed") else "-"
    ratio = paired(samples[name], samples[base])
    text = f"{ratio.median:.2f} x" + (f" ({ratio.low:.2f} to {ratio.high:.2f})" if interval else "")
    return text if exact(cell, name) else f"{text}, another function"


def models_table(data: dict[str, Any]) -> str:
    """Images a second and peak memory of models, and their times over their twins'."""
    head = ["model", "images", "active parameters over the twin's", "executed FLOPs over the twin's"]
    head += ["inference, images/s", "time over the twin's", "training, images/s", "time over the twin's"]
    head += ["peak of a training step, GiB (twin)", "compiled: inference", "compiled: training"]
    rows = []
    for row in data["rows"]:
        shares = [f"{row[key]:.2f} x" if key in row else "-" for key in ("active", "flops")]
        line = [row["model"], str(row["batch"]), *shares]
        for mode in ("infer", "train"):
            found = row.get(mode, {})
            line += [f"{found['images_per_s']:,.0f}", _ratio(found)] if "over" in found else [_failed(found), "-"]
        peaks = [row.get(key) for key in ("peak_gib", "twin_peak_gib")]
        line.append(f"{peaks[0]:.1f} ({peaks[1]:.1f})" if all(peaks) else "-")
        for mode in ("infer", "train"):
            found = row.get(f"{mode}_compiled", {})
            line.append(_ratio(found) if "over" in found else _failed(found))
        rows.append(line)
    return (
        f"{markdown(head, rows, right=len(head) - 1)}\n\nFresh weights, random images; inference with weights in "
        "bfloat16, training under autocast to it: forward, losses, backward and AdamW. Median of "
        f"{data['rounds']} interleaved rounds with its 90 % bootstrap interval; compiled ones (block by block) over "
        "the compiled twin's."
    )


def _ratio(found: dict[str, Any]) -> str:
    return f"{found['over']:.2f} x ({found['low']:.2f} to {found['high']:.2f})"


def _failed(found: dict[str, Any]) -> str:
    return found.get("failed", "-")
