"""Files of one saved model, put in place together. No torch here.

What a kill or a power cut leaves behind. Weights, and the tokenizer whose ids they know, are first written under names
made of their own hashes (``model.<hash>.safetensors``). Then ``config.json``, which carries those hashes, replaces the
old one in one rename. Only then do the files take their plain names. A reader who finds a file under the very hash that
``config.json`` asks for takes that. So before that rename the old model is whole, after it the new one is, and there is
no moment in between. The next save tidies up.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from moezoo.hub.files import STAGING, exclusive, file_digest, move_into_place, output_errors, seal, write_text
from moezoo.hub.schema import (
    CARD_NAME,
    CONFIG_NAME,
    INDEX_NAME,
    PROCESSOR_NAME,
    SHARD,
    TOKENIZER_NAME,
    WEIGHTS_NAME,
    tokenizer_hash,
    weights_hashes,
)

TEXTS = (CARD_NAME, PROCESSOR_NAME)
"""Files beside the configuration and the weights that describe a model."""
_STAGED = re.compile(
    r"(model(-\d{5}-of-\d{5})?(\.safetensors\.index)?\.[0-9a-f]{16}\.(safetensors|json)|tokenizer\.[0-9a-f]{16}\.json)"
)


def staged_name(name: str, sha256: str) -> str:
    """What the file ``name`` is called between its writing and the end of a save."""
    stem, _, suffix = name.rpartition(".")
    return f"{stem}.{sha256[:16]}.{suffix}"


def config_text(content: Mapping[str, Any]) -> str:
    """``config.json`` as it is written."""
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


@contextlib.contextmanager
def drafting(folder: Path) -> Iterator[Path]:
    """Own ``folder`` while open; inside it a place for drafts, on the same disk. What no save finished is tidied up.

    Raises:
        OutputError: ``folder`` cannot be written, or its disk is full.
    """
    with exclusive(folder), output_errors(folder):
        tidy(folder)
        staging = folder / STAGING
        staging.mkdir()
        try:
            yield staging
        finally:
            tidy(folder)


def swap_in(folder: Path, drafts: Mapping[str, Path], config: dict[str, Any], texts: Mapping[str, str]) -> None:
    """Make ``folder`` hold the model of these files, and of no others.

    Args:
        folder: Where; the caller holds it by :func:`drafting`.
        drafts: The files of the weights, and the tokenizer's, by their plain name, on the same disk; they are moved.
        config: ``config.json``; its ``weights_sha256`` and ``tokenizer_sha256`` are filled in.
        texts: Further files by name. Of :data:`TEXTS`, what an older model had and this one has not goes.
    """
    replaces, before = (folder / CONFIG_NAME).is_file(), _hashes(folder) or {}
    for draft in drafts.values():
        seal(draft)
    hashes = {name: file_digest(draft) for name, draft in drafts.items()}
    weights = {name: sha256 for name, sha256 in hashes.items() if name != TOKENIZER_NAME}
    config["weights_sha256"] = weights.get(WEIGHTS_NAME, weights)
    if "tokenizer_sha256" in config:  # a copy of an older format has no such key
        config["tokenizer_sha256"] = hashes.get(TOKENIZER_NAME)
    for name, draft in drafts.items():
        move_into_place(draft, folder / staged_name(name, hashes[name]))
    write_text(folder / CONFIG_NAME, config_text(config))
    settle(folder, hashes)
    for name, text in texts.items():
        write_text(folder / name, text)
    for name in TEXTS if replaces else ():
        if name not in texts:
            (folder / name).unlink(missing_ok=True)
    # A file of this name that no configuration spoke of is somebody else's.
    if TOKENIZER_NAME in before and TOKENIZER_NAME not in hashes:
        (folder / TOKENIZER_NAME).unlink(missing_ok=True)


def tidy(folder: Path) -> None:
    """Finish or drop what a killed save left in ``folder``."""
    shutil.rmtree(folder / STAGING, ignore_errors=True)
    settle(folder, _hashes(folder))


def _hashes(folder: Path) -> dict[str, str] | None:
    """The files that the folder's configuration vouches for; ``None`` if it has no configuration, or a foreign one."""
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError, AttributeError):
        config = json.loads((folder / CONFIG_NAME).read_bytes())
        return {**weights_hashes(config, CONFIG_NAME), **tokenizer_hash(config, CONFIG_NAME)}
    return None


def settle(folder: Path, hashes: Mapping[str, str] | None) -> None:
    """Give staged files their plain names; remove weights of other saves. ``None``: remove only staged ones."""
    wanted = {staged_name(name, sha256): name for name, sha256 in (hashes or {}).items()}
    for path in sorted([*folder.glob("model*"), *folder.glob("tokenizer*")]):
        if path.name in wanted:
            move_into_place(path, folder / wanted[path.name])
        elif _STAGED.fullmatch(path.name) or (hashes is not None and is_weights(path.name) and path.name not in hashes):
            path.unlink()


def is_weights(name: str) -> bool:
    """Whether a file of this name is one of those that moezoo keeps weights in."""
    return name in (WEIGHTS_NAME, INDEX_NAME) or SHARD.fullmatch(name) is not None
