"""What callers see of batches, and the files that they may fetch."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sqlalchemy.orm import Session

from contract.engine import FileRef
from contract.ids import parse_ulid
from server.batch_files import BatchFiles
from server.db import batches
from server.db.connection import Database
from server.db.models import Batch, BatchFile, BatchFileKind, BatchState
from server.domain.clock import NowMs, now_ms
from server.domain.errors import BatchNotFoundError
from server.domain.pages import Page, cut_page
from server.domain.signing import OutputGrant
from server.files import is_intact
from server.services.links import Download, Links


@dataclass(frozen=True, kw_only=True)
class ShownBatch:
    """A batch, the tokens of its outputs by index, and when it goes."""

    batch: Batch
    tokens: tuple[str, ...]
    expires_at_ms: int | None


class Batches:
    """Shows batches.

    Args:
        results_seconds: How long one is shown after its end.
    """

    def __init__(
        self,
        database: Database,
        files: BatchFiles,
        links: Links,
        *,
        results_seconds: int,
        now: NowMs = now_ms,
    ):
        self._database = database
        self._files = files
        self._links = links
        self._results_ms = 1000 * results_seconds
        self._now = now

    async def get(self, account_id: str, batch_id: str) -> ShownBatch:
        """Return one batch, with new links.

        Raises:
            BatchNotFoundError: It is not there, not any more, or not completed yet.
        """
        batch, num_outputs = await self._database.read(
            _find, account_id, batch_id, ended_after_ms=self._now() - self._results_ms
        )
        return await self._shown(batch, num_outputs)

    async def list(self, account_id: str, *, before_ordinal: int, limit: int) -> Page[ShownBatch]:
        """Return batches, newest first, with new links."""
        rows = await self._database.read(
            _list,
            account_id,
            before_ordinal=before_ordinal,
            ended_after_ms=self._now() - self._results_ms,
            limit=limit + 1,
        )
        page = cut_page(rows, limit=limit, key=lambda row: {"ordinal": row[0].ordinal})
        shown = [await self._shown(batch, num_outputs) for batch, num_outputs in page.rows]
        return Page(rows=tuple(shown), next_key=page.next_key)

    async def open(self, grant: OutputGrant) -> Download:
        """Return what a token leads to; whoever has it needs no key.

        Raises:
            BatchNotFoundError: The batch is gone since, or its file.
        """
        row = await self._database.read(
            _find_output, grant, ended_after_ms=self._now() - self._results_ms
        )
        file = self._files.absolute(row)
        if not await asyncio.to_thread(is_intact, file):
            raise _not_found()
        name = f"{grant.batch_id}-{grant.index}.jsonl"
        return Download(path=Path(file.path), name=name, digest=file.digest)

    async def _shown(self, batch: Batch, num_outputs: int) -> ShownBatch:
        tokens = await self._links.sign(*map(partial(_grant_of, batch), range(num_outputs)))
        ended = batch.ended_at_ms
        return ShownBatch(
            batch=batch,
            tokens=tuple(tokens),
            expires_at_ms=None if ended is None else ended + self._results_ms,
        )


def _grant_of(batch: Batch, index: int) -> Callable[[int], OutputGrant]:
    return lambda expires_at_seconds: OutputGrant(
        batch_id=batch.id,
        index=index,
        account_id=batch.account_id,
        expires_at_seconds=expires_at_seconds,
    )


def _find(
    session: Session, account_id: str, batch_id: str, *, ended_after_ms: int
) -> tuple[Batch, int]:
    parsed = parse_ulid(batch_id)
    batch = parsed and batches.find(session, account_id, parsed)
    if not batch or not _is_shown(batch, ended_after_ms):
        raise _not_found()
    return batch, _num_outputs(session, batch)


def _is_shown(batch: Batch, ended_after_ms: int) -> bool:
    if batch.state in batches.OPEN:
        return True
    return batch.state in batches.ENDED and (batch.ended_at_ms or 0) > ended_after_ms


def _num_outputs(session: Session, batch: Batch) -> int:
    if batch.state != BatchState.COMPLETED:
        return 0
    return len(batches.files_of(session, batch.id, BatchFileKind.OUTPUT))


def _list(
    session: Session, account_id: str, *, before_ordinal: int, ended_after_ms: int, limit: int
) -> list[tuple[Batch, int]]:
    rows = batches.list_newest(
        session,
        account_id,
        before_ordinal=before_ordinal,
        ended_after_ms=ended_after_ms,
        limit=limit,
    )
    return [(batch, _num_outputs(session, batch)) for batch in rows]


def _find_output(session: Session, grant: OutputGrant, *, ended_after_ms: int) -> FileRef:
    batch, _ = _find(session, grant.account_id, grant.batch_id, ended_after_ms=ended_after_ms)
    output = session.get(BatchFile, (batch.id, BatchFileKind.OUTPUT.value, grant.index))
    if output is None:
        raise _not_found()
    return output.file


def _not_found() -> BatchNotFoundError:
    return BatchNotFoundError("There is no such batch. It may be over, or not be completed yet.")
