"""A small Hugging Face Hub on 127.0.0.1 for the real client: files, revisions, redirects, faults on demand.

Standard library only. It serves ``HEAD`` and ``GET`` of ``/{user}/{repo}/resolve/{revision}/{file}`` as the
Hub does. Files listed in ``lfs`` answer with a redirect to a second port, which plays the content network and
must never see a token.
"""

from __future__ import annotations

import hashlib
import re
import socket
import struct
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Fault:
    """What goes wrong with the next ``times`` requests whose ``"METHOD path"`` matches ``pattern``."""

    pattern: str
    kind: str
    """``status`` (answer ``code``), ``reset``, ``flip`` (one byte), ``cut`` (half the body) or ``hang``."""
    times: int
    code: int = 503


@dataclass
class Repo:
    revisions: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    lfs: set[str] = field(default_factory=set)
    token: str | None = None
    gated: bool = False


class LoopbackHub:
    """Start it before huggingface_hub is imported and put ``endpoint`` into ``HF_ENDPOINT``."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.faults: list[Fault] = []
        self.servers = [_Server(self, is_cdn) for is_cdn in (False, True)]
        self.endpoint, self.cdn = (f"http://127.0.0.1:{server.server_port}" for server in self.servers)
        for server in self.servers:
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def put(
        self,
        repo_id: str,
        files: dict[str, bytes],
        *,
        branch: str = "main",
        lfs: tuple[str, ...] = (),
        **kwargs,
    ) -> str:
        """A commit with these files; returns its hash."""
        repo = self.repos.setdefault(repo_id, Repo(**kwargs))
        repo.lfs.update(lfs)
        commit = hashlib.sha1(repr((repo_id, sorted(files.items()), len(repo.revisions))).encode()).hexdigest()
        repo.revisions[commit] = dict(files)
        repo.branches[branch] = commit
        return commit

    def fault(self, pattern: str, kind: str, times: int = 1, code: int = 503) -> None:
        self.faults.append(Fault(pattern, kind, times, code))

    def reset(self) -> None:
        """Forget repositories, faults and the log."""
        self.repos.clear()
        self.faults.clear()
        self.requests.clear()

    def count(self, method: str) -> int:
        return sum(one == method for one, _, _ in self.requests)

    def take_fault(self, line: str) -> Fault | None:
        for fault in self.faults:
            if fault.times > 0 and re.search(fault.pattern, line):
                fault.times -= 1
                return fault
        return None


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, hub: LoopbackHub, is_cdn: bool):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hub, self.is_cdn = hub, is_cdn

    def handle_error(self, request, client_address) -> None:
        """A client that hangs up is part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *args) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        hub = self.server.hub
        place = "cdn" if self.server.is_cdn else "hub"
        hub.requests.append((self.command, f"{place}{self.path}", {k.lower(): v for k, v in self.headers.items()}))
        fault = hub.take_fault(f"{self.command} {place}{self.path}")
        if fault is not None and fault.kind == "hang":
            time.sleep(20)
        if fault is not None and fault.kind == "reset":
            # Lingering for zero seconds makes the kernel send RST instead of FIN.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True
            return
        if fault is not None and fault.kind == "status":
            self.error(fault.code, "")
            return
        found = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path.partition("?")[0])
        if found is None:
            self.error(404, "")
            return
        repo_id, revision, name = found.groups()
        repo = hub.repos.get(repo_id)
        wrong_token = repo is not None and repo.token and self.headers.get("Authorization") != f"Bearer {repo.token}"
        if repo is None or (wrong_token and not repo.gated and not self.server.is_cdn):
            self.error(404, "RepoNotFound")
            return
        if wrong_token and not self.server.is_cdn:
            self.error(403, "GatedRepo")
            return
        commit = repo.branches.get(revision, revision)
        if commit not in repo.revisions:
            self.error(404, "RevisionNotFound")
            return
        body = repo.revisions[commit].get(name)
        if body is None:
            self.error(404, "EntryNotFound", commit)
            return
        self.file(repo, commit, name, body, fault)

    def file(self, repo: Repo, commit: str, name: str, body: bytes, fault: Fault | None) -> None:
        git = hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()
        headers = {"X-Repo-Commit": commit, "ETag": f'"{git}"'}
        status = 200
        if name in repo.lfs and not self.server.is_cdn:
            status = 302
            headers |= {
                "X-Linked-ETag": f'"{hashlib.sha256(body).hexdigest()}"',
                "X-Linked-Size": str(len(body)),
                "Location": f"{self.server.hub.cdn}{self.path}?signature=SECRET-SIGNATURE",
            }
            body = b""
        if fault is not None and fault.kind == "flip" and body:
            body = bytes([body[0] ^ 1]) + body[1:]
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            if fault is not None and fault.kind == "cut":
                body = body[: len(body) // 2]
                self.close_connection = True
            self.wfile.write(body)

    def error(self, code: int, word: str, commit: str | None = None) -> None:
        self.send_response(code)
        if word:
            self.send_header("X-Error-Code", word)
        if commit:
            self.send_header("X-Repo-Commit", commit)
        self.send_header("Content-Length", "0")
        self.end_headers()
