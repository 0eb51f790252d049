"""A small Hugging Face Hub on 127.0.0.1 for the real client: repositories, uploads, redirects, faults on demand.

Standard library, and YAML to read cards with. One port plays the Hub (its routes are in ``loopback_api``), a second one
the content network, to which large files are redirected and uploaded, and which must never see a token.
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

from loopback_api import Answer, Request, respond


@dataclass
class Fault:
    """What goes wrong with the next ``times`` requests whose ``"METHOD place/path"`` matches ``pattern``."""

    pattern: str
    kind: str
    """``status`` (answer ``code``), ``reset`` (RST), ``drop`` (closed without an answer), ``lost`` (the same, after
    the work was done), ``hang``, ``slow``; and of a file's body ``cut`` (half of it, then closed), ``shorten``
    (half of it, said to be all), ``flip`` (one byte), ``page`` (HTML instead).
    ``moved``: somebody else commits first."""
    times: int
    code: int = 503
    seconds: float = 20.0


@dataclass
class Repo:
    revisions: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    lfs: set[str] = field(default_factory=set)
    token: str | None = None
    """Without it the repository does not exist, or is ``gated``."""
    gated: bool = False
    private: bool = False
    pull_requests: list[str] = field(default_factory=list)

    def commit(self, files: dict[str, bytes], branch: str) -> str:
        stamp = repr((sorted(files.items()), len(self.revisions), branch))
        oid = hashlib.sha1(stamp.encode()).hexdigest()
        self.revisions[oid] = dict(files)
        self.branches[branch] = oid
        return oid


class LoopbackHub:
    """Start it before huggingface_hub is imported and put ``endpoint`` into ``HF_ENDPOINT``."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.repos: dict[str, Repo] = {}
        self.users: dict[str, str] = {}
        """Token to the user who may write below his name."""
        self.objects: dict[str, bytes] = {}
        """Uploaded large files by their sha256."""
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
        return repo.commit(files, branch)

    def files(self, repo_id: str, branch: str = "main") -> dict[str, bytes]:
        """What a branch shows."""
        repo = self.repos[repo_id]
        return repo.revisions[repo.branches[branch]]

    def fault(self, pattern: str, kind: str, times: int = 1, code: int = 503, seconds: float = 20.0) -> None:
        self.faults.append(Fault(pattern, kind, times, code, seconds))

    def reset(self) -> None:
        """Forget repositories, users, faults and the log."""
        for memory in (self.repos, self.users, self.objects, self.requests, self.faults):
            memory.clear()

    def count(self, method: str, place: str = "") -> int:
        return sum(one == method and place in where for one, where, _ in self.requests)

    def take_fault(self, line: str) -> Fault | None:
        with self.lock:
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

    def answer(self) -> None:
        hub = self.server.hub
        place = "cdn" if self.server.is_cdn else "hub"
        headers = {key.lower(): value for key, value in self.headers.items()}
        hub.requests.append((self.command, f"{place}{self.path}", headers))
        fault = hub.take_fault(f"{self.command} {place}{self.path}")
        kind = fault.kind if fault else ""
        body = self.body(headers)
        if kind in ("hang", "slow"):
            time.sleep(fault.seconds)
        if kind in ("reset", "drop"):
            self.hang_up(kind)
            return
        if kind == "moved":
            for repo in hub.repos.values():
                repo.commit({**repo.revisions[repo.branches["main"]], "notes.txt": b"theirs"}, "main")
        if kind == "status":
            answer = Answer(fault.code)
        else:
            with hub.lock:
                answer = respond(hub, Request(self.command, self.path, headers, body, self.server.is_cdn))
        if kind == "lost":
            self.hang_up("drop")
        else:
            self.send(answer, kind)

    do_HEAD = do_GET = do_POST = do_PUT = answer  # noqa: N815

    def body(self, headers: dict[str, str]) -> bytes:
        """The request's body, sent whole or in chunks."""
        if "chunked" not in headers.get("transfer-encoding", ""):
            return self.rfile.read(int(headers.get("content-length", 0)))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def hang_up(self, kind: str) -> None:
        if kind == "reset":  # lingering for zero seconds makes the kernel send RST instead of FIN
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        else:
            self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True

    def send(self, answer: Answer, kind: str) -> None:
        body = answer.body
        if kind == "flip" and body:
            body = bytes([body[0] ^ 1]) + body[1:]
        elif kind == "shorten":
            body = body[: len(body) // 2]
        elif kind == "page":
            body = b"<!DOCTYPE html><html><body>Something went wrong.</body></html>"
        self.send_response(answer.status)
        for key, value in answer.headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if kind == "cut":
            body = body[: len(body) // 2]
            self.close_connection = True
        self.wfile.write(body)
