"""All SQL of the table metrics."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from server.db.dialects import by_code_point, insert_into
from server.db.models import Metric


def upsert(
    session: Session, finetune_id: str, *, step: int, values: Mapping[str, float], at_ms: int
) -> None:
    """Write the metrics of a step; a name that was there is replaced."""
    if not values:
        return
    insert = insert_into(session, Metric)
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
    ordered_name = by_code_point(session, Metric.name)
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
