"""Batches over HTTP, which the SDK does not know: uploaded, completed, read; asked until answered.

Every call here may be made again: a part replaces itself, and a batch that is complete stays so.
"""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.chaos.service import Service
from tests.chaos.waiting import until

AWAY_SECONDS = 60.0
PAUSE_SECONDS = 0.05
ENDED = ("completed", "failed")


@dataclass(frozen=True, kw_only=True)
class Upload:
    """An upload that was begun.

    Attributes:
        path: Of the batch that it becomes.
    """

    path: str
    upload_id: str

    @property
    def batch_id(self) -> str:
        return self.path.rpartition("/")[2]


def begin(service: Service) -> Upload:
    made = ask(service, "POST", "/v1/batch?action=mpu-create")
    return Upload(path=f"/v1/batch/{made['fileId']}", upload_id=made["uploadId"])


def put(service: Service, upload: Upload, number: int, content: bytes) -> dict[str, Any]:
    """Upload a part; what is answered belongs into the list that completes it."""
    action = f"action=mpu-uploadpart&uploadId={upload.upload_id}&partNumber={number}"
    return ask(service, "PUT", f"{upload.path}?{action}", content)


def complete(service: Service, upload: Upload, parts: Sequence[dict[str, Any]]) -> None:
    action = f"action=mpu-complete&uploadId={upload.upload_id}"
    ask(service, "POST", f"{upload.path}?{action}", json.dumps({"parts": parts}).encode())


def abort(service: Service, upload: Upload) -> None:
    action = f"action=mpu-abort&uploadId={upload.upload_id}"
    ask(service, "DELETE", f"{upload.path}?{action}")


def submit(service: Service, contents: Sequence[bytes], upload: Upload | None = None) -> str:
    """Upload a batch in parts, and return its path."""
    upload = upload or begin(service)
    parts = [put(service, upload, number, part) for number, part in enumerate(contents, 1)]
    complete(service, upload, parts)
    return upload.path


def until_ended(service: Service, path: str, *, seconds: float) -> dict[str, Any]:
    def shown_if_ended() -> dict[str, Any] | None:
        shown = ask(service, "GET", path)
        return shown if shown["status"] in ENDED else None

    return until(shown_if_ended, "the batch has ended", seconds=seconds)


def results(shown: dict[str, Any]) -> list[dict[str, Any]]:
    """The lines of all outputs of a batch that is completed."""
    rows: list[dict[str, Any]] = []
    for output in shown["outputs"]:
        rows += map(json.loads, _until_answered("GET", output["url"], None).splitlines())
    return rows


def ask(service: Service, method: str, path: str, content: bytes | None = None) -> Any:
    """Make a call until it is answered with 200.

    Raises:
        HTTPError: It was refused for good.
    """
    return json.loads(_until_answered(method, f"{service.url}{path}", content))


def _until_answered(method: str, url: str, content: bytes | None) -> bytes:
    """Ask again while nobody is there, the answer breaks off, or it says to come again."""
    end = time.monotonic() + AWAY_SECONDS
    while True:
        request = urllib.request.Request(url, content, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60.0) as answer:
                return answer.read()
        except urllib.error.HTTPError as error:
            error.said = error.read(2000).decode(errors="replace")  # pyright: ignore
            if error.code != 503 or time.monotonic() > end:
                raise
        except (OSError, http.client.HTTPException):
            if time.monotonic() > end:
                raise
        time.sleep(PAUSE_SECONDS)
