"""Times beside a baseline's."""

from __future__ import annotations

from typing import Any

from card_tables.text import flops, markdown


def step_table(data: dict[str, Any]) -> str:
    """A training step by three ways to compute the mixtures."""

    def cells(what: dict[str, Any]) -> list[str]:
        low, high = what["quartiles"]
        ratio = f"{what['over_ours']:.2f} x ({what['interval'][0]:.2f} to {what['interval'][1]:.2f})"
        return [f"{what['ms']:,.0f} ({low:,.0f} to {high:,.0f})", ratio]

    return markdown(
        [
            f"`{data['model']}`, {data['batch']} images, {data['rounds']} rounds",
            *("a step, ms (quartiles)", "over moezoo", "the mixtures alone, ms (quartiles)", "over moezoo"),
        ],
        [[way, *cells(data["step"][way]), *cells(data["mixtures"][way])] for way in data["step"]],
        right=4,
    )


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
    rows.append(["full compute", flops(data["full_flops"]), *times])
    return markdown(head, rows, right=3)


def vit_clock_table(data: dict[str, Any]) -> str:
    """Time and FLOPs of a transformer that routes its tokens over those of timm's, budget by budget."""
    rows = []
    for i, budget in enumerate(data["budgets"]):
        share, time, (low, high) = data["flops"][i], data["over_full"][i], data["intervals"][i]
        gained = f"{(1 - time) / (1 - share):.2f}" if share < 0.99 else ""
        rows.append([f"{budget:g}", f"{share:.2f} x", f"{time:.2f} x ({low:.2f} to {high:.2f})", gained])
    rows.append(["timm's own", flops(data["full_flops"]), f"{data['full_ms']:,.0f} ms", ""])
    head = [f"`{data['model']}`, {data['batch']} images, {data['rounds']} rounds; budget", "executed FLOPs over timm's"]
    head += ["inference, time over timm's", "time saved over FLOPs saved"]
    return markdown(head, rows, right=3)


def fusion_clock_table(data: dict[str, Any]) -> str:
    """Time of a fusion by experts over other fusions' of equal FLOPs, and what skipping experts saves, by batch."""

    def over(row: dict[str, Any], other: str) -> str:
        return f"{row[f'by_{other}']:.2f} x ({row[f'by_{other}_low']:.2f} to {row[f'by_{other}_high']:.2f})"

    head = [f"samples, {data['rounds']} rounds", "MoE, ms", "over the MLP's time", "over attention's time"]
    head += ["over the time of attention of equal parameters", "a bare read of its weights, ms"]
    skipping = ("top 1", "threshold")
    head += [f"{name}: FLOPs over MoE's, time over MoE's" for name in skipping]
    rows = []
    for batch, each in data["batches"].items():
        moe = each["moe"]
        saved = [f"{each[n]['flops'] / moe['flops']:.2f} x, {each[n]['ms'] / moe['ms']:.2f} x" for n in skipping]
        ratios = [over(moe, other) for other in ("mlp", "attention", "wide_attention")]
        rows.append([batch, f"{moe['ms']:.2f}", *ratios, f"{each['read']['ms']:.2f}", *saved])
    return markdown(head, rows, right=len(head) - 1)
