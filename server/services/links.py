"""Links: tokens that open one file for a while, signed with the secret of the database."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from server.db import meta
from server.db.connection import Database
from server.domain.clock import now_seconds
from server.domain.signing import Grant, sign, verify


@dataclass(frozen=True, kw_only=True)
class Download:
    """A file to send, what it is called, and its SHA-256 (hex)."""

    path: Path
    name: str
    digest: str


class Links:
    """Makes tokens and reads them.

    Args:
        seconds: How long each holds.
        clock: Seconds since 1970.
    """

    def __init__(
        self, database: Database, *, seconds: int, clock: Callable[[], float] = now_seconds
    ):
        self.seconds = seconds
        self._database = database
        self._clock = clock

    async def sign(self, *makes: Callable[[int], Grant]) -> list[str]:
        """Return the token of what each of them grants until a second since 1970."""
        if not makes:
            return []
        secret = await self._secret()
        expires_at_seconds = int(self._clock()) + self.seconds
        return [sign(make(expires_at_seconds), secret) for make in makes]

    async def grant(self, token: str) -> Grant:
        """Return what a token grants.

        Raises:
            ForbiddenError: It is forged, damaged or expired.
        """
        return verify(token, await self._secret(), now_seconds=self._clock())

    async def _secret(self) -> bytes:
        secret = await self._database.read(meta.find_signing_secret)
        if secret is None:
            secret = await self._database.write(meta.signing_secret)
        return bytes.fromhex(secret)
