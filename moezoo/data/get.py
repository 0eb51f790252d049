"""Getting a data set onto the disk, as far as it may be got."""

from __future__ import annotations

import functools
import http.client
import urllib.error
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit

from moezoo.data.catalogue import CATALOGUE
from moezoo.data.download import download
from moezoo.data.unpack import is_archive, unpack
from moezoo.errors import ConfigError, DataError, OutputError
from moezoo.parts import datasets


def get_dataset(
    name: str,
    root: str | Path,
    *,
    url: str | None = None,
    sha256: str | None = None,
    progress: Callable[[str, int, int | None], None] | None = None,
) -> list[Path]:
    """Put the data set ``name`` under ``root``; the files and folders that were made.

    CIFAR and Fashion-MNIST come by torchvision's own download, behind its md5 sums. Anything else comes from an address
    that you name and may use; a zip or tar file is unpacked. Sets that need no download give an empty list.

    Args:
        name: A registered name.
        root: The folder, which later is the option ``root``.
        url: Where to get it; a mirror, or the only way where there is no public address.
        sha256: Hex digest of the file at ``url``.
        progress: Is told what is being done to the file at ``url`` (``download``, ``unpack``), the bytes done, and all.

    Raises:
        UnknownModelError: No such data set.
        ConfigError: It cannot be got without ``url``.
        DataError: It cannot be got from there; or what was got is damaged.
        OutputError: ``root`` cannot be written.
    """
    datasets.get(name)
    folder = Path(root).expanduser()
    if url is not None:
        fetching, unpacking = (progress and functools.partial(progress, what) for what in ("download", "unpack"))
        file = download(url, folder / _file_name(url), sha256=sha256, progress=fetching)
        return unpack(file, folder, progress=unpacking) if is_archive(file) else [file]
    if sha256 is not None:
        raise ConfigError("sha256 is the hash of the file at url; give both or none")
    card = CATALOGUE.get(name)
    if card is not None and card.source in ("included", "generated"):
        return []
    if card is not None and card.source == "download":
        return _by_torchvision(name, folder)
    if card is not None and card.source == "yours":
        raise ConfigError(
            f"{name!r} is data of your own, with nothing to get: {card.layout}; or name an address by url"
        )
    terms = f" ({card.terms})" if card is not None and card.terms else ""
    raise ConfigError(f"{name!r} is got only from an address that you name: url=https://…{terms}")


def _by_torchvision(name: str, folder: Path) -> list[Path]:
    from torchvision import datasets as sets

    source = {"cifar10": sets.CIFAR10, "cifar100": sets.CIFAR100, "fashion_mnist": sets.FashionMNIST}[name]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        source(folder, download=True)
    except (urllib.error.URLError, http.client.HTTPException, RuntimeError, TimeoutError, ConnectionError) as error:
        raise DataError(
            f"{name} could not be got by torchvision: {error}. What is there stays; try again, or name a mirror by url."
        ) from error
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {error.strerror or error}") from error
    return [folder / (source.base_folder if issubclass(source, sets.CIFAR10) else "FashionMNIST")]


def _file_name(url: str) -> str:
    name = Path(unquote(urlsplit(url).path)).name
    return name if name.isprintable() and name not in ("", ".", "..") else "download"
