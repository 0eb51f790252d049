"""What is known of a stored model before its weights are read. No torch here."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moezoo.altered.said import Compression
from moezoo.errors import HubError, NoSuchFile, WeightsCorrupted, WeightsUnavailable
from moezoo.hub.files import file_digest
from moezoo.hub.schema import INDEX_NAME, WEIGHTS_NAME, PublishedBackbone

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StoredModel:
    """A checked ``config.json``."""

    source: str
    """``hf-hub:…`` or ``local-dir:…``, as it was asked for."""
    name: str
    config: Any
    """The family's dataclass."""
    label_names: tuple[str, ...] | None
    data: dict[str, Any]
    """The stated fields of :class:`DataConfig`."""
    metrics: dict[str, Any] | None
    routing: list[dict[str, Any]] | None
    """Load of the experts, one entry per MoE layer."""
    flops: dict[str, Any] | None
    hashes: dict[str, str]
    """sha256 of every file of the weights; the index among them where there are shards."""
    tokenizer: dict[str, str]
    """The file of the tokenizer with its sha256; empty for a model without one."""
    backbone: PublishedBackbone | None
    """Where the rest of the weights is, if the files hold the MoE and the head alone."""
    compression: Compression | None
    """How the tensors differ from those that the configuration builds, if they do."""
    fetch: Callable[[str], Path] = dataclasses.field(repr=False)
    """From a file's name to where it lies on this machine."""
    fetch_backbone: Callable[[], Any] = dataclasses.field(repr=False)
    """Its weights, a :class:`moezoo.hub.backbone.Published`."""

    @property
    def weights_sha256(self) -> str:
        """Of the file of the weights, or of the index where there are shards."""
        return self.hashes.get(WEIGHTS_NAME) or self.hashes[INDEX_NAME]

    def weights_path(self) -> Path:
        """Where the file of the weights, or the index of the shards, lies on this machine.

        Raises:
            WeightsUnavailable: It does not exist or cannot be reached.
        """
        return self.fetch(WEIGHTS_NAME if WEIGHTS_NAME in self.hashes else INDEX_NAME)

    def weights_files(self) -> dict[Path, str]:
        """Every safetensors file of the weights with its sha256; downloads them if need be.

        Raises:
            WeightsUnavailable: One does not exist or cannot be reached.
            WeightsCorrupted: The index is not that of these files.
        """
        names = sorted(name for name in self.hashes if name != INDEX_NAME)
        if INDEX_NAME in self.hashes:
            from moezoo.hub import shards

            index = self.fetch(INDEX_NAME)
            shards.check_index(index, self.hashes, self.source)
            paths = {name: self.fetch(name) for name in names}
            shards.check_places(index, paths, self.source)
        else:
            paths = {name: self.fetch(name) for name in names}
        return {path: self.hashes[name] for name, path in paths.items()}

    def tokenizer_text(self) -> str | None:
        """The tokenizer, as its ``from_json`` takes it; ``None`` where there is none, or its file is gone (logged).

        Raises:
            WeightsCorrupted: The file is not the one that was saved.
            HubError: It cannot be reached.
        """
        for name, sha256 in self.tokenizer.items():
            try:
                path = self.fetch(name)
            except WeightsUnavailable as error:
                if isinstance(error, HubError) and not isinstance(error, NoSuchFile):
                    raise
                logger.warning("%s: the model was saved with a tokenizer, but %s is missing", self.source, name)
                return None
            if (got := file_digest(path)) != sha256:
                raise WeightsCorrupted(
                    f"{str(path)!r} is not the file its config.json was saved with: expected sha256 {sha256}, got {got}"
                )
            return path.read_bytes().decode("utf-8", errors="replace")
        return None
