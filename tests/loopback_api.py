"""The routes of the loopback Hub: from a request to an answer, in the words the real client understands."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote

import yaml

NAME = r"(?P<repo>[^/]+/[^/]+?)"


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    is_cdn: bool

    @property
    def plain(self) -> str:
        return self.path.partition("?")[0]

    @property
    def query(self) -> dict[str, list[str]]:
        return parse_qs(self.path.partition("?")[2])

    @property
    def token(self) -> str | None:
        given = self.headers.get("authorization", "")
        return given.removeprefix("Bearer ") if given.startswith("Bearer ") else None

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


class Refused(Exception):
    def __init__(self, status: int, word: str = "", **headers: str):
        super().__init__(status, word)
        more = {"X-Error-Code": word} if word else {}
        self.answer = Answer(status, {**more, **{key.replace("_", "-"): value for key, value in headers.items()}})


def respond(hub, request: Request) -> Answer:
    for method, pattern, route in ROUTES:
        found = re.fullmatch(pattern, request.plain)
        if found and method == request.method:
            try:
                return route(hub, request, **{key: unquote(value) for key, value in found.groupdict().items()})
            except Refused as refused:
                return refused.answer
    return Answer(404)


def said(content: Any, status: int = 200) -> Answer:
    return Answer(status, {"Content-Type": "application/json"}, json.dumps(content).encode())


def git_oid(body: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()


def user_of(hub, request: Request) -> str:
    if request.token not in hub.users:
        raise Refused(401)
    return hub.users[request.token]


def readable(hub, request: Request, repo_id: str) -> Any:
    repo = hub.repos.get(repo_id)
    owner = hub.users.get(request.token) == repo_id.partition("/")[0]
    closed = repo is not None and not request.is_cdn and not owner
    closed = closed and (repo.private or (repo.token is not None and request.token != repo.token))
    if repo is None or (closed and not repo.gated):
        raise Refused(404, "RepoNotFound")
    if closed:
        raise Refused(403, "GatedRepo")
    return repo


def writable(hub, request: Request, repo_id: str) -> Any:
    user = user_of(hub, request)
    repo = readable(hub, request, repo_id)
    if user != repo_id.partition("/")[0]:
        raise Refused(403)
    return repo


def commit_at(repo, revision: str) -> str:
    oid = repo.branches.get(revision, revision)
    if oid not in repo.revisions:
        raise Refused(404, "RevisionNotFound")
    return oid


def whoami(hub, request: Request) -> Answer:
    return said({"type": "user", "name": user_of(hub, request), "orgs": []})


def create_repo(hub, request: Request) -> Answer:
    user, wanted = user_of(hub, request), request.json()
    owner = wanted.get("organization") or user
    if owner != user:
        raise Refused(403)
    repo_id = f"{owner}/{wanted['name']}"
    content = {"url": f"{hub.endpoint}/{repo_id}", "name": repo_id}
    if repo_id in hub.repos:
        return said(content, 409)
    hub.put(repo_id, {".gitattributes": b"*.safetensors filter=lfs\n"}, private=wanted.get("visibility") == "private")
    return said(content)


def create_branch(hub, request: Request, repo: str, branch: str) -> Answer:
    held = writable(hub, request, repo)
    if branch in held.branches:
        raise Refused(409)
    held.branches[branch] = commit_at(held, request.json().get("startingPoint", "main"))
    return said({})


def validate_yaml(hub, request: Request) -> Answer:
    """The Hub's own checks are larger; here the metadata must be YAML, with the fields that it would read."""
    found = re.match(r"\s*---\r?\n(.*?)\n---", request.json()["content"], re.DOTALL)
    errors = []
    try:
        data = yaml.safe_load(found.group(1)) if found else None
    except yaml.YAMLError as error:
        errors.append({"message": f"not YAML: {error}"})
        data = None
    if isinstance(data, dict):
        for key, kind in {"license": str, "pipeline_tag": str, "tags": list, "model-index": list}.items():
            if key in data and not isinstance(data[key], kind):
                errors.append({"message": f'"{key}" must be a {kind.__name__}'})
        for entry in data.get("model-index") or []:
            for result in entry.get("results") or [{}]:
                missing = [key for key in ("task", "dataset", "metrics") if key not in result]
                if missing or "name" not in entry:
                    errors.append({"message": f'"model-index" lacks {missing or "name"}'})
    elif not errors:
        return said({"errors": [], "warnings": [{"message": "empty or missing yaml metadata in repo card"}]})
    return said({"errors": errors, "warnings": []}, 400 if errors else 200)


def preupload(hub, request: Request, repo: str, revision: str) -> Answer:
    held = writable(hub, request, repo)
    files = held.revisions[commit_at(held, revision)]
    answer = []
    for item in request.json()["files"]:
        path = item["path"]
        large = path.endswith((".safetensors", ".bin")) or item["size"] > 10_000_000
        known = files.get(path)
        oid = None if known is None else hashlib.sha256(known).hexdigest() if path in held.lfs else git_oid(known)
        answer.append({"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, "oid": oid})
    return said({"files": answer})


def lfs_batch(hub, request: Request, repo: str) -> Answer:
    writable(hub, request, repo)
    objects = []
    for item in request.json()["objects"]:
        if item["oid"] not in hub.objects:
            verify = f"{hub.endpoint}/{repo}.git/info/lfs/objects/verify"
            upload = f"{hub.cdn}/upload/{item['oid']}?signature=SECRET-SIGNATURE"
            item = {**item, "actions": {"upload": {"href": upload}, "verify": {"href": verify}}}
        objects.append(item)
    return said({"transfer": "basic", "objects": objects})


def lfs_put(hub, request: Request, oid: str) -> Answer:
    if hashlib.sha256(request.body).hexdigest() != oid:
        raise Refused(400)
    hub.objects[oid] = request.body
    return Answer(200)


def lfs_verify(hub, request: Request, repo: str) -> Answer:
    writable(hub, request, repo)
    wanted = request.json()
    if len(hub.objects.get(wanted["oid"], b"")) != wanted["size"]:
        raise Refused(422)
    return said({})


def commit(hub, request: Request, repo: str, revision: str) -> Answer:
    held = writable(hub, request, repo)
    lines = [json.loads(line) for line in request.body.splitlines() if line]
    base = commit_at(held, revision)
    header = lines[0]["value"]
    proposed = bool(request.query.get("create_pr"))
    if header.get("parentCommit") not in (None, base) and not proposed:
        raise Refused(412)
    files = dict(held.revisions[base])
    for line in lines[1:]:
        value = line["value"]
        if line["key"] == "file":
            files[value["path"]] = base64.b64decode(value["content"])
            held.lfs.discard(value["path"])
        elif line["key"] == "lfsFile":
            if value["oid"] not in hub.objects:
                raise Refused(400)
            files[value["path"]] = hub.objects[value["oid"]]
            held.lfs.add(value["path"])
        elif line["key"] == "deletedFile":
            del files[value["path"]]
    url = None
    if proposed:
        held.pull_requests.append(header["summary"])
        revision = f"refs/pr/{len(held.pull_requests)}"
        url = f"{hub.endpoint}/{repo}/discussions/{len(held.pull_requests)}"
    oid = held.commit(files, revision)
    return said({"commitUrl": f"{hub.endpoint}/{repo}/commit/{oid}", "commitOid": oid, "pullRequestUrl": url})


def model_info(hub, request: Request, repo: str, revision: str = "main") -> Answer:
    held = readable(hub, request, repo)
    oid = commit_at(held, revision)
    siblings = [{"rfilename": name} for name in held.revisions[oid]]
    return said({"id": repo, "modelId": repo, "sha": oid, "private": held.private, "siblings": siblings, "tags": []})


def tree(hub, request: Request, repo: str, revision: str) -> Answer:
    held = readable(hub, request, repo)
    entries = []
    for path, body in held.revisions[commit_at(held, revision)].items():
        entry: dict[str, Any] = {"type": "file", "path": path, "size": len(body), "oid": git_oid(body)}
        if path in held.lfs:
            entry["lfs"] = {"oid": hashlib.sha256(body).hexdigest(), "size": len(body), "pointerSize": 130}
        entries.append(entry)
    return said(entries)


def resolve(hub, request: Request, repo: str, revision: str, name: str) -> Answer:
    held = readable(hub, request, repo)
    oid = commit_at(held, revision)
    body = held.revisions[oid].get(name)
    if body is None:
        raise Refused(404, "EntryNotFound", X_Repo_Commit=oid)
    headers = {"X-Repo-Commit": oid, "ETag": f'"{git_oid(body)}"', "Accept-Ranges": "bytes"}
    if name in held.lfs and not request.is_cdn:
        headers |= {
            "X-Linked-ETag": f'"{hashlib.sha256(body).hexdigest()}"',
            "X-Linked-Size": str(len(body)),
            "Location": f"{hub.cdn}{request.path}?signature=SECRET-SIGNATURE",
        }
        return Answer(302, headers)
    if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", "")):
        start = int(wanted[1])
        if start >= len(body):
            return Answer(416, {"Content-Range": f"bytes */{len(body)}"})
        end = min(int(wanted[2] or len(body) - 1), len(body) - 1)
        headers["Content-Range"] = f"bytes {start}-{end}/{len(body)}"
        return Answer(206, headers, body[start : end + 1])
    return Answer(200, headers, body)


RESOLVE = rf"/{NAME}/resolve/(?P<revision>[^/]+)/(?P<name>.+)"
MODEL = rf"/api/models/{NAME}"
ROUTES = (
    ("HEAD", RESOLVE, resolve),
    ("GET", RESOLVE, resolve),
    ("GET", "/api/whoami-v2", whoami),
    ("POST", "/api/repos/create", create_repo),
    ("POST", "/api/validate-yaml", validate_yaml),
    ("POST", rf"{MODEL}/branch/(?P<branch>[^/]+)", create_branch),
    ("POST", rf"{MODEL}/preupload/(?P<revision>[^/]+)", preupload),
    ("POST", rf"{MODEL}/commit/(?P<revision>[^/]+)", commit),
    ("GET", MODEL, model_info),
    ("GET", rf"{MODEL}/revision/(?P<revision>[^/]+)", model_info),
    ("GET", rf"{MODEL}/tree/(?P<revision>[^/]+)", tree),
    ("POST", rf"/{NAME}\.git/info/lfs/objects/batch", lfs_batch),
    ("POST", rf"/{NAME}\.git/info/lfs/objects/verify", lfs_verify),
    ("PUT", r"/upload/(?P<oid>[0-9a-f]{64})", lfs_put),
)
