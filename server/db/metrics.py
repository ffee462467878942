"""All SQL of the table metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import or_, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from server.db.models import Metric

_BY_CODE_POINT = {"sqlite": "BINARY", "postgresql": "C"}
"""Names are ordered the same way on every database, whatever its language."""

_INSERTS: dict[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}


def upsert(
    session: Session, finetune_id: str, *, step: int, values: Mapping[str, float], at_ms: int
) -> None:
    """Write the metrics of a step; a name that was there is replaced."""
    if not values:
        return
    insert = _INSERTS[session.get_bind().dialect.name](Metric)
    statement = insert.on_conflict_do_update(
        index_elements=[Metric.finetune_id, Metric.step, Metric.name],
        set_={"value": insert.excluded.value, "logged_at_ms": insert.excluded.logged_at_ms},
    )
    rows = [
        {
            "finetune_id": finetune_id,
            "step": step,
            "name": name,
            "value": value,
            "logged_at_ms": at_ms,
        }
        for name, value in values.items()
    ]
    session.execute(statement, rows)


def list_by_step(
    session: Session,
    finetune_id: str,
    *,
    name: str | None,
    from_step: int | None,
    after: tuple[int, str] | None,
    limit: int,
) -> list[Metric]:
    """Return metrics by step and name."""
    query = select(Metric).where(Metric.finetune_id == finetune_id)
    ordered_name = Metric.name.collate(_BY_CODE_POINT[session.get_bind().dialect.name])
    if name is not None:
        query = query.where(Metric.name == name)
    if from_step is not None:
        query = query.where(Metric.step >= from_step)
    if after is not None:
        step, last_name = after
        query = query.where(
            or_(Metric.step > step, (Metric.step == step) & (ordered_name > last_name))
        )
    return list(session.scalars(query.order_by(Metric.step, ordered_name).limit(limit)))
