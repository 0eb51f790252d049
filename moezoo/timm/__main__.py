"""``python -m moezoo.timm train.py …``: run timm's scripts, or your own, with moezoo's models in timm's registry."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path


def main() -> None:
    if len(sys.argv) < 2 or not Path(sys.argv[1]).is_file():
        print("usage: python -m moezoo.timm SCRIPT.py [its arguments]", file=sys.stderr)
        raise SystemExit(2)
    sys.argv = sys.argv[1:]
    sys.path[0] = str(Path(sys.argv[0]).resolve().parent)
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
