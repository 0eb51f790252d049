"""Packages whose names are imported when they are first used."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

import moezoo
from moezoo.lazy import lazy_names

ROOT = Path(moezoo.__file__).parent
PACKAGES = sorted(
    ".".join(["moezoo", *path.parent.relative_to(ROOT).parts])
    for path in ROOT.rglob("__init__.py")
    if "lazy_names(__name__" in path.read_text(encoding="utf-8")
)


def test_packages_are_found():
    assert {"moezoo.hub", "moezoo.data", "moezoo.data.text", "moezoo.models.vmoe"} <= set(PACKAGES)


@pytest.mark.parametrize("name", PACKAGES)
def test_every_public_name_is_there_and_no_other(name):
    package = importlib.import_module(name)
    for public in package.__all__:
        assert getattr(package, public) is not None
    with pytest.raises(AttributeError, match=f"module '{name}' has no attribute 'no_such_name'"):
        _ = package.no_such_name


def test_a_module_is_imported_when_its_name_is_first_used(tmp_path, monkeypatch):
    folder = tmp_path / "lazy_example"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "part.py").write_text("thing = 7\n")
    monkeypatch.syspath_prepend(tmp_path)
    find = lazy_names("lazy_example", {"thing": ".part", "PurePath": "pathlib"})
    importlib.import_module("lazy_example")
    assert "lazy_example.part" not in sys.modules
    assert find("thing") == 7
    assert "lazy_example.part" in sys.modules
    assert find("PurePath") is importlib.import_module("pathlib").PurePath
