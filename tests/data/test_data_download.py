"""Downloads against a server on this machine: cuts, refusals, wrong files, full disks; archives that mean harm."""

import hashlib
import logging
import resource
import signal
import tarfile

import pytest
from dataset_folders import cifar, flickr8k
from file_server import FileServer, tarred, zipped
from torchvision.datasets import CIFAR10

from moezoo.data import cifar as cifar_module
from moezoo.data import connection, load_dataset
from moezoo.data import download as download_module
from moezoo.data.connection import shown
from moezoo.data.download import download
from moezoo.data.get import get_dataset
from moezoo.data.unpack import unpack
from moezoo.errors import ConfigError, DataError, OutputError, UnknownModelError

DATA = bytes(range(256)) * 4000
SHA = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def server():
    server = FileServer()
    server.files["/a.bin"] = DATA
    yield server
    server.close()


def fetch(server, target, **options):
    return download(f"{server.url}/a.bin", target, wait=0.0, **options)


def test_a_file_comes_whole_with_its_progress_and_only_once(server, tmp_path):
    told = []
    target = fetch(server, tmp_path / "new" / "a.bin", sha256=SHA, progress=lambda *now: told.append(now))
    assert target.read_bytes() == DATA
    assert told[0] == (0, len(DATA))
    assert told[-1] == (len(DATA), len(DATA))
    assert [path.name for path in target.parent.iterdir()] == ["a.bin"]
    assert fetch(server, target, sha256=SHA.upper()) == target
    assert fetch(server, target) == target
    assert len(server.requests) == 1
    with pytest.raises(DataError, match="is there already, but its sha256 is"):
        fetch(server, target, sha256="0" * 64)
    assert target.read_bytes() == DATA


@pytest.mark.parametrize("fault", ["cut", "stall"])
def test_a_cut_is_resumed_from_where_it_was(server, tmp_path, fault, monkeypatch):
    monkeypatch.setattr(connection, "TIMEOUT", 0.3)
    server.faults = [fault, fault]
    assert fetch(server, tmp_path / "a.bin").read_bytes() == DATA
    starts = [int(asked[6:-1]) if asked else 0 for _, asked in server.requests]
    assert len(starts) == 3
    assert 0 == starts[0] < starts[1] < starts[2]


def test_passing_trouble_is_tried_again_and_lasting_trouble_told(server, tmp_path, caplog):
    server.faults = [503, 429, "reset"]
    with caplog.at_level(logging.INFO, logger="moezoo"):
        assert fetch(server, tmp_path / "a.bin").read_bytes() == DATA
    assert "the server answers 503; trying again" in caplog.text
    server.faults = ["cut", 503, 503, 503, 503]
    with pytest.raises(DataError, match=r"the server answers 503\. [1-9][\d,]+ bytes are in .*b\.bin\.part"):
        fetch(server, tmp_path / "b.bin")
    before = len(server.requests)
    assert fetch(server, tmp_path / "b.bin").read_bytes() == DATA  # the same command goes on
    assert server.requests[before][1] == f"bytes={len(DATA) // 2}-"
    server.close()
    with pytest.raises(DataError, match=r"cannot be reached \(.*refused\)\. Nothing has come\."):
        fetch(server, tmp_path / "c.bin")


def test_what_changed_on_the_server_is_never_mixed(server, tmp_path):
    for trouble in ("changed", "no-range", "other-range", "shorter", "no validator"):
        target = tmp_path / f"{trouble}.bin"
        server.files["/a.bin"] = DATA
        server.validators = trouble != "no validator"
        server.faults = ["cut", 503, 503, 503, 503]
        with pytest.raises(DataError):
            fetch(server, target)
        want = DATA
        if trouble == "changed":
            want = server.files["/a.bin"] = DATA[::-1]
        elif trouble == "shorter":
            server.validators = False
            want = server.files["/a.bin"] = DATA[:1000]
        server.faults = [trouble] if trouble.endswith("range") else []
        sha = hashlib.sha256(want).hexdigest()
        assert fetch(server, target, sha256=sha if trouble == "shorter" else None).read_bytes() == want, trouble
        server.validators = True


def test_a_part_that_is_complete_is_not_fetched_again(server, tmp_path):
    (tmp_path / "a.bin.part").write_bytes(DATA)
    assert fetch(server, tmp_path / "a.bin", sha256=SHA).read_bytes() == DATA
    assert server.requests == [("/a.bin", f"bytes={len(DATA)}-")]
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]


def test_a_wrong_hash_leaves_nothing(server, tmp_path):
    with pytest.raises(DataError, match=rf"a\.bin from .* its sha256 is {SHA}, not {'0' * 64}"):
        fetch(server, tmp_path / "a.bin", sha256="0" * 64)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (404, "answers 404, there is no such file"),
        (403, "answers 403, access is refused"),
        (401, "answers 401, a login is needed"),
        (418, "answers 418"),
        ("html", "sends a web page, not a file"),
        ("to:ftp://127.0.0.1/x", "redirect"),
        ("to:file:///etc/passwd", "Redirection to url"),
    ],
)
def test_refusals_are_told_at_once(server, tmp_path, fault, says):
    server.faults = [fault]
    with pytest.raises(DataError, match=says):
        fetch(server, tmp_path / "a.bin")
    assert len(server.requests) == 1
    assert not (tmp_path / "a.bin").exists()


def test_addresses_and_hashes_are_checked_first_and_secrets_not_shown(server, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    for url in ("file:///etc/passwd", "ftp://a/b", "a.zip", "http:///x", "http://a:b/c"):
        with pytest.raises(ConfigError, match="must begin with http"):
            download(url, tmp_path / "a")
    for url in ("http://a/b c.zip", "http://a/\u00e4.zip", "http://a/b\nc", "http://.a/b"):
        with pytest.raises(ConfigError, match="url is not allowed"):
            download(url, tmp_path / "a")
    with pytest.raises(ConfigError, match="64 hexadecimal digits"):
        fetch(server, tmp_path / "a", sha256="abc")
    assert shown("https://me:secret@host:8443/a/b.zip?token=secret") == "https://host:8443/a/b.zip"
    server.faults = [404]
    with pytest.raises(DataError) as caught:
        download(f"{server.url}/a.bin?token=secret", tmp_path / "a.bin")
    assert "secret" not in str(caught.value)
    server.faults = ["cut", 503, 503, 503, 503]
    with pytest.raises(DataError) as caught:
        download(f"{server.url}/a.bin?token=secret", tmp_path / "a.bin", wait=0.0)
    told = str(caught.value) + (tmp_path / "a.bin.part.json").read_text() + caplog.text
    assert "secret" not in told


def test_redirections_are_followed(server, tmp_path):
    server.files["/moved.bin"] = DATA
    server.faults = [f"to:{server.url}/moved.bin"]
    assert fetch(server, tmp_path / "a.bin").read_bytes() == DATA


def test_a_full_disk_is_told_with_the_free_bytes_and_can_be_resumed(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download_module.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10})())
    with pytest.raises(OutputError, match=r"1,024,000 bytes are needed, 10 are free"):
        fetch(server, tmp_path / "a.bin")
    monkeypatch.undo()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, limits[1]))
    try:
        with pytest.raises(OutputError, match=r"a\.bin\.part cannot be written: .* \([\d,]+ bytes free\)"):
            fetch(server, tmp_path / "a.bin")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert (tmp_path / "a.bin.part").stat().st_size == 300_000
    assert fetch(server, tmp_path / "a.bin").read_bytes() == DATA
    assert server.requests[-1][1] == "bytes=300000-"
    (tmp_path / "file").write_text("")
    for target in ("file/a.bin", "n" * 300):
        with pytest.raises(OutputError, match="cannot be written"):
            fetch(server, tmp_path / target)
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="folder is a folder"):
        fetch(server, tmp_path / "folder")


MEMBERS = {"set/a.txt": b"one", "set/deep/é b.txt": b"two", "list.txt": b"three"}


def test_archives_of_each_kind_are_unpacked(tmp_path):
    for number, archive in enumerate(
        (zipped(tmp_path / "a", MEMBERS), *(tarred(tmp_path / m[-2:], MEMBERS, m) for m in ("w:gz", "w:xz", "w:")))
    ):
        told = []
        root = tmp_path / str(number)
        made = unpack(archive, root, progress=lambda *now, told=told: told.append(now))
        assert made == [root / "list.txt", root / "set"]
        assert (root / "set" / "deep" / "é b.txt").read_bytes() == b"two"
        assert told[-1] == (11, 11)
        with pytest.raises(DataError, match=r"would be unpacked over .*list\.txt.*already there"):
            unpack(archive, root)
        assert sorted(path.name for path in root.iterdir()) == ["list.txt", "set"]


def test_archives_that_lead_out_or_hold_links_are_refused(tmp_path):
    harmful = [
        *(zipped(tmp_path / f"{i}.zip", {"ok.txt": b"", name: b"x"}) for i, name in enumerate(BAD_NAMES)),
        *(tarred(tmp_path / f"{i}.tgz", {"ok.txt": b"", name: b"x"}) for i, name in enumerate(BAD_NAMES)),
        zipped(tmp_path / "link.zip", {"link": b"/etc/passwd"}, mode=0o120777),
        *(
            tarred(tmp_path / f"{kind!r}.tgz", {"link": b""}, kind=kind)
            for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE)
        ),
    ]
    for archive in harmful:
        root = tmp_path / "root" / "inner"
        with pytest.raises(DataError, match="refused"):
            unpack(archive, root)
        assert list(root.iterdir()) == []
    assert sorted(path.name for path in (tmp_path / "root").iterdir()) == ["inner"]


BAD_NAMES = ("../evil", "/tmp/evil", "a/../../evil", "..\\evil", "C:\\evil")


def test_damaged_archives_are_told_and_leave_nothing(tmp_path):
    good, packed = zipped(tmp_path / "g.zip", {"a": DATA}), tarred(tmp_path / "g.tgz", {"a": DATA})
    flipped = bytearray(good.read_bytes())
    flipped[5000] ^= 255
    cases = {
        "cut.tgz": packed.read_bytes()[:-1200],
        "flipped.zip": bytes(flipped),
        "cut.zip": good.read_bytes()[:-9],
        "text.zip": b"hello",
    }
    for name, data in cases.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match=r"damaged or cut|neither a zip nor a tar|is empty"):
            unpack(tmp_path / name, tmp_path / "root")
        assert list((tmp_path / "root").iterdir()) == []


def test_a_disk_too_small_and_a_password_are_found_before_anything_is_written(tmp_path, monkeypatch):
    archive = zipped(tmp_path / "a.zip", {"a": DATA})
    with monkeypatch.context() as patch:
        patch.setattr(download_module.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10})())
        with pytest.raises(OutputError, match="1,024,000 bytes are needed, 10 are free"):
            unpack(archive, tmp_path / "root")
    locked = bytearray(archive.read_bytes())
    locked[locked.index(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(locked)
    with pytest.raises(DataError, match="is encrypted"):
        unpack(archive, tmp_path / "root")
    assert list((tmp_path / "root").iterdir()) == []


def test_flickr8k_is_got_from_two_addresses_a_user_names(server, tmp_path):
    flickr8k(tmp_path / "made")
    for name, folder in (("Flickr8k_Dataset.zip", "Flicker8k_Dataset"), ("Flickr8k_text.zip", "Flickr8k_text")):
        files = sorted((tmp_path / "made" / folder).iterdir())
        prefix = "" if folder == "Flickr8k_text" else f"{folder}/"
        zipped(tmp_path / name, {f"{prefix}{path.name}": path.read_bytes() for path in files})
        server.files[f"/{name}"] = (tmp_path / name).read_bytes()
    root = tmp_path / "root"
    made = get_dataset("flickr8k", root, url=f"{server.url}/Flickr8k_Dataset.zip?download=1")
    made += get_dataset("flickr8k", root, url=f"{server.url}/Flickr8k_text.zip")
    assert root / "Flicker8k_Dataset" in made
    assert root / "Flickr8k.token.txt" in made
    splits = load_dataset("flickr8k", root=root, input_size=(3, 16, 16))
    assert [len(splits.train), len(splits.val), len(splits.test)] == [12, 4, 4]


def test_a_file_is_called_as_in_its_address_where_that_is_a_name(server, tmp_path):
    for address, name in (("/deep/a.bin", "a.bin"), ("/%2e%2e", "download"), ("/a%00b", "download")):
        server.files[address] = DATA
        assert get_dataset("hf", tmp_path, url=server.url + address) == [tmp_path / name]
        (tmp_path / name).unlink()


def test_cifar_comes_by_torchvision_behind_its_md5(server, tmp_path, monkeypatch):
    import torchvision

    source = cifar(tmp_path / "made", CIFAR10)
    members = {
        f"{source.base_folder}/{path.name}": path.read_bytes()
        for path in (tmp_path / "made" / source.base_folder).iterdir()
    }
    archive = tarred(tmp_path / source.filename, members)
    server.files[f"/{source.filename}"] = archive.read_bytes()
    source.url = f"{server.url}/{source.filename}"
    source.tgz_md5 = hashlib.md5(archive.read_bytes()).hexdigest()
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", source)
    monkeypatch.setattr(cifar_module, "CIFAR10", source)
    assert get_dataset("cifar10", tmp_path / "root") == [tmp_path / "root" / source.base_folder]
    assert len(load_dataset("cifar10", root=tmp_path / "root", input_size=(3, 32, 32)).test) == 30
    before = len(server.requests)
    get_dataset("cifar10", tmp_path / "root")
    assert len(server.requests) == before
    server.files[f"/{source.filename}"] = archive.read_bytes()[:-1]
    with pytest.raises(DataError, match="cifar10 could not be got by torchvision"):
        get_dataset("cifar10", tmp_path / "other")
    del server.files[f"/{source.filename}"]
    with pytest.raises(DataError, match="404"):
        get_dataset("cifar10", tmp_path / "third")


def test_sets_that_are_not_downloaded_say_so(tmp_path):
    assert get_dataset("digits", tmp_path) == []
    assert get_dataset("shapes", tmp_path) == []
    for name in ("image_folder", "hf"):
        with pytest.raises(ConfigError, match=f"'{name}' is data of your own"):
            get_dataset(name, tmp_path)
    for name in ("flickr8k", "market1501"):
        with pytest.raises(ConfigError, match=f"'{name}' is got only from an address that you name"):
            get_dataset(name, tmp_path)
    with pytest.raises(ConfigError, match="sha256 is the hash of the file at url"):
        get_dataset("cifar10", tmp_path, sha256=SHA)
    with pytest.raises(UnknownModelError, match="Did you mean: cifar10"):
        get_dataset("cifar_10", tmp_path)
    assert list(tmp_path.iterdir()) == []
