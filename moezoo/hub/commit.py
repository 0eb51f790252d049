"""What a push asks of the Hub, so that the branch shows one whole commit, or what it showed before.

Files are uploaded first and shown by one commit at the end, which says on which commit it is based. So a push that is
interrupted leaves the branch as it was, and two pushes at once cannot mix. If the answer of the commit is lost, the
branch is looked at before anything is repeated. Messages are our own words: the client's may quote headers.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, errors
from huggingface_hub.hf_api import RepoFile

from moezoo.errors import HubError, PushConflict, PushError
from moezoo.hub.failures import FAILURES, is_passing, reason, remedy, status
from moezoo.hub.fetch import ATTEMPTS, PATIENCE_SECONDS
from moezoo.hub.files import file_digest
from moezoo.hub.schema import PROCESSOR_NAME, TOKENIZER_NAME
from moezoo.hub.swap import is_weights

T = TypeVar("T")
logger = logging.getLogger(__name__)


class Push:
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
