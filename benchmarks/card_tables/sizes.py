"""Parameters and executed FLOPs of registered models."""

from __future__ import annotations

from typing import Any

from card_tables.text import flops, markdown


def sizes_table(data: dict[str, Any]) -> str:
    """Parameters and executed FLOPs, beside the plain backbone's, or the dense twin's of models without one."""
    if "modalities" in data["rows"][0]:
        return _sighting_sizes(data["rows"])
    if "twin_parameters" in data["rows"][0]:
        return _twin_sizes(data["rows"])
    if "flops_at_0" in data["rows"][0]:
        return _dial_sizes(data["rows"])
    head = ["model", "blocks", "parameters", "active per token", "backbone", "FLOPs per image", "backbone", "ratio"]
    rows = [
        [
            f"`{row['model']}`",
            str(row["blocks"]),
            *(f"{row[key] / 1e6:.1f} M" for key in ("parameters", "active", "backbone_parameters")),
            *(f"{row[key] / 1e9:.2f} G" for key in ("flops", "backbone_flops")),
            f"{row['flops'] / row['backbone_flops']:.2f} x",
        ]
        for row in data["rows"]
    ]
    return markdown(head, rows)


def _twin_sizes(rows: list[dict[str, Any]]) -> str:
    head = ["model", "MoE layers", "parameters", "active per token", "twin", "FLOPs per image", "twin"]
    told = "text_flops" in rows[0]
    head += ["FLOPs with text", "twin"] if told else []
    cells = [
        [
            f"`{row['model']}`",
            str(row["layers"]),
            *(f"{row[key] / 1e6:.2f} M" for key in ("parameters", "active", "twin_parameters")),
            *(flops(row[key]) for key in ("flops", "twin_flops", "text_flops", "twin_text_flops")[: 4 if told else 2]),
        ]
        for row in rows
    ]
    return markdown(head, cells, right=len(head) - 1)


def _dial_sizes(rows: list[dict[str, Any]]) -> str:
    head = ["model", "routed layers", "parameters", "without small MLPs", "FLOPs per image, budget 0", "at the target"]
    head += ["budget 1", "without small MLPs"]
    cells = [
        [
            f"`{row['model']}`",
            str(row["layers"]),
            *(f"{row[key] / 1e6:.2f} M" for key in ("parameters", "plain_parameters")),
            flops(row["flops_at_0"]),
            f"{flops(row['flops'])} ({row['target']:.0%})",
            *(flops(row[key]) for key in ("flops_at_1", "plain_flops")),
        ]
        for row in rows
    ]
    return markdown(head, cells, right=len(head) - 1)


def _sighting_sizes(rows: list[dict[str, Any]]) -> str:
    parts = ("backbone", "windows", "fusion", "classifiers")
    head = ["model", "modalities", "parameters", *parts, "FLOPs per sighting", "backbone's", "dense twin's"]
    cells = [
        [
            f"`{row['model']}`",
            str(row["modalities"]),
            *(f"{row[key] / 1e6:.2f} M" for key in ("parameters", *(f"{part}_parameters" for part in parts))),
            *(flops(row[key]) for key in ("flops", "backbone_flops", "twin_flops")),
        ]
        for row in rows
    ]
    return markdown(head, cells, right=len(head) - 1)
