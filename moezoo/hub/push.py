"""``push_to_hub``: a model becomes one commit on the Hub, or nothing of it is seen.

What is published is written and checked here; what the Hub is asked is in ``commit.py``.
"""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import constants
from torch import nn

from moezoo.errors import WeightsCorrupted
from moezoo.hub.card import published_at
from moezoo.hub.commit import Push
from moezoo.hub.files import file_digest
from moezoo.hub.save import save_pretrained
from moezoo.hub.schema import CARD_NAME, CONFIG_NAME, PROCESSOR_NAME
from moezoo.hub.stored import check_repo_id, read_stored
from moezoo.hub.stored_model import StoredModel
from moezoo.moe.checks import check_choice

OnConflict = Literal["error", "retry"]
CONFLICTS = 5
"""Times that a push is based anew on what others pushed meanwhile, with ``on_conflict="retry"``."""

logger = logging.getLogger(__name__)


def push_to_hub(
    model: nn.Module,
    repo_id: str,
    *,
    private: bool = False,
    token: bool | str | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
    create_pr: bool = False,
    on_conflict: OnConflict = "error",
    **saving: Any,
) -> str:
    """Publish a model on the Hub: :func:`moezoo.save_pretrained` into a scratch folder, then one commit.

    Args:
        model: As in :func:`moezoo.save_pretrained`.
        repo_id: ``user/repo``; created if it does not exist.
        private: Create the repository private; an existing public one is refused.
        token: A token that may write; by default the saved one (``hf auth login``, or ``HF_TOKEN``).
        revision: The branch, created if it does not exist; the default branch if ``None``.
        commit_message: Title of the commit.
        create_pr: Propose the commit as a pull request; the branch stays as it is.
        on_conflict: When somebody else pushes meanwhile: ``"error"``, or ``"retry"`` to push on top of that.
        **saving: As of :func:`moezoo.save_pretrained`: ``metrics``, ``label_names``, ``routing``, ``flops``,
            ``include_backbone``, ``max_shard_size``, ``backbone``, ``backbone_args``, ``cache_dir``.

    Returns:
        The name that creates this very model: ``hf-hub:user/repo@<commit>``, or ``@`` the pull request's branch.

    Raises:
        PushError: The Hub refused or could not be reached; nothing of the model is visible.
        PushConflict: Somebody else pushed meanwhile.
        InputError, ConfigError, NonFiniteError: As of :func:`moezoo.save_pretrained`, before anything is sent.
    """
    check_repo_id(repo_id, repo_id)
    check_choice("on_conflict", on_conflict, ("error", "retry"))
    with tempfile.TemporaryDirectory(prefix="moezoo-push-") as folder:
        save_pretrained(model, folder, repo_id=repo_id, token=token, **saving)
        return push_folder(
            folder,
            repo_id,
            private=private,
            token=token,
            revision=revision,
            commit_message=commit_message,
            create_pr=create_pr,
            on_conflict=on_conflict,
        )


def push_folder(
    folder: str | os.PathLike[str],
    repo_id: str,
    *,
    private: bool = False,
    token: bool | str | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
    create_pr: bool = False,
    on_conflict: OnConflict = "error",
) -> str:
    """Publish a folder that :func:`moezoo.save_pretrained` wrote, its files and no others; see :func:`push_to_hub`.

    Raises:
        WeightsCorrupted: A file is not the one that was saved there; found before anything is sent.
    """
    check_repo_id(repo_id, repo_id)
    check_choice("on_conflict", on_conflict, ("error", "retry"))
    folder = Path(folder).expanduser()
    stored = read_stored(f"local-dir:{folder}")
    files = _files(stored, folder, repo_id)
    push = Push(repo_id, revision, create_pr, token)
    if constants.HF_HUB_OFFLINE:
        raise push.error("HF_HUB_OFFLINE is set", tried="Nothing was sent", advice="the same call without it")
    head = push.prepare(private)
    message = commit_message or f"Upload {stored.name} with moezoo"
    commit = push.commit(files, message, head, CONFLICTS if on_conflict == "retry" else 0)
    logger.info("%s: pushed as %s", repo_id, commit)
    return f"hf-hub:{repo_id}@{commit}"


def _files(stored: StoredModel, folder: Path, repo_id: str) -> dict[str, Path | bytes]:
    """What is published, by name: never what else lies in the folder."""
    files: dict[str, Path | bytes] = {CONFIG_NAME: folder / CONFIG_NAME}
    for name, sha256 in {**stored.hashes, **stored.tokenizer}.items():
        files[name] = path = stored.fetch(name)
        if (got := file_digest(path)) != sha256:
            raise WeightsCorrupted(f"{str(path)!r} is not the file that was saved: expected sha256 {sha256}, got {got}")
    if (folder / PROCESSOR_NAME).is_file():
        files[PROCESSOR_NAME] = folder / PROCESSOR_NAME
    if (folder / CARD_NAME).is_file():
        card = (folder / CARD_NAME).read_bytes().decode("utf-8", errors="replace")
        files[CARD_NAME] = published_at(card, repo_id).encode()
    return files
