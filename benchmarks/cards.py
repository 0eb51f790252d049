"""The tables of the documents, written from the results that the other scripts store as JSON.

    python benchmarks/cards.py            # rewrite the tables that have changed
    python benchmarks/cards.py --check    # change nothing; exit code 1 if a table is not what its result says

A document holds a table between ``<!-- table: NAME -->`` and ``<!-- /table -->``, where NAME is a file in ``results/``,
or ``config_FAMILY`` for the fields that matter of a family's configuration.
"""

from __future__ import annotations

import dataclasses
import json
import re
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"
DOCUMENTS = ("README.md", "MODEL_CARDS.md", "benchmarks/RESULTS.md")
BEGIN, END = re.compile(r"<!-- table: (\S+) -->\n"), "<!-- /table -->"

FIELDS = {
    "entity_moe": (
        "num_experts",
        "num_experts_shared",
        "expert_k",
        "inject_layers",
        "mlp_ratio",
        "expert_dim",
        "expert",
        "router",
        "normalize",
        "entities",
        "window_size",
        "num_slots",
        "capacity_factor",
        "load_balance_weight",
        "router_z_weight",
        "importance_weight",
        "dense",
    ),
    "diff_moe": (
        "img_size",
        "patch_size",
        "in_channels",
        "embed_dim",
        "num_general_experts",
        "num_modality_specific_experts",
        "top_k",
        "num_heads",
        "img_encoder_layers",
        "text_encoder_layers",
        "fusion",
        "fusion_layers",
        "num_classes",
        "dropout",
        "activation",
        "layer_norm_eps",
        "initializer_range",
        "use_gradient_checkpointing",
        "vocab_size",
        "max_text_len",
        "text_embed_dim",
        "router_z_loss_weight",
        "router_balance_loss_weight",
        "cross_modal_alignment_weight",
        "contrastive_loss_weight",
        "z_loss_type",
        "balance_loss_type",
        "layer_reduction",
        "temperature_init",
        "dense",
    ),
    "attention_routing": (
        "img_size",
        "patch_grid_size",
        "in_channels",
        "num_classes",
        "encoder_channels",
        "encoder_layers",
        "attention_hidden",
        "router_mode",
        "threshold_init",
        "temperature",
        "temperature_final",
        "fraction",
        "big_hidden_dim",
        "big_layers",
        "small_hidden_dim",
        "small_layers",
        "embed_dim",
        "big_input",
        "small_input",
        "crop_context",
        "aggregator",
        "aggregator_dim",
        "dropout",
        "budget_target",
        "budget_weight",
        "budget_scope",
        "budget_anneal",
        "compute",
        "dense",
    ),
}
"""The fields on a family's card; ``moezoo info`` shows all of them."""


def main(
    check: Annotated[
        bool, typer.Option("--check", help="change nothing, exit with 1 if something would change")
    ] = False,
) -> None:
    """Fill every table of every document."""
    changed = []
    for name in DOCUMENTS:
        path = ROOT / name
        before = path.read_text(encoding="utf-8")
        after = fill(before, where=name)
        if after != before:
            changed.append(name)
            if not check:
                path.write_text(after, encoding="utf-8")
    print(f"{'out of date' if check else 'rewritten'}: {', '.join(changed) or 'nothing'}")
    raise typer.Exit(bool(check and changed))


def fill(text: str, *, where: str) -> str:
    """``text`` with the content of every table made anew."""
    parts, place = [], 0
    for begin in BEGIN.finditer(text):
        end = text.find(END, begin.end())
        if end < 0 or "<!-- table:" in text[begin.end() : end]:
            raise ValueError(f"{where}: the table {begin[1]!r} has no end {END!r}")
        parts += [text[place : begin.end()], table(begin[1]), "\n"]
        place = end
    return "".join(parts) + text[place:]


def table(name: str) -> str:
    """One table and, below it, where its figures come from."""
    if name.startswith("config_"):
        return config_table(name.removeprefix("config_"))
    data = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return f"{KINDS[data['kind']](data)}\n\n{source(data)}"


def store(name: str, kind: str, *, folder: Path = RESULTS, **data: Any) -> Path:
    """Write a result that ``kind`` of table shows, with the machine it was measured on."""
    from moezoo.measure.machine import machine

    here = dataclasses.asdict(machine())
    here["torch"] = here["torch"].partition("+")[0]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    text = json.dumps({"kind": kind, **data, "machine": here}, indent=2, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")
    return path


def source(data: dict[str, Any]) -> str:
    """The command, the seeds, the machine and torch, in one line."""
    parts = [f"`{data['command']}`"]
    if "seeds" in data:
        first, *rest = data["seeds"]
        parts.append(f"seeds {first} to {rest[-1]}" if rest else f"seed {first}")
    here = data["machine"]
    if data["kind"] != "sizes":  # counts are the same everywhere
        parts.append(here["processor"])
        parts += [f"{here[of]} {of if here[of] > 1 else of[:-1]}" for of in ("cores", "threads") if of in here]
    parts += [f"torch {here['torch']}"] if "torch" in here else []
    return f"{'; '.join(parts)}."


def config_table(family: str) -> str:
    """Fields of a family's configuration with their defaults and what they mean."""
    import moezoo

    name = moezoo.list_models(family=family)[0]
    fields = {field.name: field for field in dataclasses.fields(moezoo.model_config(name))}
    rows = [[f"`{name}`", _default(fields[name].default), fields[name].metadata["help"]] for name in FIELDS[family]]
    return _markdown(["field", "default", "meaning"], rows)


def sizes_table(data: dict[str, Any]) -> str:
    """Parameters and executed FLOPs, beside the plain backbone's, or the dense twin's of models without one."""
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
    return _markdown(head, rows)


def _twin_sizes(rows: list[dict[str, Any]]) -> str:
    head = ["model", "MoE layers", "parameters", "active per token", "twin", "FLOPs per image", "twin"]
    head += ["FLOPs with text", "twin"]
    cells = [
        [
            f"`{row['model']}`",
            str(row["layers"]),
            *(f"{row[key] / 1e6:.2f} M" for key in ("parameters", "active", "twin_parameters")),
            *(_flops(row[key]) for key in ("flops", "twin_flops", "text_flops", "twin_text_flops")),
        ]
        for row in rows
    ]
    return _markdown(head, cells, right=len(head) - 1)


def _dial_sizes(rows: list[dict[str, Any]]) -> str:
    head = ["model", "routed layers", "parameters", "without small MLPs", "FLOPs per image, budget 0", "at the target"]
    head += ["budget 1", "without small MLPs"]
    cells = [
        [
            f"`{row['model']}`",
            str(row["layers"]),
            *(f"{row[key] / 1e6:.2f} M" for key in ("parameters", "plain_parameters")),
            _flops(row["flops_at_0"]),
            f"{_flops(row['flops'])} ({row['target']:.0%})",
            *(_flops(row[key]) for key in ("flops_at_1", "plain_flops")),
        ]
        for row in rows
    ]
    return _markdown(head, cells, right=len(head) - 1)


def comparison_table(data: dict[str, Any]) -> str:
    """A model beside its dense twin: accuracy over the seeds and cost."""
    models: dict[str, dict[str, Any]] = data["models"]
    seeds = len(data["seeds"])

    def row(label: str, text: Callable[[dict[str, Any]], str]) -> list[str]:
        return [label, *map(text, models.values())]

    def latency(model: dict[str, Any]) -> str:
        low, high = model["latency_quartiles"]
        return f"{model['latency_ratio']:.2f} x ({low:.2f} to {high:.2f})"

    return _markdown(
        [f"{data['data']}, {data['images']} test images, {seeds} seeds", *models],
        [
            row("test accuracy, mean (lowest to highest)", lambda model: _spread(model["test_accuracy"])),
            row("parameters", lambda model: f"{model['parameters']:,}"),
            row("active per token", lambda model: f"{model['active']:,}"),
            row("executed FLOPs per image", lambda model: f"{model['mflops']:.1f} M"),
            row(f"latency over the twin's, {data['batch']} images (quartiles)", latency),
        ],
    )


def seeds_table(data: dict[str, Any]) -> str:
    """The accuracy of every seed, a column per model."""
    models: dict[str, dict[str, Any]] = data["models"]
    rows = [
        [f"seed {seed}", *(f"{model['test_accuracy'][i]:.2%}" for model in models.values())]
        for i, seed in enumerate(data["seeds"])
    ]
    rows.append(["mean (lowest to highest)", *(_spread(model["test_accuracy"]) for model in models.values())])
    return _markdown([f"{data['data']}, {data['images']} test images", *models], rows)


def memory_table(data: dict[str, Any]) -> str:
    """The most memory that a step held."""
    rows = [
        [row["case"], *(["", row["failed"]] if "failed" in row else [_millions(row), f"{row['peak_gib']:.1f} GiB"])]
        for row in data["rows"]
    ]
    return _markdown([data["title"], "parameters", "peak memory"], rows, right=2)


def saved_table(data: dict[str, Any]) -> str:
    """What a step kept for its backward pass, and the most memory it held."""

    def cells(row: dict[str, Any]) -> list[str]:
        if "failed" in row:
            return ["", "", row["failed"]]
        return [_millions(row), f"{row['saved_mib']:.0f} MiB", f"{row['peak_gib']:.1f} GiB"]

    text = _markdown(
        [data["title"], "parameters", "saved for backward", "peak memory"],
        [[row["case"], *cells(row)] for row in data["rows"]],
        right=3,
    )
    pair = data["rows"][:2]  # the same model with and without recomputing
    if len(pair) < 2 or any("failed" in row for row in pair):
        return text
    return f"{text}\n\nKept by recomputing: {pair[0]['saved_mib'] / pair[1]['saved_mib']:.2f} x the bytes."


SCORES = {
    "accuracy": "accuracy, image only",
    "zero_shot": "accuracy, zero-shot",
    "image_to_text_r1": "R@1, image to text",
    "text_to_image_r1": "R@1, text to image",
    "exact_match": "captions that are true word for word",
    "label_text_upper_bound": "`label_text_upper_bound` (no accuracy)",
}
"""Rows of a table of variants, where they have a figure; the first one is tested."""


def variants_table(data: dict[str, Any]) -> str:
    """A model beside itself without parts of what it learns from: mean and standard deviation over the seeds."""
    variants: dict[str, dict[str, Any]] = data["variants"]

    def row(label: str, key: str, text: Callable[[Sequence[Any]], str]) -> list[str]:
        given = [v.get(key) for v in variants.values()]
        return [label, *("-" if values is None or None in values else text(values) for values in given)]

    first = next(iter(variants.values()))
    rows = [row(label, key, _deviation) for key, label in SCORES.items() if first[key][0] is not None]
    tested = f"p against {next(iter(variants))}: {SCORES[data['tested']]}"
    rows.append([tested, *(_p_value(v.get("p_value")) for v in variants.values())])
    rows += [
        row("load entropy of the experts (1 is even)", "load_entropy", lambda v: f"{statistics.mean(v):.3f}"),
        ["dead experts, all seeds", *map(_dead, variants.values())],
        row("executed FLOPs per image, text left out", "mflops", lambda v: f"{statistics.mean(v):.1f} M"),
        row("parameters", "parameters", lambda v: f"{v[0]:,}"),
        row("active per token", "active", lambda v: f"{v[0]:,}"),
    ]
    images, seeds = first["test_images"][0], len(data["seeds"])
    head = f"{data['data']}, {images} test images, {seeds} seed{'s' * (seeds > 1)}"
    table_ = _markdown([head, *variants], rows)
    return f"{table_}\n\nMean ± standard deviation; p: {data['test']}."


def leakage_table(data: dict[str, Any]) -> str:
    """Accuracies on images of noise with true sentences, beside the test images'."""
    keys = ("image_only", "zero_shot", "label_text_upper_bound")
    head = [f"`{data['model']}`, chance {data['chance']:.0%}", *(SCORES.get(k, "accuracy, image only") for k in keys)]
    return _markdown(head, [[row["images"], *(f"{row[key]:.2%}" for key in keys)] for row in data["rows"]])


def step_table(data: dict[str, Any]) -> str:
    """A training step by three ways to compute the mixtures."""

    def cells(what: dict[str, Any]) -> list[str]:
        low, high = what["quartiles"]
        ratio = f"{what['over_ours']:.2f} x ({what['interval'][0]:.2f} to {what['interval'][1]:.2f})"
        return [f"{what['ms']:,.0f} ({low:,.0f} to {high:,.0f})", ratio]

    return _markdown(
        [
            f"`{data['model']}`, {data['batch']} images, {data['rounds']} rounds",
            *("a step, ms (quartiles)", "over moezoo", "the mixtures alone, ms (quartiles)", "over moezoo"),
        ],
        [[way, *cells(data["step"][way]), *cells(data["mixtures"][way])] for way in data["step"]],
        right=4,
    )


def routed_table(data: dict[str, Any]) -> str:
    """Models that choose where to compute, beside those that do not: a row per variant."""
    variants: dict[str, dict[str, Any]] = data["variants"]
    first = next(iter(variants.values()))
    images, seeds = first["test_images"][0], len(data["seeds"])

    def flops(variant: dict[str, Any], key: str) -> str:
        middle, high = (statistics.mean(each[of] for each in variant[key]) for of in ("p50", "p95"))
        return f"{_flops(middle)} / {_flops(high)}"

    def share(variant: dict[str, Any]) -> str:
        return f"{statistics.mean(each['p50'] for each in variant['flops']) / data['full_flops']:.0%}"

    def ratio(variant: dict[str, Any]) -> str:
        if None in variant["ratio"]:
            return "-"
        mean, sd = (statistics.mean(each[of] for each in variant["ratio"]) for of in ("mean", "sd"))
        return f"{mean:.1%} ± {sd:.1%}"

    def box(variant: dict[str, Any]) -> str:
        if None in variant["box"]:
            return "-"
        return f"{statistics.mean(each['lift'] for each in variant['box']):.1f} x"

    boxes = any(None not in variant["box"] for variant in variants.values())
    head = [f"{data['data']}, {images} test images, {seeds} seed{'s' * (seeds > 1)}", "accuracy", "over full, points"]
    head += ["cells through the big MLP", "FLOPs per image, p50 / p95", "of full", "the same without the encoder"]
    head += ["in the digit's box, over chance"] if boxes else []
    rows = [
        [
            name,
            _deviation(variant["accuracy"]),
            "-" if not any(variant["over_full"]) else f"{100 * statistics.mean(variant['over_full']):+.2f}",
            ratio(variant),
            flops(variant, "flops"),
            share(variant),
            flops(variant, "without_encoder"),
            *([box(variant)] if boxes else []),
        ]
        for name, variant in variants.items()
    ]
    note = "Mean ± standard deviation: of accuracies over the seeds, of cells over the images."
    return f"{_markdown(head, rows, right=len(head) - 1)}\n\n{note}"


def dial_table(data: dict[str, Any]) -> str:
    """One trained model at several budgets."""
    seeds = len(data["seeds"])
    head = [f"{data['data']}, {data['test_images']} test images, {seeds} seed{'s' * (seeds > 1)}"]
    head += ["cells through the big MLP", "accuracy", "FLOPs per image, p50"]
    points = [("as trained", data["trained"]), *((f"budget {p['budget']:g}", p) for p in data["points"])]
    rows = [
        [
            name,
            f"{statistics.mean(point['ratio']):.1%}",
            _deviation(point["accuracy"]),
            _flops(statistics.mean(point["flops"])),
        ]
        for name, point in points
    ]
    return _markdown(head, rows, right=3)


def clock_table(data: dict[str, Any]) -> str:
    """Time and FLOPs over full compute's, ratio by ratio."""

    def over(what: dict[str, Any], i: int) -> str:
        low, high = what["intervals"][i]
        return f"{what['over_full'][i]:.2f} x ({low:.2f} to {high:.2f})"

    head = [f"`{data['model']}`, {data['batch']} images, {data['rounds']} rounds", "executed FLOPs over full compute's"]
    head += ["inference, time over full compute's", "training step, time over full compute's"]
    rows = [
        [f"{ratio:.0%} of the cells", f"{data['flops'][i]:.2f} x", over(data["inference"], i), over(data["step"], i)]
        for i, ratio in enumerate(data["ratios"])
    ]
    times = [f"{data[what]['full_ms']:,.1f} ms" for what in ("inference", "step")]
    rows.append(["full compute", _flops(data["full_flops"]), *times])
    return _markdown(head, rows, right=3)


def vit_clock_table(data: dict[str, Any]) -> str:
    """Time and FLOPs of a transformer that routes its tokens over those of timm's, budget by budget."""
    rows = []
    for i, budget in enumerate(data["budgets"]):
        flops, time, (low, high) = data["flops"][i], data["over_full"][i], data["intervals"][i]
        gained = f"{(1 - time) / (1 - flops):.2f}" if flops < 0.99 else ""
        rows.append([f"{budget:g}", f"{flops:.2f} x", f"{time:.2f} x ({low:.2f} to {high:.2f})", gained])
    rows.append(["timm's own", _flops(data["full_flops"]), f"{data['full_ms']:,.0f} ms", ""])
    head = [f"`{data['model']}`, {data['batch']} images, {data['rounds']} rounds; budget", "executed FLOPs over timm's"]
    head += ["inference, time over timm's", "time saved over FLOPs saved"]
    return _markdown(head, rows, right=3)


KINDS = {
    "sizes": sizes_table,
    "comparison": comparison_table,
    "seeds": seeds_table,
    "memory": memory_table,
    "saved": saved_table,
    "variants": variants_table,
    "leakage": leakage_table,
    "step": step_table,
    "routed": routed_table,
    "dial": dial_table,
    "clock": clock_table,
    "vit_clock": vit_clock_table,
}


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]], *, right: int = 0) -> str:
    """A table whose last ``right`` columns are aligned to the right."""
    rule = ["---"] * (len(head) - right) + ["---:"] * right
    lines = [f"| {' | '.join(cells)} |" for cells in (head, *rows)]
    return "\n".join([lines[0], f"|{'|'.join(rule)}|", *lines[1:]])


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.mean(values):.2%} ({min(values):.2%} to {max(values):.2%})"


def _dead(variant: dict[str, Any]) -> str:
    return f"{sum(variant['dead_experts'])} of {sum(variant['experts'])}" if variant["experts"][0] else "-"


def _flops(value: float) -> str:
    return f"{value / 1e9:.2f} G" if value >= 1e9 else f"{value / 1e6:.1f} M"


def _deviation(values: Sequence[float]) -> str:
    deviation = f" ± {statistics.stdev(values):.2%}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2%}{deviation}"


def _p_value(value: float | None) -> str:
    return "-" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def _millions(row: dict[str, Any]) -> str:
    return f"{row['parameters'] / 1e6:.1f} M"


def _default(value: Any) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


if __name__ == "__main__":
    typer.run(main)
