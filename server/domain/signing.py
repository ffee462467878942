"""Tokens that open one file for a while, to whoever has them.

A token is base64url(JSON) "." base64url(HMAC-SHA256). Whoever changes a byte of it has nothing.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from dataclasses import asdict, dataclass
from typing import Any

from server.domain.errors import ForbiddenError


@dataclass(frozen=True, kw_only=True)
class FileGrant:
    """What a token grants: the exchange file of a checkpoint, until a second since 1970.

    `kind` keeps the tokens of different files apart.
    """

    checkpoint_id: str
    account_id: str
    expires_at_seconds: int
    kind: str = "checkpoint"


@dataclass(frozen=True, kw_only=True)
class OutputGrant:
    """The same for a file of a batch's results."""

    batch_id: str
    index: int
    account_id: str
    expires_at_seconds: int
    kind: str = "batch"


Grant = FileGrant | OutputGrant

_KINDS: dict[Any, type[Grant]] = {grant.kind: grant for grant in (FileGrant, OutputGrant)}


def sign(grant: Grant, secret: bytes) -> str:
    """The token of a grant."""
    payload = json.dumps(asdict(grant), separators=(",", ":")).encode()
    return f"{_encode(payload)}.{_encode(_mac(payload, secret))}"


def verify(token: str, secret: bytes, *, now_seconds: float) -> Grant:
    """The grant of a token.

    Raises:
        ForbiddenError: It is forged, damaged or expired.
    """
    encoded, _, mac = token.partition(".")
    try:
        payload = _decode(encoded)
        if not hmac.compare_digest(_decode(mac), _mac(payload, secret)):
            raise ForbiddenError("This download link is not one of this server; ask for a new one.")
    except (binascii.Error, ValueError) as error:
        raise ForbiddenError("This download link is damaged; ask for a new one.") from error
    try:
        facts: dict[str, Any] = json.loads(payload)
        grant = _KINDS[facts["kind"]](**facts)
    except (TypeError, KeyError) as error:  # signed by another release
        raise ForbiddenError("This download link is of another kind; ask for a new one.") from error
    if grant.expires_at_seconds <= now_seconds:
        raise ForbiddenError("This download link has expired; ask for a new one.")
    return grant


def _mac(payload: bytes, secret: bytes) -> bytes:
    return hmac.digest(secret, payload, hashlib.sha256)


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    if _encode(data) != text:
        raise ValueError("more than one spelling")
    return data
