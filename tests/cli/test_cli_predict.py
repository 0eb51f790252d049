"""``moezoo predict`` as a person meets it: files, folders and lists in, CSV and JSON out, broken files passed over."""

import csv
import io
import json
import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from moezoo.errors import ConfigError, DataError, OutputError

NAME = ("entity_moe/test_vit", "--pretrained", "--device", "cpu")
# Long, with a space, a comma, a quote and letters beyond ASCII.
ODD = 'räum lich, "nah" 数字 ' + "x" * 180 + ".png"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from image_files import damaged_files, save_digit

    folder = tmp_path_factory.mktemp("images")
    for i in range(4):
        save_digit(i, folder / f"{i}.png")
    save_digit(4, folder / "deeper" / ODD)
    damaged_files(folder)["text"].rename(folder / "2b.jpg")
    for rest in ("empty.jpg", "truncated.jpg", "header.jpg"):
        (folder / rest).unlink()
    (folder / "notes.txt").write_text("not an image, and nobody asked")
    return folder


@pytest.fixture(scope="module")
def app():
    import typer

    from moezoo.cli.predict import predict

    app = typer.Typer()
    app.command()(predict)
    return app


def run(app, *args, code=0, input=None):
    result = CliRunner().invoke(app, [*NAME, *map(str, args)], input=input)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


def rows_of(text):
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_a_folder_becomes_csv_in_the_order_of_its_names(app, folder):
    result = run(app, folder, "--top", 2)
    rows = rows_of(result.stdout)
    assert [os.path.basename(row["path"]) for row in rows] == ["0.png", "1.png", "2.png", "2b.jpg", "3.png"]
    assert [row["label_1"] for row in rows] == ["0", "1", "2", "", "3"]
    assert list(rows[0]) == ["path", "label_1", "probability_1", "label_2", "probability_2", "error"]
    assert [bool(row["error"]) for row in rows] == [False, False, False, True, False]
    assert "2b.jpg: is not an image" in result.stderr
    assert "1 of 5 images have no answer" in result.stderr


@pytest.mark.parametrize("ending", ["csv", "json", "jsonl"])
def test_every_format_holds_the_same_and_odd_names_come_back_whole(app, folder, tmp_path, ending):
    out = tmp_path / f"täble.{ending}"
    run(app, folder, "-r", "--routing", "--top", 30, "--batch-size", 2, "-o", out)
    text = out.read_text(encoding="utf-8")
    if ending == "csv":
        rows = rows_of(text)
        assert all(row["label_10"] for row in rows if not row["error"])
        first, shares = [row["label_1"] for row in rows], json.loads(rows[0]["routing"])
    else:
        rows = json.loads(text) if ending == "json" else [json.loads(line) for line in text.splitlines()]
        assert all(len(row["predictions"]) == 10 for row in rows if not row["error"])
        first = [row["predictions"][0]["label"] if row["predictions"] else "" for row in rows]
        shares = rows[0]["routing"]
    assert first == ["0", "1", "2", "", "3", "4"]
    assert rows[-1]["path"] == str(folder / "deeper" / ODD)
    assert sum(shares["blocks.5.entity_moe.moe"]) == pytest.approx(1, abs=1e-5)


def test_a_list_on_standard_input_is_taken_line_by_line_whatever_its_ends(folder, tmp_path):
    """In a real process, in a locale that knows ASCII alone, with a file name that is no text in any encoding."""
    from image_files import save_digit

    raw = os.path.join(os.fsencode(folder), b"\xff\xfe.png")
    try:
        os.rename(save_digit(6, tmp_path / "6.png"), raw)
    except OSError:
        pytest.skip("this file system wants names that are text")
    odd = os.fsencode(folder / "deeper" / ODD)
    lines = b"\xef\xbb\xbf" + os.fsencode(folder / "1.png") + b"\r\n\r\n" + odd + b"\n" + raw  # no newline at the end
    environment = {**os.environ, "LC_ALL": "C", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "moezoo", "predict", *NAME, "-", "--top", "1"]
    done = subprocess.run(command, input=lines, capture_output=True, env=environment, timeout=300)
    os.unlink(raw)
    assert done.returncode == 0, done.stderr
    printed = rows_of(done.stdout.decode("utf-8", "surrogateescape"))
    assert [row["label_1"] for row in printed] == ["1", "4", "6"]
    assert [os.fsencode(row["path"]) for row in printed[1:]] == [odd, raw]


def test_the_exit_code_is_one_when_all_failed_or_strict_was_asked_for(app, folder):
    broken, good = folder / "2b.jpg", folder / "1.png"
    assert "error" in run(app, broken, folder / "absent.png", code=1).stdout
    run(app, broken, good, "--strict", code=1)
    run(app, good, "--strict")


def test_mistakes_are_named_before_the_model_is_built(app, folder, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    for args, error, says in [
        ([folder, "--format", "cvs"], ConfigError, "Did you mean: csv"),
        ([folder, "-o", tmp_path / "x.txt"], ConfigError, "format='txt'"),
        ([folder, "-o", folder / "1.png" / "x.csv"], OutputError, "1.png"),
        (["-", "-"], ConfigError, "2 times"),
        ([empty], DataError, "holds no image"),
        ([folder, "--top", 0], ConfigError, "top=0"),
    ]:
        with pytest.raises(error, match=says):
            run(app, *args)
    with pytest.raises(DataError, match="list on standard input is empty"):
        run(app, "-", input="\n\n")
    result = CliRunner().invoke(app, ["entity_moe/test_vit", str(folder)])
    assert "random weights" in str(result.exception)


def test_a_run_that_is_stopped_leaves_whole_rows_behind(tmp_path):
    from moezoo.eval import Prediction
    from moezoo.eval.prediction_writers import prediction_file

    def stopped(out, ending):
        with prediction_file(out, ending, top=1) as write:
            write(Prediction("a.png", ("cat",), (0.5,)))
            raise KeyboardInterrupt

    for ending in ("csv", "json", "jsonl"):
        out = tmp_path / f"out.{ending}"
        with pytest.raises(KeyboardInterrupt):
            stopped(out, ending)
        assert "a.png" in out.read_text()
    assert json.loads((tmp_path / "out.json").read_text())[0]["path"] == "a.png"
    with prediction_file(tmp_path / "none.json", "json", top=1):
        pass
    assert json.loads((tmp_path / "none.json").read_text()) == []
