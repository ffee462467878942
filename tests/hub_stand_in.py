"""A stand-in for the Hugging Face hub: what the client asks for when a model is pulled, on a port.

As the real one does, it answers `/api/models/<repository>/revision/<revision>` with the commit and
the files, serves small files itself, and sends large ones to another host (`localhost` instead of
`127.0.0.1`), where a Range is honoured. It can break connections off, or hold them.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import unquote

LARGE = (".safetensors", ".pt")
_INFO = re.compile(r"/api/models/([^/]+/[^/]+)/revision/([^/?]+)")
_FILE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
_BLOB = re.compile(r"/blobs/(\w+)")


@dataclass(kw_only=True)
class Repository:
    """A repository with one commit, which is also its branch main."""

    files: Mapping[str, bytes]
    commit: str
    card: Mapping[str, Any] = field(default_factory=dict)
    is_gated: bool = False

    def info(self, name: str) -> dict[str, Any]:
        return {
            "id": name,
            "sha": self.commit,
            "cardData": dict(self.card),
            "siblings": [_sibling(name, content) for name, content in self.files.items()],
        }


@dataclass(kw_only=True)
class Asked:
    """A request for a file."""

    name: str
    range: str | None
    authorization: str | None


class HubStandIn:
    """Its repositories may change while it runs.

    Attributes:
        url: What HF_ENDPOINT should be.
        asked: Every request for the content of a file, in order.
        break_off_after: Send so many bytes of the next large file, then close the connection.
        hold_after: The same, but keep the connection open and silent.
        held: Set once a connection is held.
    """

    def __init__(self, repositories: dict[str, Repository]) -> None:
        self.repositories = repositories
        self.asked: list[Asked] = []
        self.break_off_after: int | None = None
        self.hold_after: int | None = None
        self.held = threading.Event()
        self.released = threading.Event()
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def names_asked(self) -> list[str]:
        return [asked.name for asked in self.asked]


@contextmanager
def run_hub(repositories: dict[str, Repository]) -> Generator[HubStandIn]:
    """Serve until the block ends."""
    hub = HubStandIn(repositories)
    handler = type("Handler", (_Handler,), {"hub": hub})
    with ThreadingHTTPServer(("", 0), handler) as server:
        server.daemon_threads = True
        hub.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield hub
        finally:
            hub.released.set()
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: ClassVar[HubStandIn]

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        path = unquote(self.path)
        if match := _INFO.match(path):
            self._info(*match.groups())
        elif match := _FILE.fullmatch(path):
            self._file(*match.groups())
        elif match := _BLOB.fullmatch(path):
            self._blob(match[1])
        else:
            self._refuse(404, "RepoNotFound")

    def _info(self, name: str, revision: str) -> None:
        repository = self.hub.repositories.get(name)
        if repository is None:
            self._refuse(401, "RepoNotFound")
        elif revision not in ("main", repository.commit):
            self._refuse(404, "RevisionNotFound")
        else:
            self._send(json.dumps(repository.info(name)).encode())

    def _file(self, name: str, revision: str, file: str) -> None:
        repository = self.hub.repositories[name]
        if repository.is_gated:
            self._refuse(403, "GatedRepo")
        elif revision != repository.commit or file not in repository.files:
            self._refuse(404, "EntryNotFound")
        elif file.endswith(LARGE):
            self.send_response(302)
            digest = hashlib.sha256(repository.files[file]).hexdigest()
            self.send_header("Location", f"http://localhost:{self.hub.port}/blobs/{digest}")
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            self._note(file)
            self._send(repository.files[file])

    def _blob(self, digest: str) -> None:
        file, content = next(
            (file, content)
            for repository in self.hub.repositories.values()
            for file, content in repository.files.items()
            if hashlib.sha256(content).hexdigest() == digest
        )
        self._note(file)
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        start = int(wanted[1]) if wanted else 0
        break_off, self.hub.break_off_after = self.hub.break_off_after, None
        hold, self.hub.hold_after = self.hub.hold_after, None
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(content) - start))
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        limit = break_off if break_off is not None else hold
        end = len(content) if limit is None else start + limit
        self.wfile.write(content[start:end])
        if hold is not None:
            self.hub.held.set()
            self.hub.released.wait()
        self.close_connection = limit is not None

    def _note(self, file: str) -> None:
        headers = self.headers
        self.hub.asked.append(
            Asked(name=file, range=headers.get("Range"), authorization=headers.get("Authorization"))
        )

    def _send(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()


def _sibling(name: str, content: bytes) -> dict[str, Any]:
    git_object = f"blob {len(content)}\0".encode() + content
    sibling: dict[str, Any] = {
        "rfilename": name,
        "size": len(content),
        "blobId": hashlib.sha1(git_object).hexdigest(),
    }
    if name.endswith(LARGE):
        digest = hashlib.sha256(content).hexdigest()
        sibling["lfs"] = {"sha256": digest, "size": len(content), "pointerSize": 134}
    return sibling
