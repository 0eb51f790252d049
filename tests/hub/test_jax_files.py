"""Checkpoints of JAX programs are read and written without JAX; damaged ones are refused by name."""

from __future__ import annotations

import builtins
import shutil
from pathlib import Path

import msgpack
import numpy as np
import pytest

from moezoo.errors import (
    ConfigError,
    InputError,
    MissingPackageError,
    OutputError,
    WeightsCorrupted,
    WeightsUnavailable,
)
from moezoo.hub.jax_files import read_jax, write_jax
from moezoo.hub.jax_files.flax_arrays import BFLOAT16
from moezoo.hub.jax_files.flax_msgpack import pack, unpack
from moezoo.hub.jax_files.partitioned import MARK
from moezoo.hub.jax_files.tree import flat

FILES = Path(__file__).parents[1] / "fixtures" / "jax_files"
PREFIX = FILES / "tiny_7"


@pytest.fixture(scope="module")
def expected():
    with np.load(FILES / "tiny_7_expected.npz") as file:
        return {name: file[name] for name in file.files}


def same(ours, theirs):
    return ours.keys() == theirs.keys() and all(
        ours[name].dtype == array.dtype and ours[name].shape == array.shape and (ours[name] == array).all()
        for name, array in theirs.items()
    )


def test_flax_s_own_files_are_read_and_the_parameters_found():
    state, chunked = read_jax(FILES / "state.msgpack"), read_jax(FILES / "chunked.msgpack")
    assert same(state.params, chunked.params)
    assert {name: array.shape for name, array in state.params.items()} == {
        "Encoder/encoderblock_10/Moe/Router/scale": (),
        "Encoder/encoderblock_2/a": (2, 3),
        "embedding/bias": (4,),
        "embedding/kernel": (2, 2, 3, 4),
    }
    assert state.params["Encoder/encoderblock_2/a"].dtype == BFLOAT16
    bits = state.params["Encoder/encoderblock_2/a"]["bfloat16"].astype(np.uint32) << 16
    assert (bits.view(np.float32) == np.arange(6).reshape(2, 3)).all()
    assert state.params["Encoder/encoderblock_10/Moe/Router/scale"] == np.float32(1.5)
    assert chunked.left_out == ()
    assert {name.partition("/")[0] for name in state.left_out} == {"half", "opt_state", "rngs", "step"}
    moments = read_jax(FILES / "state.msgpack", key="opt_state/0/mu")
    assert moments.params.keys() == state.params.keys()
    with pytest.raises(
        InputError, match=r"key='opt_state/0/nu'.*Did you mean: opt_state/0/mu.*It holds half, opt_state \(6\)"
    ):
        read_jax(FILES / "state.msgpack", key="opt_state/0/nu")


@pytest.mark.parametrize("file", ["tiny_7", "tiny_7.index", "tiny_7.data-00002-of-00003"])
def test_a_partitioned_checkpoint_is_put_together_from_any_of_its_names(file, expected):
    read = read_jax(FILES / file)
    assert same(read.params, expected)
    assert {name.partition("/")[0] for name in read.left_out} == {"opt_state", "rngs", "step"}


def copied(folder):
    for path in FILES.glob("tiny_7.*"):
        shutil.copy(path, folder)
    return folder / "tiny_7"


def test_a_partitioned_checkpoint_that_is_not_whole_is_refused(tmp_path):
    prefix = copied(tmp_path)
    (first, second, _), index = sorted(tmp_path.glob("*.data-*")), tmp_path / "tiny_7.index"
    held, other = first.read_bytes(), second.read_bytes()
    first.unlink()
    with pytest.raises(WeightsUnavailable, match=r"tiny_7\.index.*tiny_7\.data-00000-of-00003 is missing beside it"):
        read_jax(prefix)
    first.write_bytes(other)
    with pytest.raises(
        WeightsCorrupted, match=r"data-00000-of-00003.*does not fit its index: '.*its parts are not those"
    ):
        read_jax(prefix)
    first.write_bytes(held[: len(held) // 2])
    with pytest.raises(WeightsCorrupted, match=r"data-00000-of-00003.*no sound flax msgpack file"):
        read_jax(prefix)
    first.write_bytes(pack({"a": np.ones(500)}))
    with pytest.raises(WeightsCorrupted, match="is not a data file"):
        read_jax(prefix)
    content = msgpack.unpackb(index.read_bytes(), ext_hook=msgpack.ExtType)
    index.write_bytes(msgpack.packb({**content, "version": "20300101"}))
    with pytest.raises(WeightsCorrupted, match="of version '20300101'; what is read here is '20220622'"):
        read_jax(prefix)
    index.write_bytes(pack({"a": np.ones(2)}))
    with pytest.raises(WeightsCorrupted, match="is not the index of a partitioned checkpoint"):
        read_jax(prefix)
    index.unlink()
    with pytest.raises(WeightsUnavailable, match="the index of this checkpoint"):
        read_jax(second)


def test_files_without_a_version_are_read_where_they_hold_parameters_alone(tmp_path, expected):
    prefix = copied(tmp_path)
    index = tmp_path / "tiny_7.index"
    content = msgpack.unpackb(index.read_bytes(), ext_hook=msgpack.ExtType)
    del content["version"]
    index.write_bytes(msgpack.packb(content))
    with pytest.raises(WeightsCorrupted, match=r"from before version '20220622', and holds more than parameters"):
        read_jax(prefix)
    places = [name.partition("/")[0] for name, _ in flat(content["index"])]
    first, number = places.index("params"), places.count("params")
    index.write_bytes(msgpack.packb({**content, "index": {"params": content["index"]["params"]}}))
    for path in tmp_path.glob("*.data-*"):
        held = msgpack.unpackb(path.read_bytes(), ext_hook=msgpack.ExtType)
        kept = {str(i): held[str(first + i)] for i in range(number) if str(first + i) in held}
        path.write_bytes(msgpack.packb({MARK: True, **kept}))
    read = read_jax(prefix)
    assert same(read.params, expected)
    assert read.left_out == ()


def lying_index(**changes):
    """An index with one array, whose parts are said to be elsewhere or larger than they are."""
    said = {"shape": (4,), "boxes": [(0, 2), (2, 4)], "shards": (0, 0), **changes}
    shaped = msgpack.packb((said["shape"], "float32", False, {}))
    boxes = [msgpack.packb([msgpack.packb((start, stop, None))]) for start, stop in said["boxes"]]
    leaf = msgpack.ExtType(8, msgpack.packb((shaped, boxes, said["shards"])))
    return msgpack.packb({"shard_count": 1, "version": "20220622", "index": {"params": {"a": leaf}}})


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"boxes": [(0, 2), (1, 3)]}, "do not make up its shape"),
        ({"boxes": [(0, 2), (2, 5)]}, "do not make up its shape"),
        ({"boxes": [(0, 2), (2, 3)]}, "do not make up its shape"),
        ({"shards": (0,)}, "do not make up its shape"),
        ({"shape": (10**9,), "boxes": [(0, 10**9)], "shards": (0,)}, "smaller than the arrays that are in them"),
        ({"shape": ("x",)}, "no sound flax msgpack file"),
    ],
)
def test_an_index_that_lies_is_refused_before_anything_is_allocated(tmp_path, changes, why):
    (tmp_path / "c.index").write_bytes(lying_index(**changes))
    (tmp_path / "c.data-00000-of-00001").write_bytes(pack({"a": np.ones(50)}))
    with pytest.raises(WeightsCorrupted, match=why):
        read_jax(tmp_path / "c")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xc1",
        b"not msgpack at all",
        msgpack.packb({"a": msgpack.ExtType(1, msgpack.packb(((2,), "float32", b"1234")))}),
        msgpack.packb({"a": msgpack.ExtType(1, msgpack.packb(((1,), "object", b"12345678")))}),
        msgpack.packb({"a": msgpack.ExtType(1, msgpack.packb(((-1,), "float32", b"")))}),
        msgpack.packb({"a": msgpack.ExtType(99, b"")}),
        msgpack.packb({"a": {"__msgpack_chunked_array__": True, "shape": {"0": 3}, "chunks": {}}}),
        msgpack.packb(3),
        b"\x81\xa1a" * 5000,
    ],
)
def test_what_is_no_tree_of_arrays_is_refused(tmp_path, content):
    (tmp_path / "x.msgpack").write_bytes(content)
    with pytest.raises(WeightsCorrupted, match=r"x\.msgpack"):
        read_jax(tmp_path / "x.msgpack")


def test_what_is_written_is_read_back_bit_by_bit(tmp_path, expected):
    for name in ("out.npz", "out.msgpack"):
        assert write_jax(expected, tmp_path / name) == tmp_path / name
        assert same(read_jax(tmp_path / name).params, expected)
        with pytest.raises(OutputError, match=f"{name}.* exists"):
            write_jax(expected, tmp_path / name)
        write_jax(expected, tmp_path / name, overwrite=True)
    write_jax({f"params/{name}": array for name, array in expected.items()}, tmp_path / "prefixed.npz")
    assert same(read_jax(tmp_path / "prefixed.npz").params, expected)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.msgpack", "out.npz", "prefixed.npz"]
    with pytest.raises(ConfigError, match=r"must end in \.npz or \.msgpack"):
        write_jax(expected, tmp_path / "out.pkl")
    big = {"a": {"b": np.arange(100, dtype=np.float32).reshape(4, 25)}}
    assert (unpack(pack(big, max_chunk=64), "x")["a"]["b"] == big["a"]["b"]).all()


def test_npz_files_are_read_without_pickles_and_without_msgpack(tmp_path, monkeypatch, expected):
    np.savez(tmp_path / "evil.npz", a=np.array([object()], dtype=object))
    with pytest.raises(WeightsCorrupted, match=r"evil\.npz"):
        read_jax(tmp_path / "evil.npz")
    np.savez(tmp_path / "text.npz", a=np.array(["x"]))
    with pytest.raises(WeightsCorrupted, match="'a' is not an array of numbers"):
        read_jax(tmp_path / "text.npz")
    original = builtins.__import__

    def without(name, *args):
        if name == "msgpack":
            raise ImportError(name)
        return original(name, *args)

    monkeypatch.setattr(builtins, "__import__", without)
    assert same(read_jax(FILES / "tiny_7_expected.npz").params, expected)
    with pytest.raises(MissingPackageError, match=r'pip install "moezoo\[jax\]"'):
        read_jax(FILES / "state.msgpack")


def test_what_is_not_there_or_of_another_kind_is_named(tmp_path):
    with pytest.raises(WeightsUnavailable, match=r"there is no file '.*nothing', and no '.*nothing\.index'"):
        read_jax(tmp_path / "nothing")
    (tmp_path / "run").mkdir()
    with pytest.raises(WeightsUnavailable, match="is a folder:"):
        read_jax(tmp_path / "run")
    (tmp_path / "run" / "_METADATA").touch()
    with pytest.raises(WeightsUnavailable, match="is a folder of orbax"):
        read_jax(tmp_path / "run")
