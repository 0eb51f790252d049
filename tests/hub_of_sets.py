"""What the loopback Hub needs beside, to answer for data sets: put them under ``datasets/user/name``."""

from __future__ import annotations

import json

import loopback_api as api

SET = r"(?P<repo>datasets/[^/]+/[^/]+)"
REVISION = r"(?P<revision>[^/]+)"


def folder(hub, request, repo, revision, place):
    """One level of the tree."""
    inside = f"{place.strip('/')}/".lstrip("/")
    found = {}
    for entry in json.loads(api.tree(hub, request, repo, revision).body):
        if entry["path"].startswith(inside):
            top, slash, _ = entry["path"].removeprefix(inside).partition("/")
            is_folder = {"type": "directory", "path": inside + top, "oid": "0" * 40, "size": 0}
            found[top] = is_folder if slash else entry
    if not found:
        raise api.Refused(404, "EntryNotFound")
    return api.said(list(found.values()))


ROUTES = (
    *((method, rf"/{SET}/resolve/{REVISION}/(?P<name>.+)", api.resolve) for method in ("HEAD", "GET")),
    ("GET", rf"/api/{SET}", api.model_info),
    ("GET", rf"/api/{SET}/revision/{REVISION}", api.model_info),
    ("GET", rf"/api/{SET}/tree/{REVISION}(?P<place>.*)", folder),
    *api.ROUTES,
)
