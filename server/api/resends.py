"""What a request says about being a resend: its key, its proxy, and the fate of its answer."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Depends, Request
from starlette.background import BackgroundTask
from starlette.responses import Response

from server.api.deps import Account, ConfigDep
from server.api.own_url import is_from_trusted_proxy
from server.domain.delivery import Delivery, Fate
from server.domain.errors import ValidationFailedError
from server.http.protocol import DELIVERY
from server.services.keyed import KeyedCall, KeyedCalls

_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_FORWARDING_HEADERS = ("via", "forwarded")
_NO_BODY = hashlib.sha256(b"").hexdigest()


def delivery_of(request: Request, config: ConfigDep) -> Delivery:
    """The connection that carries the answer to this request."""
    delivery: Delivery = request.scope.get("extensions", {}).get(DELIVERY) or Delivery()
    delivery.through_proxy = is_from_trusted_proxy(request, config) or any(
        name in _FORWARDING_HEADERS or name.startswith("x-forwarded-") for name in request.headers
    )
    return delivery


DeliveryDep = Annotated[Delivery, Depends(delivery_of)]


def watched_answer(
    request: Request, body: bytes, delivery: Delivery, *, is_replayed: bool
) -> Response:
    """An answer whose fate matters; under a server that does not watch, the last byte counts."""
    is_watched = DELIVERY in request.scope.get("extensions", {})

    async def handed_over() -> None:
        delivery.settle(Fate.TAKEN)

    answer = stored_answer(body, is_replayed=is_replayed)
    answer.background = None if is_watched else BackgroundTask(handed_over)
    return answer


def stored_answer(body: bytes, *, is_replayed: bool) -> Response:
    """Bytes of an answer, marked if they were written for an earlier call."""
    headers = {"Idempotent-Replayed": "true"} if is_replayed else None
    return Response(body, media_type="application/json", headers=headers)


def keyed_call(
    request: Request,
    account: Account,
    path: str,
    *,
    fingerprint: str = _NO_BODY,
    field: str | None = None,
) -> KeyedCall | None:
    """The call with its explicit key, from the header or a field of the body; None without one.

    Args:
        path: What the key belongs to: the address, with the id as we write it.

    Raises:
        ValidationFailedError: The key is not 1-255 visible ASCII characters.
    """
    key = request.headers.get("idempotency-key", field)
    if key is None:
        return None
    if not _KEY.fullmatch(key):
        raise ValidationFailedError(
            "An idempotency key has 1-255 visible ASCII characters, without spaces.",
            loc=("body", "idempotency_key"),
        )
    return KeyedCall(account_id=account, path=path, key=key, fingerprint=fingerprint)


async def answer_once(
    calls: KeyedCalls, keyed: KeyedCall | None, work: Callable[[], Awaitable[bytes]]
) -> Response:
    """The answer that `work` makes; with a key it is made once, and stored by `work`."""
    if keyed is None:
        return stored_answer(await work(), is_replayed=False)
    answer = await calls.once(keyed, work)
    return stored_answer(answer.body, is_replayed=answer.is_replayed)
