"""A server that runs: where it is, and calls to it, for the verbs that need one.

Standard library only. Calls to this machine never go through a proxy of the environment.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Generator
from typing import Any, cast
from urllib.parse import urlsplit

from server.config import ServerConfig, is_loopback_host
from server.data_lock import find_holder

CALL_SECONDS = 30.0
_MAX_ERROR_BYTES = 64 << 10
_PAGE = 100


class CallError(Exception):
    """A call was refused or found nobody; the message is a sentence for people.

    Attributes:
        status: Of the answer; None where none came.
        body: What the answer said, if that was an object of JSON.
    """

    def __init__(
        self, sentence: str, *, status: int | None = None, body: dict[str, Any] | None = None
    ):
        super().__init__(sentence)
        self.status = status
        self.body = body or {}


def find_url(config: ServerConfig) -> str:
    """Where the server of a data directory answers.

    Raises:
        CallError: None runs there, or not on this machine, or it has no address yet.
    """
    holder = find_holder(config.data_dir)
    if holder is None:
        raise CallError(
            f"No server runs on {config.data_dir}; start one by `moontune serve --data-dir"
            f" {config.data_dir}`, or name another with --data-dir or --url."
        )
    if holder.url is None:
        raise CallError(
            f"{config.data_dir} is in use by process {holder.pid or 'that is just starting'}, which"
            " answers no calls; wait for its end, or name a server with --url."
        )
    if not holder.is_here:
        raise CallError(
            f"The server of {config.data_dir} runs on {holder.host}; name its address with --url."
        )
    return holder.url


class Caller:
    """Calls to one server.

    Args:
        url: Such as `http://127.0.0.1:8000`.
        key: Sent with each call; None: none.
        seconds: How long silence is waited through.
    """

    def __init__(self, url: str, *, key: str | None = None, seconds: float = CALL_SECONDS):
        self.url = url.rstrip("/")
        self._headers = {} if key is None else {"X-Moondream-Auth": key}
        self._seconds = seconds
        is_here = is_loopback_host(urlsplit(url).hostname or "")
        proxies = [urllib.request.ProxyHandler({})] if is_here else []
        self._opener = urllib.request.build_opener(*proxies)

    def call(self, path: str, *, method: str = "GET", body: bytes | None = None) -> dict[str, Any]:
        """Return the object that answers a call.

        Raises:
            CallError: It was refused, nobody answered, or the answer is no object of JSON.
        """
        text = self.text(path, method=method, body=body)
        try:
            found: Any = json.loads(text)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise CallError(f"{self.url} answers as no moontune does; is the address right?")
        return cast("dict[str, Any]", found)

    def text(self, path: str, *, method: str = "GET", body: bytes | None = None) -> str:
        """Return the text that answers a call.

        Raises:
            CallError: It was refused, or nobody answered.
        """
        try:
            request = urllib.request.Request(
                self.url + path, data=body, method=method, headers=self._headers
            )
            with self._opener.open(request, timeout=self._seconds) as answer:
                return answer.read().decode(errors="replace")
        except urllib.error.HTTPError as error:
            with error:
                raise self._refused(error) from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            raise CallError(f"Nobody answers at {self.url}: {reason}.") from None

    def pages(self, path: str, name: str) -> Generator[dict[str, Any]]:
        """Give the entries of a list, page by page.

        Raises:
            CallError: As `call`.
        """
        cursor = ""
        while True:
            page = self.call(f"{path}?limit={_PAGE}{cursor}")
            yield from page[name]
            if not page.get("has_more"):
                return
            cursor = f"&cursor={page['next_cursor']}"

    def _refused(self, error: urllib.error.HTTPError) -> CallError:
        try:
            body: Any = json.loads(error.read(_MAX_ERROR_BYTES))
        except (OSError, ValueError):
            body = None
        facts = cast("dict[str, Any]", body) if isinstance(body, dict) else {}
        sentence = str(facts.get("message") or f"{self.url} answers {error.code} {error.reason}.")
        return CallError(sentence, status=error.code, body=facts)
