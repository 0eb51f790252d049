"""What a user sees when the Hub fails: every fault against the real huggingface_hub client on a loopback Hub.

python benchmarks/hub_faults.py            # two minutes; nothing leaves this machine
python benchmarks/hub_faults.py --markdown # the table for a document
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).parents[1] / "tests"


def main(markdown: bool = False) -> None:
    """Run the cases of ``tests/hub_fault_cases.py`` and print fault, outcome, seconds and requests."""
    sys.path.insert(0, str(TESTS))
    from loopback_hub import LoopbackHub

    hub = LoopbackHub()
    with tempfile.TemporaryDirectory() as folder:
        # The client reads its settings once, when it is imported.
        os.environ.update(
            HF_ENDPOINT=hub.endpoint,
            HF_HOME=folder,
            HF_HUB_DISABLE_XET="1",
            HF_HUB_DISABLE_TELEMETRY="1",
            HF_HUB_DISABLE_PROGRESS_BARS="1",
            NO_PROXY="127.0.0.1,localhost",
        )
        for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN", "HF_HUB_CACHE"):
            os.environ.pop(name, None)
        show(run(hub, Path(folder)), markdown)


def run(hub, folder: Path) -> list[tuple[str, str, str, str]]:
    """Every case, as a row of the table."""
    import logging
    import warnings

    from hub_fault_cases import PULLS, PUSHES, run_pull, run_push
    from rich.progress import track

    import moezoo

    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    saved = moezoo.save_pretrained(moezoo.create_model("entity_moe/digits"), folder / "saved")
    rows = []
    for i, case in enumerate(track([*PULLS, *PUSHES], "faults")):
        pull = case in PULLS
        seen = run_pull(case, hub, folder / f"cache{i}") if pull else run_push(case, hub, saved)
        good = "the file, its hash checked" if pull else "pushed as one commit"
        told = f"{type(seen.error).__name__}: {seen.error.cause}" if seen.error else good
        told = re.sub(r"([0-9a-f]{8})[0-9a-f]{32,}", r"\1…", told.replace(hub.endpoint, "ENDPOINT"))
        rows.append((f"{'pull' if pull else 'push'}: {case.what}", told, f"{seen.seconds:.1f}", str(seen.requests)))
    return rows


def show(rows: list[tuple[str, str, str, str]], markdown: bool) -> None:
    """Print the table."""
    heads = ("fault", "what the user sees", "seconds", "requests")
    if markdown:
        print("\n".join(f"| {' | '.join(row)} |" for row in [heads, ("---",) * 4, *rows]))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(*heads)
    for row in rows:
        table.add_row(*row)
    Console().print(table)


if __name__ == "__main__":
    import typer

    typer.run(main)
