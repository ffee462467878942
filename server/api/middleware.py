"""What happens around every request: its path, id, draining, crashes, counting, books, log.

Plain ASGI, so that nothing is buffered.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import MutableMapping
from typing import Any

import structlog
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from ulid import ULID

from contract.ids import parse_ulid
from server.api import problems
from server.domain.caller import calling
from server.domain.errors import CallerLeftError, OverloadedError, StateDamagedError
from server.meters import HTTP_REQUESTS, HTTP_SECONDS, REFUSALS, STATE_DAMAGED, Meters
from server.services.books import Books, Ended

_log = structlog.get_logger("server.access")

_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
_SLASHES = re.compile(r"/{2,}")
_SECRET_PATHS = re.compile(r"^(/v1/files/).+")
NO_ROUTE = "none"
_QUIET_PATHS = ("/healthz", "/readyz", "/metrics")


class RequestContext:
    """The outermost layer."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        max_drain_bytes: int,
        max_drain_seconds: float,
        meters: Meters,
        books: Books,
    ):
        self._app = app
        self._meters = meters
        self._books = books
        self._max_drain_bytes = max_drain_bytes
        self._max_drain_seconds = max_drain_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope["path"] = normal_path(scope["path"])
        state: MutableMapping[str, Any] = scope.setdefault("state", {})
        state["request_id"] = request_id = _request_id(Request(scope))
        exchange = Exchange(state, receive, send, (self._max_drain_bytes, self._max_drain_seconds))
        structlog.contextvars.bind_contextvars(request_id=request_id)
        try:
            with calling():
                await self._app(scope, exchange.receive, exchange.send)
        except ClientDisconnect:  # in the middle of its body: nobody is there to be answered
            state["refusal_code"] = "caller_left"
        except Exception as error:  # the one place that answers for whatever nobody foresaw
            if exchange.status is not None:
                raise
            state["refusal_code"] = "internal_error"
            state["refusal_message"] = "Internal error; the server's log has it."
            answer = problems.crash(error, path=scope["path"], request_id=request_id)
            await answer(scope, exchange.receive, exchange.send)
        finally:
            exchange.count(scope, self._meters)
            exchange.enter(scope, self._books)
            if scope["path"] not in _QUIET_PATHS:
                exchange.log(scope)
            structlog.contextvars.unbind_contextvars("request_id")


class Exchange:
    """One request and its answer, watched from outside."""

    def __init__(
        self,
        state: MutableMapping[str, Any],
        receive: Receive,
        send: Send,
        drain_limits: tuple[int, float],
    ):
        self.status: int | None = None
        self._state = state
        self._receive = receive
        self._send = send
        self._max_drain_bytes, self._max_drain_seconds = drain_limits
        self._is_body_read = False
        self._num_bytes = 0
        self._started = time.monotonic()

    async def receive(self) -> Message:
        """Pass on a message, noting whether the body ended with it."""
        message = await self._receive()
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            self._is_body_read = True
        self._num_bytes += len(message.get("body", b""))
        return message

    async def send(self, message: Message) -> None:
        """Before the answer starts, read what is left of the body; then add our headers."""
        if message["type"] == "http.response.start":
            await self._drain()
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["X-Request-Id"] = self._state["request_id"]
            headers["X-Content-Type-Options"] = "nosniff"
            ignored = self._state.get("ignored_fields")
            if ignored:
                headers["X-Ignored-Fields"] = ", ".join(ignored)
        await self._send(message)

    async def _drain(self) -> None:
        """An answer sent during the upload would close the socket under the caller."""
        try:
            async with asyncio.timeout(self._max_drain_seconds):
                while not self._is_body_read and self._num_bytes < self._max_drain_bytes:
                    await self.receive()
        except TimeoutError:
            _log.warning("body_not_drained", num_bytes=self._num_bytes)

    @property
    def seconds(self) -> float:
        """How long it has taken so far."""
        return time.monotonic() - self._started

    def count(self, scope: Scope, meters: Meters) -> None:
        """Count this request under the pattern of its address, never the address."""
        route = getattr(scope.get("route"), "path", NO_ROUTE)
        status = CallerLeftError.status if self.status is None else self.status
        meters.count(HTTP_REQUESTS, route, str(status))
        code = self._state.get("refusal_code", "")
        if status == OverloadedError.status:
            meters.count(REFUSALS, route, code)
        if code == StateDamagedError.code:
            meters.count(STATE_DAMAGED, route)
        meters.observe(HTTP_SECONDS, self.seconds, route)

    def enter(self, scope: Scope, books: Books) -> None:
        """Enter it into the books of its account, if it has one and was answered."""
        caller = self._state.get("caller")
        if caller is None or self.status in (None, CallerLeftError.status):
            return
        books.ended(
            caller,
            Ended(
                method=scope["method"],
                path=scope["path"],
                request_id=self._state["request_id"],
                status=self.status,
                code=self._state.get("refusal_code", ""),
                message=self._state.get("refusal_message", ""),
                finetune_id=self._finetune_named(scope),
            ),
        )

    def log(self, scope: Scope) -> None:
        """Write the one line about this request."""
        facts: dict[str, Any] = {
            "method": scope["method"],
            "path": _SECRET_PATHS.sub(r"\1...", scope["path"]),
            "status": self.status,
            "duration_ms": round(self.seconds * 1000, 1),
            "body_bytes": self._num_bytes,
        }
        if finetune_id := parse_ulid(self._finetune_named(scope) or ""):
            facts["finetune_id"] = finetune_id
        if "caller" in self._state:
            facts["account_id"] = self._state["caller"].account_id
            facts["key_id"] = self._state["caller"].key_id
        if "refusal_code" in self._state:
            facts["code"] = self._state["refusal_code"]
        _log.info("request", **facts)

    def _finetune_named(self, scope: Scope) -> str | None:
        """What the address or the body names; it need not exist, nor be an id."""
        path_params: dict[str, str] = scope.get("path_params", {})
        in_path = path_params.get("finetune_id") or path_params.get("adapter_id")
        return in_path or self._state.get("finetune_id")


def normal_path(path: str) -> str:
    """Collapse repeated slashes and drop a trailing one: `/v1//query/` is `/v1/query`."""
    return _SLASHES.sub("/", path).rstrip("/") or "/"


def _request_id(request: Request) -> str:
    sent = request.headers.get("x-request-id", "")
    return sent if _REQUEST_ID.fullmatch(sent) else str(ULID())
