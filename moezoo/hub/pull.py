"""``pull_model``: a stored model's files, checked, into a folder of one's own."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from moezoo.errors import HubError, NoSuchFile, WeightsCorrupted, WeightsUnavailable
from moezoo.hub.card import local_card
from moezoo.hub.files import check_writable, file_digest
from moezoo.hub.schema import CARD_NAME, CONFIG_NAME
from moezoo.hub.stored import read_stored
from moezoo.hub.stored_model import StoredModel
from moezoo.hub.swap import TEXTS, drafting, swap_in


def pull_model(
    name: str,
    dir: str | os.PathLike[str],
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    token: bool | str | None = None,
) -> Path:
    """Copy a stored model into a folder, from which ``local-dir:`` creates it without the Hub.

    Args:
        name: ``hf-hub:user/repo[@revision]`` or ``local-dir:PATH``.
        dir: The folder; a model saved there before is replaced at once, or stays whole.
        cache_dir, token: As in :func:`moezoo.create_model`.

    Returns:
        The folder.

    Raises:
        WeightsError: A file cannot be had or is damaged.
        OutputError: The folder cannot be written.
    """
    folder = check_writable(dir)
    stored = read_stored(name, cache_dir=cache_dir, token=token)
    stored.weights_files()
    files = {**stored.hashes, **stored.tokenizer}
    sources = {file: stored.fetch(file) for file in files}
    texts = {file: text for file in TEXTS if (text := _text(stored, file)) is not None}
    content = json.loads(stored.fetch(CONFIG_NAME).read_bytes().decode("utf-8-sig"))
    with drafting(folder) as staging:
        drafts = {file: staging / file for file in sources}
        for file, source in sources.items():
            shutil.copyfile(source, drafts[file])
            if (got := file_digest(drafts[file])) != files[file]:
                raise WeightsCorrupted(
                    f"{name}: {file} is not the file its config.json was saved with: expected sha256 "
                    f"{files[file]}, got {got}"
                )
        swap_in(folder, drafts, content, texts)
    return folder


def _text(stored: StoredModel, name: str) -> str | None:
    """The text of a file that a stored model need not have."""
    try:
        text = stored.fetch(name).read_bytes().decode("utf-8", errors="replace")
    except HubError as error:
        if not isinstance(error, NoSuchFile):
            raise
        return None
    except WeightsUnavailable:
        return None
    return local_card(text, stored.source) if name == CARD_NAME else text
