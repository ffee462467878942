"""Metrics: what callers log, beside the server's own numbers of each step."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy.orm import Session

from contract import faults
from server.db import metrics
from server.db.connection import Database
from server.db.models import Metric
from server.domain.clock import now_ms
from server.domain.pages import Page, cut_page
from server.services.adapters import living_finetune


class Metrics:
    """The metrics of a finetune."""

    def __init__(self, database: Database):
        self._database = database

    async def log_metrics(
        self, account_id: str, finetune_id: str, *, step: int, values: Mapping[str, float]
    ) -> None:
        """Write metrics of a step; a name logged before is replaced."""
        await self._database.write(_log, account_id, finetune_id, step=step, values=values)

    async def list(
        self,
        account_id: str,
        finetune_id: str,
        *,
        name: str | None,
        from_step: int | None,
        after: tuple[int, str] | None,
        limit: int,
    ) -> Page[Metric]:
        """Return metrics by step and name."""
        rows = await self._database.read(
            _list,
            account_id,
            finetune_id,
            name=name,
            from_step=from_step,
            after=after,
            limit=limit + 1,
        )
        return cut_page(rows, limit=limit, key=lambda row: {"step": row.step, "name": row.name})


def _log(
    session: Session, account_id: str, finetune_id: str, *, step: int, values: Mapping[str, float]
) -> None:
    finetune = living_finetune(session, account_id, finetune_id)
    metrics.upsert(session, finetune.id, step=step, values=values, at_ms=now_ms())
    faults.point("metrics.log")


def _list(
    session: Session,
    account_id: str,
    finetune_id: str,
    *,
    name: str | None,
    from_step: int | None,
    after: tuple[int, str] | None,
    limit: int,
) -> list[Metric]:
    finetune = living_finetune(session, account_id, finetune_id)
    return metrics.list_by_step(
        session, finetune.id, name=name, from_step=from_step, after=after, limit=limit
    )
