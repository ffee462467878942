"""nginx and HAProxy in front of a server, with the files of deploy/ as they are handed out.

Only the listening port, the certificate and the server's address are put in. They run as children
of ours, on unprivileged ports of the loopback, and know no file outside their folder.
"""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from server.children import CODE_ROOT
from tests.chaos.waiting import until

DEPLOY = CODE_ROOT / "deploy"

MAX_STARTS = 5
"""Of which all but the last may find that somebody took the port that was free."""

NGINX_MAIN = """
{user}
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log info;
events {{ worker_connections 1024; }}
http {{
    access_log {folder}/access.log;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/site.conf;
}}
"""
HAPROXY_MAIN = """
global
    maxconn 1024
    log stderr format raw local0
"""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One of the two.

    Attributes:
        places: What is put in, by what stands in its file for it. `{port}`, `{upstream}` and
            `{folder}` are filled in.
    """

    name: str
    file: Path
    places: Mapping[str, str]

    @property
    def program(self) -> str | None:
        """Where it is installed; Debian keeps it from the PATH of users."""
        return shutil.which(self.name) or shutil.which(self.name, path="/usr/sbin:/usr/local/sbin")

    @property
    def text(self) -> str:
        return self.file.read_text()

    def version(self) -> str:
        """Such as `1.22.1`."""
        assert self.program is not None
        told = subprocess.run(
            [self.program, "-v"], capture_output=True, text=True, check=True
        )  # fmt: skip
        words = (told.stdout + told.stderr).split()
        return words[2].rpartition("/")[2]


NGINX = Kind(
    name="nginx",
    file=DEPLOY / "nginx.conf",
    places={
        "listen 443 ssl": "listen 127.0.0.1:{port} ssl",
        "server 127.0.0.1:8000;": "server 127.0.0.1:{upstream};",
        "/etc/ssl/certs/tune.example.pem": "{folder}/certificate.pem",
        "/etc/ssl/private/tune.example.key": "{folder}/key.pem",
    },
)
HAPROXY = Kind(
    name="haproxy",
    file=DEPLOY / "haproxy.cfg",
    places={
        "bind :443 ssl": "bind 127.0.0.1:{port} ssl",
        "server moontune 127.0.0.1:8000": "server moontune 127.0.0.1:{upstream}",
        "/etc/haproxy/certs/tune.example.pem": "{folder}/both.pem",
    },
)
KINDS = (NGINX, HAPROXY)


class Certificate:
    """One that signs itself, for `localhost` and the loopback; clients trust `path`."""

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self.path, self.key_path = folder / "certificate.pem", folder / "key.pem"
        words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
        words += " -subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1"
        subprocess.run(
            ["openssl", *words.split(), "-keyout", self.key_path, "-out", self.path],
            capture_output=True,
            check=True,
        )

    def context(self) -> ssl.SSLContext:
        """For a client that trusts nothing else."""
        return ssl.create_default_context(cafile=str(self.path))


class ReverseProxy:
    """One of them at work; a context manager. Each start is at a free port of its own.

    Args:
        changes: Of the text of its file, besides what is put in anyway; to measure what a line
            does.
    """

    def __init__(
        self,
        kind: Kind,
        folder: Path,
        upstream: int,
        certificate: Certificate,
        changes: Mapping[str, str] | None = None,
    ):
        self.kind = kind
        self.folder = folder
        folder.mkdir(parents=True)
        self.port = 0
        self._upstream = upstream
        self._places = {**(changes or {}), **kind.places}
        self._certificate = certificate
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"

    def command(self) -> list[str]:
        """Choose a port, and write what it reads; return how it is run."""
        assert self.kind.program is not None, f"{self.kind.name} is not installed"
        self.port = _free_port()
        values = {"port": self.port, "upstream": self._upstream, "folder": self.folder}
        text = self.kind.text
        for place, value in self._places.items():
            assert place in self.kind.text, f"{self.kind.file.name} has no {place!r}"
            text = text.replace(place, value.format(**values))
        certificate, key = (
            self._certificate.path.read_text(),
            self._certificate.key_path.read_text(),
        )
        if self.kind is NGINX:
            (self.folder / "certificate.pem").write_text(certificate)
            (self.folder / "key.pem").write_text(key)
            (self.folder / "site.conf").write_text(text)
            main = self.folder / "main.conf"
            user = "user root;" if os.geteuid() == 0 else ""  # who else could not enter the folder
            main.write_text(NGINX_MAIN.format(folder=self.folder, user=user))
            return [self.kind.program, "-p", str(self.folder), "-c", str(main)]
        (self.folder / "both.pem").write_text(certificate + key)
        main = self.folder / "main.cfg"
        main.write_text(HAPROXY_MAIN + text)
        return [self.kind.program, "-db", "-f", str(main)]

    @property
    def log_path(self) -> Path:
        return self.folder / "stderr.log"

    def __enter__(self) -> Self:
        for _ in range(MAX_STARTS):
            with self.log_path.open("wb") as log:
                self._process = subprocess.Popen(self.command(), stdout=log, stderr=log)
            try:
                until(
                    lambda: self._has_ended or self._answers(),
                    f"{self.kind.name} listens, see {self.log_path}",
                    seconds=20.0,
                )
            except BaseException:
                self.close()
                raise
            if not self._has_ended:
                return self
        raise AssertionError(f"ended at each of {MAX_STARTS} starts: {self.log_path.read_text()}")

    @property
    def _has_ended(self) -> bool:
        assert self._process is not None
        return self._process.poll() is not None

    def _answers(self) -> bool:
        """Whether who listens has the certificate: another one's listener has not."""
        with (
            suppress(OSError),
            socket.create_connection(("127.0.0.1", self.port), timeout=1.0) as connection,
            self._certificate.context().wrap_socket(connection, server_hostname="localhost"),
        ):
            return True
        return False

    def close(self) -> None:
        """End it."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(20.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
