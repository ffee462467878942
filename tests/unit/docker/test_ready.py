"""docker/ready.py, the health check, against a stand-in for the service."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "docker" / "ready.py"


class StandIn(BaseHTTPRequestHandler):
    status = 200
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(b"the model is being loaded")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    StandIn.asked = []
    server = HTTPServer(("127.0.0.1", 0), StandIn)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


def check(port: int) -> subprocess.CompletedProcess[str]:
    """Run it as the image does; a proxy is set that would answer nothing."""
    environment = {"MOONTUNE_PORT": str(port), "http_proxy": "http://127.0.0.1:9"}
    return subprocess.run(
        [sys.executable, "-I", str(SCRIPT)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_it_succeeds_while_the_service_is_ready(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StandIn, "status", 200)
    assert check(port).returncode == 0
    assert StandIn.asked == ["/readyz"]


def test_it_fails_with_the_reason_while_it_is_not(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StandIn, "status", 503)
    ended = check(port)
    assert ended.returncode == 1
    assert "503: the model is being loaded" in ended.stderr


def test_it_fails_where_nobody_listens(port: int) -> None:
    with HTTPServer(("127.0.0.1", 0), StandIn) as server:
        free = server.server_address[1]
    ended = check(free)
    assert ended.returncode == 1
    assert "refused" in ended.stderr
