"""``push_to_hub``: a model becomes one commit on the Hub, or nothing of it is seen.

Files are uploaded first and shown by one commit at the end, which says on which commit it is based. So a push that is
interrupted leaves the branch as it was, and two pushes at once cannot mix. If the answer of the commit is lost, the
branch is looked at before anything is repeated. Messages are our own words: the client's may quote headers.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, errors
from huggingface_hub.hf_api import RepoFile
from torch import nn

from moezoo.errors import HubError, PushConflict, PushError, WeightsCorrupted
from moezoo.hub.card import published_at
from moezoo.hub.failures import FAILURES, is_passing, reason, remedy, status
from moezoo.hub.fetch import ATTEMPTS, PATIENCE_SECONDS
from moezoo.hub.files import file_digest
from moezoo.hub.save import save_pretrained
from moezoo.hub.schema import CARD_NAME, CONFIG_NAME, PROCESSOR_NAME, TOKENIZER_NAME
from moezoo.hub.stored import StoredModel, check_repo_id, read_stored
from moezoo.hub.swap import is_weights
from moezoo.moe.checks import check_choice

T = TypeVar("T")
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
    push = _Push(repo_id, revision, create_pr, token)
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


class _Push:
    """The requests of one push."""

    def __init__(self, repo_id: str, revision: str | None, create_pr: bool, token: bool | str | None):
        self.repo_id, self.revision, self.create_pr = repo_id, revision, create_pr
        self._api = HfApi(token=token)

    def prepare(self, private: bool) -> Any:
        """Make the repository and the branch; the branch's head as a ``ModelInfo``."""
        self._ask(lambda: self._api.create_repo(self.repo_id, private=private or None, exist_ok=True))
        found, failure = self._attempt(self._info)
        if isinstance(failure, errors.RevisionNotFoundError) and self.revision and not self.create_pr:
            branch = self.revision
            self._ask(lambda: self._api.create_branch(self.repo_id, branch=branch, exist_ok=True))
            found, failure = self._attempt(self._info)
        if failure is not None or found is None:
            raise self._failed(failure or LookupError("an empty answer"))
        if private and found.private is False:
            raise self.error(
                "private=True, but the repository exists and is public",
                tried="Nothing was sent",
                advice="another repo_id, or making it private on its settings page first",
            )
        return found

    def commit(self, files: dict[str, Path | bytes], message: str, head: Any, conflicts: int) -> str:
        """Upload and commit on top of ``head``; the commit's hash, or the name of the pull request's branch."""
        attempts, start = 1, time.monotonic()
        while True:
            done, failure = self._once(functools.partial(self._send, files, message, head))
            if done is not None:
                return str(done.pr_revision if self.create_pr else done.oid)
            failure = failure or LookupError("an empty answer")
            code = status(failure)
            if isinstance(failure, RuntimeError) or (code and 400 <= code < 500 and code not in (408, 412, 429)):
                raise self._failed(failure)
            if self.create_pr:
                raise self.error(
                    reason(failure),
                    tried="Whether the pull request was opened is not known",
                    advice=f"a look at {constants.ENDPOINT}/{self.repo_id}/discussions before the same call again",
                )
            now = self._ask(self._info)
            if now.sha != head.sha:
                if self._holds(now.sha, files):
                    logger.info("%s: the commit's answer was lost (%s); it is there", self.repo_id, reason(failure))
                    return str(now.sha)
                if conflicts == 0:
                    raise self._conflict(head.sha, now.sha)
                conflicts -= 1
                head = now
                continue
            if attempts == ATTEMPTS or not is_passing(failure) or time.monotonic() - start > PATIENCE_SECONDS:
                raise self._failed(failure)
            logger.info("%s: %s; the branch has not moved, trying again", self.repo_id, reason(failure))
            time.sleep(0.2 * 2**attempts)
            attempts += 1

    def _send(self, files: dict[str, Path | bytes], message: str, head: Any) -> Any:
        stale = [s.rfilename for s in head.siblings or () if _is_own(s.rfilename) and s.rfilename not in files]
        return self._api.create_commit(
            self.repo_id,
            operations=[
                *(
                    CommitOperationAdd(name, item if isinstance(item, bytes) else str(item))
                    for name, item in files.items()
                ),
                *(CommitOperationDelete(name) for name in stale),
            ],
            commit_message=message,
            revision=self.revision,
            create_pr=self.create_pr,
            parent_commit=head.sha,
        )

    def _holds(self, commit: str, files: dict[str, Path | bytes]) -> bool:
        """Whether a commit shows exactly these files (and any that are not a model's)."""
        entries = self._ask(lambda: list(self._api.list_repo_tree(self.repo_id, revision=commit, recursive=True)))
        there = {e.path: e.lfs.sha256 if e.lfs else e.blob_id for e in entries if isinstance(e, RepoFile)}
        if any(_is_own(name) and name not in files for name in there):
            return False
        return all(there.get(name) in _hashes(item) for name, item in files.items())

    def _info(self) -> Any:
        return self._api.model_info(self.repo_id, revision=self.revision)

    def _ask(self, call: Callable[[], T]) -> T:
        answer, failure = self._attempt(call)
        if failure is not None:
            raise self._failed(failure)
        return answer  # type: ignore[return-value]

    def _attempt(self, call: Callable[[], T]) -> tuple[T | None, Exception | None]:
        """A request that may be repeated, up to ``ATTEMPTS`` times while the failure may pass."""
        for attempt in range(ATTEMPTS):
            answer, failure = self._once(call)
            if failure is None or not is_passing(failure) or attempt == ATTEMPTS - 1:
                break
            time.sleep(0.2 * 2**attempt)
        return answer, failure

    @staticmethod
    def _once(call: Callable[[], T]) -> tuple[T | None, Exception | None]:
        """The client's error is returned, lest ours would carry it, headers and all, as context."""
        try:
            return call(), None
        except FAILURES as error:
            return None, error

    def _failed(self, failure: Exception) -> HubError:
        return self.error(reason(failure), tried=f"Asked {constants.ENDPOINT}", advice=remedy(failure))

    def _conflict(self, base: str, now: str) -> HubError:
        return PushConflict.of(
            f"{self.repo_id!r} was not pushed",
            cause=f"somebody else pushed meanwhile: the branch was at {base}, and is at {now}",
            tried="The branch shows what they pushed; nothing of this push is visible",
            advice="a look at what they pushed, then the same call again, or on_conflict='retry'",
        )

    def error(self, cause: str, *, tried: str, advice: str) -> HubError:
        return PushError.of(f"{self.repo_id!r} was not pushed", cause=cause, tried=tried, advice=advice)


def _is_own(name: str) -> bool:
    """Whether a file belongs to the model that was pushed before, so that it goes with it."""
    return is_weights(name) or name in (PROCESSOR_NAME, TOKENIZER_NAME)


def _hashes(item: Path | bytes) -> tuple[str, str]:
    """sha256, by which the Hub knows large files, and git's hash, by which it knows the others."""
    if isinstance(item, bytes):
        git = hashlib.sha1(b"blob %d\0" % len(item) + item, usedforsecurity=False).hexdigest()
        return hashlib.sha256(item).hexdigest(), git
    return file_digest(item), file_digest(item, "sha1", b"blob %d\0" % item.stat().st_size)
