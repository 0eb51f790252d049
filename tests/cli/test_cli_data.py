"""``moezoo data``: what a user sees."""

import sys

import pytest
from dataset_folders import image_folder
from file_server import FileServer, zipped
from typer.testing import CliRunner

from moezoo.cli import app, main
from moezoo.parts import datasets


def run(*arguments):
    result = CliRunner().invoke(app, ["data", *map(str, arguments)], env={"COLUMNS": "200"})
    return result, result.output


def test_list_names_every_set():
    result, text = run("list")
    assert result.exit_code == 0
    assert all(name in text for name in datasets)


@pytest.mark.parametrize("name", [n for n in datasets if datasets.get(n).__module__.startswith("moezoo.")])
def test_info_shows_every_option(name):
    result, text = run("info", name)
    assert result.exit_code == 0, text
    assert "input_size" in text
    assert "needed" in text or name in ("digits", "cluttered_digits", "shapes", "trispectral")


def test_info_with_options_loads_and_counts(tmp_path):
    image_folder(tmp_path)
    result, text = run("info", "image_folder", "--set", f"root={tmp_path}")
    assert result.exit_code == 0, text
    assert "test: 16 images" in text
    assert "classes: 2" in text
    result, text = run("info", "trispectral", "--set", "test_identities=3")
    assert "query: 12 images" in text
    assert "unmatched queries: 0" in text


def test_get_downloads_unpacks_and_says_where(tmp_path):
    server = FileServer()
    try:
        made = tmp_path / "made" / "pets"
        image_folder(made)
        members = {str(path.relative_to(made.parent)): path.read_bytes() for path in made.rglob("*.png")}
        server.files["/pets.zip"] = zipped(tmp_path / "pets.zip", members).read_bytes()
        result, text = run("get", "image_folder", "--root", tmp_path / "root", "--url", f"{server.url}/pets.zip")
        assert result.exit_code == 0, text
        assert str(tmp_path / "root" / "pets") in text
        assert f"Check it: moezoo data info image_folder --set root={tmp_path / 'root' / 'pets'}" in text
        assert (tmp_path / "root" / "pets" / "train" / "cat" / "0.png").is_file()
        result, text = run("get", "digits", "--root", tmp_path)
        assert "digits needs no download" in text
    finally:
        server.close()


def test_a_missing_address_is_one_message(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["moezoo", "data", "get", "flickr8k", "--root", str(tmp_path)])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 1
    assert "only from an address that you name" in capsys.readouterr().err
