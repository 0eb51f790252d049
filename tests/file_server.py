"""A web server on this machine that hands out files, and fails as it is told; archives for it to hand out."""

from __future__ import annotations

import io
import re
import socket
import struct
import tarfile
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FileServer:
    """``files`` by path; ``faults`` are used up one a request; ``requests`` are (path, Range header).

    Faults: a number (that status), ``cut`` (half of what is left, then closed), ``reset``, ``stall``, ``html``,
    ``no-range`` (all, whatever was asked for), ``other-range``, ``to:URL`` (redirects there).
    """

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self.faults: list[object] = []
        self.requests: list[tuple[str, str | None]] = []
        self.validators = True
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                outer._answer(self)

            def log_message(self, *args):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, request):
        request.close_connection = True
        path = request.path.partition("?")[0]
        asked = request.headers.get("Range")
        self.requests.append((path, asked))
        fault = self.faults.pop(0) if self.faults else None
        if isinstance(fault, int):
            request.send_error(fault)
        elif isinstance(fault, str) and fault.startswith("to:"):
            request.send_response(302)
            request.send_header("Location", fault[3:])
            request.send_header("Content-Length", "0")
            request.end_headers()
        elif path not in self.files:
            request.send_error(404)
        elif fault == "reset":
            request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            request.connection.close()
        else:
            self._send(request, self.files[path], asked, fault)

    def _send(self, request, data, asked, fault):
        etag = f'"{hash(data) & 0xFFFFFF:x}"'
        start = int(re.match(r"bytes=(\d+)-", asked)[1]) if asked else 0
        condition = request.headers.get("If-Range")
        if fault == "no-range" or (condition and condition != etag):
            start = 0
        if start and start >= len(data):
            request.send_response(416)
            request.send_header("Content-Range", f"bytes */{len(data)}")
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        body = b"<!DOCTYPE html><html>Log in</html>" if fault == "html" else data[start:]
        request.send_response(206 if start else 200)
        if start:
            first = start - 1 if fault == "other-range" else start
            request.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        if self.validators:
            request.send_header("ETag", etag)
        request.send_header("Content-Type", "text/html; charset=utf-8" if fault == "html" else "application/zip")
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        if fault == "stall":
            request.wfile.write(body[:10])
            request.wfile.flush()
            time.sleep(3)
            return
        request.wfile.write(body[: len(body) // 2] if fault == "cut" else body)


def zipped(path, members, **info):
    """A zip file of ``members``, name to content; ``mode`` is the type and mode of each."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = info.get("mode", 0o100644) << 16
            archive.writestr(entry, data)
    return path


def tarred(path, members, mode="w:gz", kind=tarfile.REGTYPE):
    """A tar file of ``members``, name to content; a link among them points at /etc/passwd."""
    with tarfile.open(path, mode) as archive:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.size = kind, len(data) if kind == tarfile.REGTYPE else 0
            entry.linkname = "/etc/passwd"
            archive.addfile(entry, io.BytesIO(data))
    return path
