"""Keys for tests, and services that call with them."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from server.domain.caller import DEFAULT_ACCOUNT, Limits, Scope
from server.services.container import Services
from server.services.keyring import KeyRing
from server.services.keys import create_key, revoke_key
from tests.service import Service


def services_of(service: Service) -> Services:
    return service.app.state.services


async def make_key(
    service: Service, account: str = DEFAULT_ACCOUNT, scope: Scope = Scope.FULL, **limits: int
) -> str:
    """A new key that the service knows of."""
    services = services_of(service)
    made = await services.database.write(
        create_key, account_id=account, name=f"of {account}", scope=scope, limits=Limits(**limits)
    )
    await services.keys.open()
    return made.key


def ring_by_hand(service: Service, monkeypatch: pytest.MonkeyPatch) -> tuple[KeyRing, list[float]]:
    """The key ring, and its clock: one number, which a test moves."""
    now = [time.monotonic()]
    ring = services_of(service).keys
    monkeypatch.setattr(ring, "_clock", lambda: now[0])
    return ring, now


async def revoke(service: Service, named: str) -> None:
    """Revoke a key, as another process would."""
    await services_of(service).database.write(revoke_key, named)


@asynccontextmanager
async def calling_with(
    service: Service, key: str, *, peer: str = "127.0.0.1"
) -> AsyncIterator[Service]:
    """The same service, called with this key."""
    transport = httpx.ASGITransport(app=service.app, client=(peer, 123))
    headers = {"X-Moondream-Auth": key} if key else {}
    async with httpx.AsyncClient(
        transport=transport, base_url="http://localhost", headers=headers
    ) as http:
        yield dataclasses.replace(service, http=http)


async def flushed(service: Service) -> None:
    """Have written what is counted."""
    await services_of(service).books.flush()


async def rows(service: Service, table: str, columns: str = "*") -> list[tuple[Any, ...]]:
    """What stands in a table."""
    query = text(f"SELECT {columns} FROM {table}")
    found = await services_of(service).database.read(lambda session: session.execute(query).all())
    return sorted((tuple(row) for row in found), key=repr)
