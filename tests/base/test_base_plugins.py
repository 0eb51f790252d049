"""Plugins: a package that declares the entry-point group adds models; one that fails only warns."""

from __future__ import annotations

import json
import os
import subprocess
import sys

PRESETS = """
from dataclasses import dataclass
from moezoo import register_model
from moezoo.config import STRICT, option

@dataclass(frozen=True)
class Config:
    __pydantic_config__ = STRICT
    width: int = option(8, "width")

@register_model("garden/rose", variants={"wide": dict(width=99)})
def garden_rose():
    return Config()
"""

MODEL = """
from torch import nn

def build(config):
    return nn.Linear(config.width, 2)
"""

ASK = """
import json, sys, warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import moezoo
    names = moezoo.list_models()
    again = moezoo.list_models()
print(json.dumps({
    "garden": [n for n in names if n.startswith("garden")],
    "own": sum(n.startswith("entity_moe/") for n in names),
    "warnings": [f"{w.category.__name__}: {w.message}" for w in caught if "plugin" in str(w.message)],
    "width": moezoo.model_config("garden_rose.wide").width,
    "torch": "torch" in sys.modules,
    "weight": list(moezoo.create_model("garden/rose.wide").weight.shape),
}))
"""


def install(site, package, files, entry_points):
    """What pip would leave of a package: its modules and a ``dist-info`` with its entry points."""
    folder = site / package
    folder.mkdir()
    for name, text in {"__init__.py": "", **files}.items():
        (folder / name).write_text(text)
    info = site / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    lines = "".join(f"{name} = {target}\n" for name, target in entry_points.items())
    (info / "entry_points.txt").write_text(f"[moezoo.models]\n{lines}")


def test_a_plugin_adds_its_models_and_a_broken_one_only_warns(tmp_path):
    install(tmp_path, "garden", {"presets.py": PRESETS, "model.py": MODEL}, {"garden": "garden.presets"})
    install(tmp_path, "weeds", {"presets.py": "raise OSError('no water')"}, {"weeds": "weeds.presets"})
    install(tmp_path, "ghost", {}, {"ghost": "ghost.absent"})
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["garden"] == ["garden/rose", "garden/rose.wide"]
    assert told["own"] > 10
    assert told["width"] == 99
    assert told["weight"] == [2, 99]
    assert told["torch"] is False
    assert len(told["warnings"]) == 2
    for words in ("'weeds' (weeds.presets)", "no water", "'ghost' (ghost.absent)"):
        assert any(words in text and text.startswith("MoeZooWarning") for text in told["warnings"])
