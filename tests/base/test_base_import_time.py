"""Listing, configuring and asking for help never import torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "timm", "transformers", "numpy", "matplotlib", "huggingface_hub", "sklearn")
CHECK = f"""
import atexit, sys
def check():
    heavy = [name for name in {HEAVY} if name in sys.modules]
    print("HEAVY", heavy, file=sys.stderr)
atexit.register(check)
"""


def heavy_modules(code: str) -> str:
    """The heavy modules that a fresh interpreter has imported after ``code``."""
    done = subprocess.run([sys.executable, "-c", CHECK + code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stderr.rpartition("HEAVY ")[2].strip()


def command_line(*arguments: str) -> str:
    run = "runpy.run_module('moezoo', run_name='__main__')"
    return f"import runpy, sys\nsys.argv = ['moezoo', *{arguments!r}]\n{run}"


@pytest.mark.parametrize(
    "code",
    [
        "import moezoo; dir(moezoo); moezoo.__version__",
        "import moezoo; assert moezoo.list_models('*vit*')",
        "import moezoo; moezoo.model_config('entity_moe/digits', num_experts=8)",
        "import moezoo; assert moezoo.is_model('entity_moe_digits')",
        "import moezoo.hub; moezoo.hub.check_writable; moezoo.hub.read_stored",
        command_line("list", "*moe*"),
        command_line("info", "entity_moe/digits"),
        command_line("data", "list"),
        command_line("--help"),
    ],
    ids=["import", "list_models", "model_config", "is_model", "hub", "list", "info", "data", "help"],
)
def test_torch_is_not_imported(code):
    assert heavy_modules(code) == "[]"


def test_the_check_sees_torch_when_it_is_there():
    assert "torch" in heavy_modules("import moezoo, torch")
