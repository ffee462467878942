"""A unit of work whose caller is cancelled has ended before the caller goes on."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress

import pytest
from sqlalchemy.orm import Session

from server.db.connection import Database
from server.db.models import Meta

pytestmark = pytest.mark.anyio


async def test_a_cancelled_write_is_over_when_its_caller_is_told(database: Database) -> None:
    begun, may_end = threading.Event(), threading.Event()

    def slowly(session: Session) -> None:
        begun.set()
        may_end.wait(10)
        session.add(Meta(key="slow", value="done"))

    writing = asyncio.create_task(database.write(slowly))
    await asyncio.to_thread(begun.wait, 10)
    writing.cancel()
    await asyncio.sleep(0.01)
    assert not writing.done()
    may_end.set()
    with suppress(asyncio.CancelledError):
        await writing
    assert writing.cancelled()
    found = await database.read(lambda session: session.get(Meta, "slow"))
    assert found is not None
    assert found.value == "done"
