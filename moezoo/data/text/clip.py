"""CLIP's vocabulary, read through transformers where its files are on this machine. The network is never asked."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from pathlib import Path

from moezoo.data.text.tokenizer import Tokenizer
from moezoo.errors import DataError

CLIP_SIZE = 49408
"""Tokens of CLIP's vocabulary; the last two are the beginning, 49406, and the end and padding, 49407."""
REPOSITORIES = (
    "openai/clip-vit-base-patch32",
    "openai/clip-vit-base-patch16",
    "openai/clip-vit-large-patch14",
    "openai/clip-vit-large-patch14-336",
)
"""Repositories of the Hub with these files, which its cache may hold."""
FORMS = (("tokenizer.json",), ("vocab.json", "merges.txt"))


def clip_tokenizer(path: str | os.PathLike[str] | None = None, *, size: int = CLIP_SIZE) -> Tokenizer:
    """CLIP's tokenizer from a folder, or from the Hub's cache.

    Args:
        path: A folder with ``vocab.json`` and ``merges.txt``, or ``tokenizer.json``; ``None`` looks into the cache.
        size: Tokens that it must have; another vocabulary in CLIP's form has another number.

    Raises:
        DataError: The files are not there (the text says what was looked for), cannot be read, or have another size:
            transformers makes an empty tokenizer, without an error, where it finds nothing.
    """
    folder = _folder(path)
    try:
        # In transformers 5 another name of CLIPTokenizer.
        reader = importlib.import_module("transformers").CLIPTokenizerFast
        content = reader.from_pretrained(str(folder), local_files_only=True).backend_tokenizer.to_str()
    except Exception as error:  # transformers and its parsers raise nearly anything on damaged files
        raise DataError(f"{str(folder)!r}: CLIP's tokenizer cannot be read: {error!s:.200}") from None
    try:
        tokenizer = Tokenizer(content)
    except DataError as error:
        raise DataError(f"{str(folder)!r}: {error}") from None
    wanted = {"kind": "clip", "vocab_size": size, "bos_id": size - 2, "eos_id": size - 1, "pad_id": size - 1}
    for key, value in wanted.items():
        if (got := getattr(tokenizer, key)) != value:
            raise DataError(
                f"{str(folder)!r} does not hold the CLIP tokenizer of {size:,} tokens: {key} is {got!r}, not {value!r}"
            )
    return tokenizer


def _folder(path: str | os.PathLike[str] | None) -> Path:
    if path is not None:
        folder = Path(path).expanduser()
        if _holds_files(folder):
            return folder
        looked = [str(folder / " and ".join(form)) for form in FORMS]
        raise DataError(f"no CLIP tokenizer under {str(folder)!r}; looked for: {', or '.join(looked)}")
    for folder in _cached():
        if _holds_files(folder):
            return folder
    raise DataError(
        f"no CLIP tokenizer in the Hub's cache; looked for tokenizer.json, or vocab.json and merges.txt, of: "
        f"{', '.join(REPOSITORIES)}. Pass the folder that holds these files."
    )


def _cached() -> Iterator[Path]:
    from huggingface_hub import try_to_load_from_cache

    for repo_id in REPOSITORIES:
        for form in FORMS:
            found = try_to_load_from_cache(repo_id, form[0])
            if isinstance(found, str):
                yield Path(found).parent


def _holds_files(folder: Path) -> bool:
    return any(all((folder / name).is_file() for name in form) for form in FORMS)
