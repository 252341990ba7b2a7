"""A Hugging Face hub on this machine, complete enough for the real client: repositories, LFS, commits, and bad days.

Large files (`LARGE` bytes and more) are LFS objects behind a redirect, as on the hub; small ones are git blobs. Reading
a gated repository and every writing request need the token `TOKEN`. `script` maps a path to what its next downloads do:
an int N breaks off after N bytes, a pair (status, headers) refuses, bytes are served instead of the content."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

LARGE = 2000
TOKEN = "hf_test_token_of_nobody"
PLACE = r"(?:(?P<kind>datasets|models)/)?(?P<repo>[^/]+/[^/]+)"
API = re.compile(r"/api/(?P<kind>datasets|models)/(?P<repo>[^/]+/[^/]+?)(?:/(?P<verb>[a-z-]+)/(?P<rest>.+))?$")


@dataclass
class Repo:
    """One repository: its files, the commit they are of, and whether it is gated."""

    files: dict[str, bytes] = field(default_factory=dict)
    gated: bool = False
    private: bool = False
    commits: int = 0

    @property
    def sha(self) -> str:
        digest = hashlib.sha1(str(self.commits).encode())
        for name, content in sorted(self.files.items()):
            digest.update(name.encode() + content)
        return digest.hexdigest()


@dataclass
class FakeHub:
    """State of the hub; `asked` lists (method, path, Authorization) of every request."""

    url: str = ""
    storage: str = ""  # where large files lie: another host's name, so the client sends no token there
    repos: dict[str, Repo] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    script: dict[str, list[Any]] = field(default_factory=dict)
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)

    def add(self, name: str, files: dict[str, bytes], kind: str = "models", **facts: Any) -> Repo:
        """Add a repository of the given kind."""
        self.repos[f"{kind}/{name}"] = Repo(dict(files), **facts)
        return self.repos[f"{kind}/{name}"]


def blob(content: bytes) -> str:
    """The git digest of a file."""
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


def described(path: str, content: bytes) -> dict[str, Any]:
    """A file as the hub's API lists it."""
    facts: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": blob(content)}
    if len(content) >= LARGE:
        facts["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
    return facts


class Handler(BaseHTTPRequestHandler):
    """The hub's side of the protocol."""

    protocol_version = "HTTP/1.1"
    hub: FakeHub

    def do_HEAD(self) -> None:
        self.read(head=True)

    def do_GET(self) -> None:
        self.read(head=False)

    def read(self, head: bool) -> None:
        path = self.note()
        if path.startswith("/cdn/"):
            digest, _, name = path.removeprefix("/cdn/").partition("/")
            return self.content(name, self.hub.objects[digest], {"ETag": f'"{digest}"'}, head)
        if path == "/api/whoami-v2":
            return self.json({"name": "someone", "type": "user"}) if self.known() else self.refuse(401)
        if match := API.fullmatch(path):
            return self.api(match["kind"], match["repo"], match["verb"] or "revision", match["rest"] or "main")
        if match := re.fullmatch(rf"/{PLACE}/resolve/(?P<revision>[^/]+)/(?P<file>.+)", path):
            return self.resolve(match["kind"] or "models", match["repo"], match["revision"], match["file"], head)
        self.refuse(404)

    def api(self, kind: str, name: str, verb: str, rest: str) -> None:
        repo = self.repo(kind, name)
        revision, _, folder = rest.partition("/")
        if repo is None or not self.at(repo, revision):
            return
        if verb == "tree":
            prefix = f"{folder}/" if folder else ""
            return self.json([described(*item) for item in repo.files.items() if item[0].startswith(prefix)])
        self.json({"id": name, "sha": repo.sha, "siblings": [{"rfilename": file} for file in repo.files], "tags": []})

    def resolve(self, kind: str, name: str, revision: str, file: str, head: bool) -> None:
        repo = self.repo(kind, name)
        if repo is None or not self.at(repo, revision):
            return
        if file not in repo.files:
            return self.refuse(404, {"X-Error-Code": "EntryNotFound"})
        content = repo.files[file]
        facts = {"X-Repo-Commit": repo.sha, "ETag": f'"{blob(content)}"'}
        if len(content) < LARGE:
            return self.content(file, content, facts, head)
        digest = hashlib.sha256(content).hexdigest()
        self.hub.objects[digest] = content
        linked = {"X-Linked-ETag": f'"{digest}"', "X-Linked-Size": str(len(content))}
        self.answer(302, b"", {**facts, **linked, "Location": f"{self.hub.storage}/cdn/{digest}/{file}"})

    def content(self, name: str, content: bytes, facts: dict[str, str], head: bool) -> None:
        steps = self.hub.script.get(name, [])
        step = None if head else (steps.pop(0) if steps else None)
        if isinstance(step, tuple):
            return self.refuse(*step)
        if isinstance(step, bytes):
            content = step
        start = int((self.headers["Range"] or "bytes=0-").removeprefix("bytes=").partition("-")[0])
        ranged = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"} if start else {}
        self.answer(206 if start else 200, content[start:], {**facts, **ranged, "Accept-Ranges": "bytes"}, step, head)

    def do_POST(self) -> None:
        path = self.note()
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        if path == "/api/validate-yaml":
            return self.json({"warnings": [], "errors": []})
        if match := re.fullmatch(r"/api/(datasets|models)/([^/]+/[^/]+)/paths-info/(.+)", path):
            return self.paths_info(*match.groups(), body)
        if not self.known():
            return self.refuse(401)
        if path == "/api/repos/create":
            return self.create(json.loads(body))
        if match := re.fullmatch(rf"/{PLACE}\.git/info/lfs/objects/batch", path):
            return self.batch(json.loads(body))
        if match := API.fullmatch(path):
            repo = self.repo(match["kind"], match["repo"])
            if repo is not None:
                {"preupload": self.preupload, "commit": self.commit}[match["verb"]](repo, match["repo"], body)

    def paths_info(self, kind: str, name: str, revision: str, body: bytes) -> None:
        repo = self.repo(kind, name)
        if repo is None or not self.at(repo, revision):
            return
        wanted = [unquote(pair.partition("=")[2]) for pair in body.decode().split("&") if pair.startswith("paths=")]
        self.json([described(file, repo.files[file]) for file in wanted if file in repo.files])

    def create(self, order: dict[str, Any]) -> None:
        name = f"{order.get('organization') or 'someone'}/{order['name']}"
        if f"models/{name}" in self.hub.repos:
            known = {"error": "You already created this model repo", "url": f"{self.hub.url}/{name}", "id": name}
            return self.answer(409, json.dumps(known).encode(), {"Content-Type": "application/json"})
        private = order.get("visibility") == "private" or bool(order.get("private"))
        self.hub.add(name, {".gitattributes": b"*.safetensors filter=lfs\n"}, private=private)
        self.json({"url": f"{self.hub.url}/{name}", "name": name, "id": name})

    def preupload(self, repo: Repo, _: str, body: bytes) -> None:
        files = json.loads(body)["files"]
        modes = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["size"] >= LARGE else "regular",
                "shouldIgnore": False,
                "oid": None,
            }
            for file in files
        ]
        self.json({"files": modes})

    def batch(self, order: dict[str, Any]) -> None:
        objects = [
            {**item, "actions": {"upload": {"href": f"{self.hub.url}/lfs/{item['oid']}"}}} for item in order["objects"]
        ]
        self.json({"transfer": "basic", "objects": objects})

    def do_PUT(self) -> None:
        path = self.note()
        length = self.headers["Content-Length"]
        content = self.rfile.read(int(length)) if length else self.chunked()
        self.hub.objects[path.removeprefix("/lfs/")] = content
        self.answer(200, b"", {})

    def chunked(self) -> bytes:
        content = b""
        while size := int(self.rfile.readline(), 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def commit(self, repo: Repo, name: str, body: bytes) -> None:
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                repo.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                repo.files[value["path"]] = self.hub.objects[value["oid"]]
        repo.commits += 1
        self.json({"commitUrl": f"{self.hub.url}/{name}/commit/{repo.sha}", "commitOid": repo.sha})

    def note(self) -> str:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append((self.command, path, self.headers["Authorization"]))
        return path

    def known(self) -> bool:
        return self.headers["Authorization"] == f"Bearer {TOKEN}"

    def repo(self, kind: str, name: str) -> Repo | None:
        found = self.hub.repos.get(f"{kind}/{name}")
        if found is None or (found.private and not self.known()):
            self.refuse(404 if self.known() else 401, {"X-Error-Code": "RepoNotFound"})
            return None
        if found.gated and not self.known():
            self.refuse(403, {"X-Error-Code": "GatedRepo"})
            return None
        return found

    def at(self, repo: Repo, revision: str) -> bool:
        """Tell whether the repository has the revision; answers when not."""
        if revision in ("main", repo.sha):
            return True
        self.refuse(404, {"X-Error-Code": "RevisionNotFound"})
        return False

    def json(self, value: Any) -> None:
        self.answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def refuse(self, status: int, headers: dict[str, str] | None = None) -> None:
        self.answer(status, b"", headers or {})

    def answer(self, status: int, body: bytes, headers: dict[str, str], step: Any = None, head: bool = False) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if not head:
            self.wfile.write(body[:step] if isinstance(step, int) else body)
        self.close_connection = isinstance(step, int)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def running() -> Iterator[FakeHub]:
    """Run a hub until the block ends."""
    hub = FakeHub()
    handler = type("Bound", (Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        hub.url, hub.storage = (f"http://{host}:{server.server_port}" for host in ("127.0.0.1", "localhost"))
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield hub
        server.shutdown()
