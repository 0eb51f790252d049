"""A small vocabulary in the true form of CLIP's files, made by hand."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers.pre_tokenizers import ByteLevel

MERGES = [("p", "h"), ("o", "t"), ("ph", "ot"), ("phot", "o</w>"), ("d", "o"), ("do", "g</w>"), ("o", "f</w>")]
START, END = "<|startoftext|>", "<|endoftext|>"


def clip_vocabulary(fillers: int = 540 - 2 * 256 - len(MERGES) - 2) -> dict[str, int]:
    """Bytes, bytes that end a word, merges, ``fillers`` for the merges that are left out, beginning and end."""
    letters = _letters()
    words = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in MERGES)]
    return {word: i for i, word in enumerate([*words, *(f"filler{i}" for i in range(fillers)), START, END])}


def clip_files(folder: Path, **sizes: int) -> Path:
    """``vocab.json`` and ``merges.txt`` of 540 tokens, unless ``fillers`` says otherwise."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(clip_vocabulary(**sizes)), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in MERGES)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def _letters() -> list[str]:
    """The 256 bytes as letters in the order of CLIP's files: those that can be printed first."""
    printed = [chr(i) for span in ((33, 127), (161, 173), (174, 256)) for i in range(*span)]
    return [*printed, *sorted(set(ByteLevel.alphabet()) - set(printed))]
